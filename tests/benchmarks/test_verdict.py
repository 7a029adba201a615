from __future__ import annotations

import subprocess
import sys

import pytest

from accel.benchmarks.verdict import best_result, fastest_fp32, own_baseline, verdict
from accel.report import Estimate, Noise, Precision, Row, Speedup


def test_the_line(measured: list[Row]) -> None:
    found = verdict(measured)
    assert found.row == "digits-int8"
    assert found.text == (
        "2.13x faster (95 % CI 2.09 to 2.17), 3.9x smaller, top-1 -0.40 points (CI -0.70 to -0.10): digits-int8 on openvino/cpu"
        " against the fastest FP32 row (digits-fp32 on openvino/cpu)"
    )


def with_ratio(rows: list[Row], estimate: Estimate | None) -> list[Row]:
    speedups = [] if estimate is None else [Speedup(vs="digits-fp32", ratio=estimate)]
    return [row if row.role != "result" else row.model_copy(update={"speedups": speedups}) for row in rows]


def test_interval_that_holds_one_is_not_significant(measured: list[Row]) -> None:
    text = verdict(with_ratio(measured, Estimate(value=1.02, low=0.97, high=1.07))).text
    assert text.startswith("not significantly faster (1.02x, 95 % CI 0.97 to 1.07)")


def test_slower_is_said(measured: list[Row]) -> None:
    assert verdict(with_ratio(measured, Estimate(value=0.5, low=0.4, high=0.6))).text.startswith("2.00x slower")


def test_no_ratio_gives_the_median(measured: list[Row]) -> None:
    found = verdict(with_ratio(measured, None))
    assert found.text.startswith("p50 0.420 ms, 3.9x smaller")
    assert "against" not in found.text


def test_fastest_result_by_ratio_not_by_median(measured: list[Row]) -> None:
    other = measured[2].model_copy(
        update={
            "name": "other",
            "latency": measured[2].latency and measured[2].latency.model_copy(update={"p50_ms": 0.43}),
            "speedups": [Speedup(vs="digits-fp32", ratio=Estimate(value=2.4, low=2.3, high=2.5))],
        }
    )
    best = best_result([*measured, other])
    assert best is not None
    assert best.name == "other"


def test_fastest_fp32_row_ran_in_fp32(measured: list[Row]) -> None:
    found = fastest_fp32(measured)
    assert found is not None
    assert found.name == "digits-fp32"
    bf16 = Precision(float_precision="bf16", quantized_operators=0, int8_operators=0, operators={})
    measured[1] = measured[1].model_copy(update={"precision": bf16})
    found = fastest_fp32(measured)
    assert found is not None
    assert found.name == "digits"


def test_own_baseline_is_the_targets(measured: list[Row]) -> None:
    other = measured[1].model_copy(update={"name": "ort-fp32", "backend": "onnxruntime", "target": "onnxruntime"})
    found = own_baseline(measured[2], [measured[0], other, measured[1]])
    assert found is not None
    assert found.name == "digits-fp32"
    untargeted = measured[2].model_copy(update={"target": None})
    assert own_baseline(untargeted, measured) is measured[1]
    assert own_baseline(measured[2], [measured[0]]) is None


def failed(row: Row) -> Row:
    return row.model_copy(update={"status": "failed", "reason": "died of signal 11", "latency": None})


def test_failed_rows_are_named(measured: list[Row]) -> None:
    other = failed(measured[2]).model_copy(update={"name": "ort-int8"})
    assert verdict([*measured, other]).text.endswith("; failed: ort-int8")
    gone = verdict([*measured[:2], failed(measured[2]), other])
    assert gone.row is None
    assert gone.text == "no result was measured, only the untouched model; failed: digits-int8 and ort-int8"


def test_nothing_measured() -> None:
    assert verdict([]).text == "nothing was measured"


def test_built_only(measured: list[Row]) -> None:
    built = [row.model_copy(update={"status": "built", "latency": None}) for row in measured]
    assert verdict(built).text == "nothing was measured: digits-int8 on openvino/cpu built only"


def test_no_fp32_row(measured: list[Row]) -> None:
    assert verdict(measured[2:]).text.endswith("; no FP32 row was measured beside it")


@pytest.mark.parametrize(("state", "said"), [("quiet", False), ("noisy", True)])
def test_noise_is_said(measured: list[Row], state: str, said: bool) -> None:
    noise = Noise.model_validate({"row": "digits-int8", "ratio": {"value": 1.0}, "verdict": state})
    assert ("noisy" in verdict(measured, noise).text) == said


@pytest.mark.parametrize(
    "module", ["verdict", "markdown", "terminal", "manifest", "snippet", "schedule", "environment", "size"]
)
def test_light(module: str) -> None:
    """What the command line imports brings no numpy, torch or runtime."""
    code = (
        f"import sys, accel.benchmarks.{module};"
        "print([m for m in ('numpy', 'torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
