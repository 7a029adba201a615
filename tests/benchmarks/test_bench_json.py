from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from accel.benchmarks.bench_json import bencher, bigger_is_better, smaller_is_better
from accel.report import Report

# As Bencher publishes it, in words: benchmarks hold measures, and a measure has a value and may have its bounds.
METRIC = {
    "type": "object",
    "properties": {name: {"type": "number"} for name in ("value", "lower_value", "upper_value")},
    "required": ["value"],
    "additionalProperties": False,
}
BENCHER = {
    "type": "object",
    "patternProperties": {".+": {"type": "object", "patternProperties": {".+": METRIC}, "additionalProperties": False}},
    "additionalProperties": False,
}
ENTRIES = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            **{name: {"type": "string"} for name in ("name", "unit", "range", "extra")},
            "value": {"type": "number"},
        },
        "required": ["name", "unit", "value"],
        "additionalProperties": False,
    },
}


def by_name(text: str) -> dict[str, dict[str, Any]]:
    entries = json.loads(text, parse_constant=pytest.fail)
    jsonschema.validate(entries, ENTRIES)
    found = {entry["name"]: entry for entry in entries}
    assert len(found) == len(entries)
    return found


def test_one_file_for_each_direction(full_report: Report) -> None:
    smaller, bigger = by_name(smaller_is_better(full_report)), by_name(bigger_is_better(full_report))
    assert not set(smaller) & set(bigger)
    assert smaller["digits-int8 / p50"]["value"] == 0.42
    assert smaller["digits-int8 / p50"]["unit"] == "ms"
    assert smaller["digits-int8 / size"] | {"extra": ""} == {
        "name": "digits-int8 / size",
        "unit": "bytes",
        "value": 300_000.0,
        "extra": "",
    }
    assert bigger["digits-int8 / top1"]["value"] == 0.981
    assert bigger["digits-int8 / speedup"]["range"] == "2.09 to 2.17"
    assert bigger["digits-int8 / speedup"]["extra"] == "against digits-fp32, in the same run"
    place = "digits-int8 offline batch 8 threads 2 streams 1 / throughput"
    assert bigger[place]["value"] == 4321.0
    assert "digits-int8 server batch 1 threads 1 streams 1 / p50" in smaller


def test_a_metric_that_should_be_low_is(full_report: Report) -> None:
    low = full_report.rows[2].metrics[0].model_copy(update={"name": "loss", "higher_is_better": False})
    odd = full_report.model_copy(update={"rows": [full_report.rows[2].model_copy(update={"metrics": [low]})]})
    assert "digits-int8 / loss" in by_name(smaller_is_better(odd))
    assert "digits-int8 / loss" not in by_name(bigger_is_better(odd))


def test_benchers_measures_in_benchers_units(full_report: Report) -> None:
    found = json.loads(bencher(full_report), parse_constant=pytest.fail)
    jsonschema.validate(found, BENCHER)
    row = found["digits-int8"]
    assert row["latency"] == {"value": pytest.approx(420_000)}  # nanoseconds
    assert row["speedup"] == {"value": 2.13, "lower_value": 2.09, "upper_value": 2.17}
    assert row["file-size"] == {"value": 300_000}
    assert row["build-time"] == {"value": 0.2}
    assert row["top1"] == {"value": 0.981}
    throughput = found["digits-int8 offline batch 8 threads 2 streams 1"]["throughput"]
    assert throughput == {"value": 4321.0, "lower_value": 4200.0, "upper_value": 4400.0}


def test_unstable_figures_and_absent_ones_are_left_out(full_report: Report) -> None:
    result = full_report.rows[2]
    assert result.latency is not None
    unstable = result.model_copy(
        update={
            "latency": result.latency.model_copy(update={"unstable": "bursts"}),
            "speedups": [found.model_copy(update={"unstable": "bursts"}) for found in result.speedups],
            "points": [result.points[0].model_copy(update={"unstable": "bursts"}), result.points[2]],
        }
    )
    failed = result.model_copy(update={"name": "gone", "status": "failed", "reason": "x"})
    found = json.loads(bencher(full_report.model_copy(update={"rows": [*full_report.rows[:2], unstable, failed]})))
    assert set(found["digits-int8"]) == {"file-size", "build-time", "peak-memory", "top1"}
    assert set(found) == {"digits", "digits-fp32", "digits-int8"}


def test_names_that_become_one_stay_two_series(full_report: Report) -> None:
    rows = [full_report.rows[0].model_copy(update={"name": name}) for name in ("a|b", "a`b")]
    odd = full_report.model_copy(update={"rows": rows})
    assert set(json.loads(bencher(odd))) == {"a b", "a b 2"}
    assert len(by_name(bigger_is_better(odd))) == 2


def test_a_metric_called_like_a_measure_is_told_apart(full_report: Report) -> None:
    metric = full_report.rows[0].metrics[0].model_copy(update={"name": "Latency"})
    row = full_report.rows[0].model_copy(update={"metrics": [metric]})
    found = json.loads(bencher(full_report.model_copy(update={"rows": [row]})))["digits"]
    assert found["latency"]["value"] == pytest.approx(3.1e6)
    assert found["metric-latency"]["value"] == 0.985
