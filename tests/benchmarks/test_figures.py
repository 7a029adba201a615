from __future__ import annotations

import pytest

from accel.benchmarks import figures
from accel.report import Estimate, Gate, Metric, Precision, Speedup


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0412345, "0.0412 ms"),
        (0.412, "0.412 ms"),
        (8.56, "8.56 ms"),
        (25.44, "25.4 ms"),
        (131.2, "131 ms"),
        (None, "–"),
        (0, "0 ms"),
    ],
)
def test_milliseconds(value: float | None, text: str) -> None:
    assert figures.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (314_123, "314 kB"), (1_170_000, "1.17 MB"), (None, "–")]
)
def test_size(value: int | None, text: str) -> None:
    assert figures.size(value) == text


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (Estimate(value=2.13, low=2.09, high=2.17), "2.13x faster (95 % CI 2.09 to 2.17)"),
        (Estimate(value=0.8, low=0.75, high=0.9), "1.25x slower (95 % CI 1.11 to 1.33)"),
        (Estimate(value=1.03, low=0.98, high=1.09), "not significantly faster (1.03x, 95 % CI 0.98 to 1.09)"),
        (Estimate(value=0.99, low=0.9, high=1.0), "not significantly faster (0.99x, 95 % CI 0.90 to 1.00)"),
        (Estimate(value=1.0512, low=1.0508, high=1.0516), "1.051x faster (95 % CI 1.051 to 1.052)"),
        (Estimate(value=2.0), "2.00x faster (no interval)"),
        (Estimate(value=0.5), "2.00x slower (no interval)"),
    ],
)
def test_faster(estimate: Estimate, text: str) -> None:
    assert figures.faster(estimate) == text


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [(1170, 300, "3.9x smaller"), (300, 1170, "3.90x larger"), (1000, 1001, "the same size"), (0, 5, "size unknown")],
)
def test_smaller(before: int, after: int, text: str) -> None:
    assert figures.smaller(before, after) == text


def test_fractions_are_in_percent_and_points_others_are_not() -> None:
    top1 = Metric(name="top1", value=0.9812, n=10, difference=Estimate(value=-0.004, low=-0.007, high=-0.00001))
    assert figures.metric_value(top1) == "98.12 %"
    assert figures.metric_difference(top1) == "-0.40 points (CI -0.70 to +0.00)"
    own = Metric(name="loss", value=1.23456, n=10, difference=Estimate(value=0.01))
    assert (figures.metric_value(own), figures.metric_difference(own)) == ("1.235", "+0.01")
    assert figures.metric_difference(Metric(name="top1", value=1, n=1)) == ""
    assert [figures.label(name) for name in ("top1", "top5", "topaz")] == ["top-1", "top-5", "topaz"]


def test_executed_precision() -> None:
    mixed = Precision(float_precision="fp32", quantized_operators=17, int8_operators=16, operators={})
    assert figures.precision(mixed) == "INT8 16/17 operators, else fp32"
    plain = Precision(float_precision="bf16", quantized_operators=0, int8_operators=0, operators={})
    assert figures.precision(plain) == "bf16"


def gates(*states: str) -> list[Gate]:
    """``pass``, ``fail``, ``open`` (inconclusive, passed over) and ``strict`` (inconclusive, fails the run), named by place."""
    verdicts = {"open": "inconclusive", "strict": "inconclusive"}
    return [
        Gate.model_validate(
            {
                "name": f"{state}{index}",
                "metric": "top1",
                "kind": "accuracy",
                "limit": "",
                "verdict": verdicts.get(state, state),
                "failed": state in ("fail", "strict"),
                "text": "",
            }
        )
        for index, state in enumerate(states)
    ]


@pytest.mark.parametrize(
    ("states", "text"),
    [
        ([], ""),
        (["pass"] * 4, "PASS 4/4 gates"),
        (["pass", "fail"], "FAIL 1 of 2 gates (fail1)"),
        (["fail", "fail", "pass"], "FAIL 2 of 3 gates (fail0 and fail1)"),
        (["fail"] * 5, "FAIL 5 of 5 gates (fail0, fail1, fail2 and 2 more)"),
        (["strict", "open"], "FAIL 1 of 2 gates (strict0)"),
        (["open", "pass"], "INCONCLUSIVE 1 of 2 gates (open0)"),
    ],
)
def test_what_became_of_the_gates(states: list[str], text: str) -> None:
    assert figures.gates_line(gates(*states)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (40_600_000, "40.6 M"),
        (1_234, "1.23 k"),
        (2.5e9, "2.50 G"),
        (3e12, "3.00 T"),
        (999_600, "1.00 M"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert figures.count(value) == text


@pytest.mark.parametrize(("share", "text"), [(0.476, "48 %"), (0.0312, "3.1 %"), (0.0, "0.0 %"), (None, "–"), (1.0, "100 %")])
def test_percent(share: float | None, text: str) -> None:
    assert figures.percent(share) == text


def test_rates_and_chances() -> None:
    assert figures.per_second(Estimate(value=1234.4, low=1210.0, high=1260.0)) == "1,234/s (CI 1,210 to 1,260)"
    assert figures.per_second(Estimate(value=3.21)) == "3.21/s"
    assert figures.per_second(None) == "–"
    assert (figures.p_value(0.0004), figures.p_value(0.289)) == ("< 0.001", "0.289")
    assert figures.estimate(Estimate(value=-0.4, low=-0.71234, high=-0.1)) == "-0.4 (CI -0.7123 to -0.1)"


def test_unstable_figures_are_a_word_and_a_reason() -> None:
    ratio = Speedup(vs="x", ratio=Estimate(value=2.0, low=1.9, high=2.1))
    assert figures.speed(ratio) == "2.00x (CI 1.90 to 2.10)"
    assert figures.speed(ratio.model_copy(update={"unstable": "drift"})) == "unstable (drift)"
    assert figures.speed(None) == figures.p50(None) == "–"
