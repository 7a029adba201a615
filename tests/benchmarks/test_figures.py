from __future__ import annotations

import pytest

from accel.benchmarks import figures
from accel.report import Estimate, Metric, Precision


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
