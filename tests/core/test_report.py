from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from accel.errors import UsageError
from accel.machine import Environment
from accel.report import Estimate, Fidelity, Metric, Noise, Report, Row, Verdict, read, schema


def report(**fields: Any) -> Report:
    here = Environment(platform="Linux", python="3.11", cpu="x", isa_flags=[], cores=1, memory_bytes=1, libraries={})
    content: dict[str, Any] = {
        "accel_version": "0.1.0",
        "name": "digits",
        "created": "2026-01-01T00:00:00Z",
        "seed": 0,
        "recipe_sha256": "0" * 64,
        "verdict": Verdict(text="nothing was measured"),
        "environment": here,
        "rows": [
            Row(
                name="int8",
                role="result",
                backend="openvino",
                metrics=[Metric(name="top1", value=0.5, n=10, difference=Estimate(value=-0.1, low=-0.2, high=0.0))],
                fidelity=Fidelity(vs="eager", top1_agreement=None, sqnr_db=None, max_abs_difference=0.0),
            )
        ],
    }
    return Report(**(content | fields))


def test_is_read_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(report().json_text(), encoding="utf-8")
    assert read(tmp_path / "report.json") == report()


def test_a_report_from_before_gpus_were_told_is_read(tmp_path: Path) -> None:
    document = json.loads(report().json_text())
    del document["environment"]["gpus"]
    (tmp_path / "report.json").write_text(json.dumps(document), encoding="utf-8")
    assert read(tmp_path / "report.json").environment.gpus == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "build",
    [
        lambda value: Estimate(value=value),
        lambda value: Estimate(value=0.0, low=value),
        lambda value: Metric(name="top1", value=value, n=1),
        lambda value: Fidelity(vs="eager", top1_agreement=None, sqnr_db=value, max_abs_difference=0.0),
        lambda value: Noise(row="x", ratio=Estimate(value=value), verdict="quiet"),
        lambda value: Row(name="x", role="result", backend="eager", compile_s=value),
    ],
)
def test_typed_figures_cannot_be_nan(build: Any, value: float) -> None:
    with pytest.raises(ValidationError):
        build(value)


@given(
    st.recursive(st.floats() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(max_size=5), inner) | st.lists(inner))
)
@settings(max_examples=60, deadline=None)
def test_no_nan_literal_is_ever_written(value: Any) -> None:
    text = report(method={"free": value}).json_text()
    json.loads(text, parse_constant=pytest.fail)


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_nan_literals_are_not_read_either(tmp_path: Path, literal: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(report(method={"a": 123456}).json_text().replace("123456", literal))
    with pytest.raises(UsageError, match="not a report"):
        read(path)


def test_follows_its_schema() -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    document = json.loads(report().json_text())
    assert validator.is_valid(document)
    assert not validator.is_valid(document | {"schema_version": 3})
    assert not validator.is_valid(document | {"extra": 1})
    assert not validator.is_valid({key: value for key, value in document.items() if key != "rows"})


def test_units_are_in_the_names() -> None:
    """A duration or size whose name says no unit would be misread."""
    names = {name for part in schema()["$defs"].values() for name in part["properties"]}
    for name in names:
        if any(word in name for word in ("latency_", "duration", "memory", "size_")):
            assert name.rsplit("_", 1)[-1] in ("ms", "s", "bytes", "mhz") or name == "batch_size", name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a report"),
        ("[" * 100_000, "not a report"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 7}', "upgrade accel"),
        ('{"schema_version": 1}', "not a report: accel_version"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read(path)


def test_absent_report_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such report"):
        read(tmp_path / "report.json")
