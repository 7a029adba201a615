from __future__ import annotations

import json
import math
from pathlib import Path

import jsonschema
import pytest

from accel.benchmarks.manifest import Manifest, manifest, read, schema
from accel.errors import UsageError
from accel.model import Signature, TensorSpec
from accel.report import Report

SIGNATURE = Signature(
    inputs=(TensorSpec("image", ("batch", 1, 28, 28), "float32"),), outputs=(TensorSpec("logits", ("batch", 10), "float32"),)
)


def made(report: Report) -> Manifest:
    return manifest(
        report,
        report.rows[2],
        main_file="model.onnx",
        signature=SIGNATURE,
        version="1.2",
        author="Ada",
        description="Digits",
        preprocessing={"scale": 255.0, "steps": ["decode"]},
        classes=[str(digit) for digit in range(10)],
    )


def test_holds_what_a_deployment_needs(report: Report) -> None:
    found = json.loads(made(report).json_text())
    assert (found["name"], found["version"], found["author"], found["description"]) == (
        "digits-openvino",
        "1.2",
        "Ada",
        "Digits",
    )
    assert found["inputs"] == [{"name": "image", "shape": ["batch", 1, 28, 28], "dtype": "float32"}]
    assert found["outputs"][0]["shape"] == ["batch", 10]
    assert found["preprocessing"]["scale"] == 255.0
    assert found["classes"][9] == "9"
    assert found["metrics"][0]["difference"]["low"] == -0.007
    assert found["files"] == [{"path": "model.onnx", "bytes": 300_000, "gzip_bytes": 280_000, "sha256": "ab" * 32}]
    assert found["libraries"] == {"openvino": "2026.4.1"}
    assert found["steps"][0]["name"] == "quantize/static/nncf"
    assert found["steps"][0]["settings"]["num_samples"] == 300
    assert (found["schema_version"], found["accel_version"], found["recipe"]) == (2, "0.1.0", "digits")


def test_is_the_same_but_for_the_time(report: Report) -> None:
    later = report.model_copy(
        update={
            "created": "2030-01-01T00:00:00Z",
            "steps": [report.steps[0].model_copy(update={"seconds": 99.0, "cached": True})],
            "rows": [row.model_copy(update={"latency": None, "compile_s": 9.0}) for row in report.rows],
        }
    )
    one, two = json.loads(made(report).json_text()), json.loads(made(later).json_text())
    assert one.pop("created") != two.pop("created")
    assert one == two


def test_is_read_back(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(made(report).json_text(), encoding="utf-8")
    assert read(path) == made(report)


def test_follows_its_schema(report: Report) -> None:
    validator = jsonschema.Draft202012Validator(schema())
    validator.check_schema(schema())
    document = json.loads(made(report).json_text())
    assert validator.is_valid(document)
    assert not validator.is_valid(document | {"extra": 1})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no readable manifest"),
        ("[]", "schema_version is None"),
        ('{"schema_version": 3}', "upgrade accel"),
        ('{"schema_version": 0}', "reads versions 1 to 2$"),
        ('{"schema_version": 1, "name": "x"}', "not a manifest: accel_version"),
        ("[" * 100_000, "no readable manifest"),
    ],
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read(path)


def test_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no readable manifest"):
        read(tmp_path / "manifest.json")


def test_main_file_must_ship(report: Report) -> None:
    with pytest.raises(ValueError, match=r"other\.onnx is not among"):
        manifest(report, report.rows[2], main_file="other.onnx", signature=SIGNATURE)


def test_no_nan_is_written(report: Report) -> None:
    found = manifest(
        report, report.rows[2], main_file="model.onnx", signature=SIGNATURE, preprocessing={"scale": math.nan, "max": math.inf}
    )
    assert json.loads(found.json_text(), parse_constant=pytest.fail)["preprocessing"] == {"scale": None, "max": None}
