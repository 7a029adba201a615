from __future__ import annotations

import subprocess
import sys

import pytest

from accel.benchmarks.verdict import (
    best_result,
    compared,
    fastest_fp32,
    own_baseline,
    speedup,
    verdict,
    yardstick,
    yardstick_name,
)
from accel.report import Estimate, Latency, Noise, Precision, Report, Row, Speedup


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


INT8 = Precision(float_precision="fp32", quantized_operators=17, int8_operators=16, operators={})


def alike(measured: list[Row], *p50s: float, precision: Precision = INT8) -> list[Row]:
    """What ``accel benchmark`` measures of one file: baselines alone, each with its ratios to the others."""
    names = [f"row{index}" for index in range(len(p50s))]
    rows = []
    for name, p50 in zip(names, p50s, strict=True):
        against = {other: other_p50 / p50 for other, other_p50 in zip(names, p50s, strict=True) if other != name}
        ratios = [
            Speedup(vs=other, ratio=Estimate(value=value, low=value - 0.01, high=value + 0.01))
            for other, value in against.items()
        ]
        latency = Latency.model_validate({**(measured[1].latency or measured[0]).model_dump(), "p50_ms": p50})
        update = {"name": name, "target": None, "latency": latency, "speedups": ratios, "precision": precision}
        rows.append(measured[1].model_copy(update=update))
    return rows


def test_quantized_rows_are_no_fp32(measured: list[Row]) -> None:
    assert fastest_fp32(alike(measured, 0.4, 0.8)) is None
    measured[1] = measured[1].model_copy(update={"precision": INT8})
    found = fastest_fp32(measured)
    assert found is not None
    assert found.name == "digits"


def test_rows_alike_are_compared_with_the_next(measured: list[Row]) -> None:
    for precision in (INT8, INT8.model_copy(update={"quantized_operators": 0})):
        found = verdict(alike(measured, 0.8, 0.4, 1.6, precision=precision))
        assert found.row == "row1"
        assert found.text == (
            "2.00x faster (95 % CI 1.99 to 2.01): row1 on openvino/cpu against the fastest other row (row0 on openvino/cpu)"
        )


def test_rows_alike_whose_interleaved_ratio_turns_the_medians(measured: list[Row]) -> None:
    first, second = alike(measured, 0.40, 0.41)
    first = first.model_copy(update={"speedups": [Speedup(vs="row1", ratio=Estimate(value=0.9, low=0.89, high=0.91))]})
    second = second.model_copy(update={"speedups": [Speedup(vs="row0", ratio=Estimate(value=1.11, low=1.1, high=1.12))]})
    found = verdict([first, second])
    assert found.row == "row1"
    assert found.text.startswith("1.11x faster")


def test_one_row_alone_gives_its_median(measured: list[Row]) -> None:
    (row,) = alike(measured, 0.4)
    assert verdict([row]).text == "p50 0.400 ms: row0 on openvino/cpu"
    other = failed(measured[1])
    assert verdict([row, other]).text == "p50 0.400 ms: row0 on openvino/cpu; failed: digits-fp32"


def test_noise_is_said_of_rows_alike(measured: list[Row]) -> None:
    noise = Noise.model_validate({"row": "row0", "ratio": {"value": 1.0}, "verdict": "noisy"})
    assert verdict(alike(measured, 0.4, 0.8), noise).text.endswith("; timings were noisy, see the A/A pair")


def test_a_result_beside_quantized_baselines_is_compared_with_the_fastest_other(measured: list[Row]) -> None:
    others = alike(measured, 0.8, 1.6)
    ratio = Speedup(vs="row0", ratio=Estimate(value=1.9, low=1.8, high=2.0))
    found = verdict([*others, measured[2].model_copy(update={"speedups": [ratio]})])
    assert found.row == "digits-int8"
    assert found.text.startswith("1.90x faster (95 % CI 1.80 to 2.00)")
    assert found.text.endswith(" against the fastest other row (row0 on openvino/cpu); no FP32 row was measured beside it")


def test_an_fp32_result_is_not_told_that_fp32_is_missing(measured: list[Row]) -> None:
    result = measured[2].model_copy(update={"precision": measured[1].precision})
    assert "no FP32 row" not in verdict([*alike(measured, 0.8), result]).text


def test_the_yardstick_is_called_by_what_it_is(measured: list[Row]) -> None:
    assert yardstick(measured) is fastest_fp32(measured)
    assert yardstick_name(yardstick(measured)) == "fastest FP32 row"
    others = alike(measured, 0.8, 0.4)
    assert yardstick(others) is others[1]
    assert yardstick_name(others[1]) == "fastest baseline"
    assert yardstick(measured[2:]) is None


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
    "module",
    [
        *("verdict", "markdown", "terminal", "junit", "bench_json", "github", "renderings", "brief"),
        *("manifest", "snippet", "schedule", "environment", "size"),
    ],
)
def test_light(module: str) -> None:
    """What the command line imports brings no numpy, torch or runtime."""
    code = (
        f"import sys, accel.benchmarks.{module};"
        "print([m for m in ('numpy', 'torch', 'onnx', 'onnxruntime', 'openvino') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def unstable(row: Row, **ratios: str) -> Row:
    """``row`` with its latency and its ratios to the rows named called unstable."""
    speedups = [found.model_copy(update={"unstable": ratios.get(found.vs.replace("-", "_"))}) for found in row.speedups]
    return row.model_copy(update={"speedups": speedups})


def test_no_speedup_is_claimed_from_an_unstable_ratio(measured: list[Row]) -> None:  # fault 48
    measured[2] = unstable(measured[2], digits_fp32="it drifted")
    text = verdict(measured).text
    assert text.startswith("speed unstable (it drifted), 3.9x smaller")
    assert "2.13" not in text
    assert "faster" not in text
    assert speedup(measured[2], measured[1]) is None
    assert compared(measured[2], measured[1]) is not None


def test_a_stable_result_goes_before_an_unstable_one(measured: list[Row]) -> None:
    quick = measured[2].model_copy(
        update={"name": "quick", "speedups": [Speedup(vs="digits-fp32", ratio=Estimate(value=9.0), unstable="bursts")]}
    )
    assert verdict([*measured, quick]).row == "digits-int8"
    assert verdict([*measured[:2], quick]).row == "quick"


def test_an_unstable_median_is_no_number(measured: list[Row]) -> None:
    row = with_ratio(measured, None)[2]
    assert row.latency is not None
    row = row.model_copy(update={"latency": row.latency.model_copy(update={"unstable": "bursts"})})
    assert verdict([*measured[:2], row]).text.startswith("latency unstable (bursts), 3.9x smaller")
    assert verdict([row.model_copy(update={"role": "baseline"})]).text.startswith("latency unstable (bursts): ")


def test_limits_stand_beside_the_figures(measured: list[Row], full_report: Report) -> None:
    text = verdict(measured, gates=full_report.gates).text
    assert "top-1 -0.40 points (CI -0.70 to -0.10) (limit: at most 1.00 points below digits-fp32): digits-int8" in text
