from __future__ import annotations

from math import atan, exp, lgamma, pi, sqrt

import numpy as np
import pytest

from accel.benchmarks.student import MANY, quantile


def within(t: float, freedom: int) -> float:
    """P(|T| <= t), by integrating the density over the arc tangent of t over the root of ``freedom``."""
    angles = np.linspace(0.0, atan(t / sqrt(freedom)), 100_001)
    scale = 2 * exp(lgamma((freedom + 1) / 2) - lgamma(freedom / 2)) / sqrt(pi)
    return scale * float(np.trapezoid(np.cos(angles) ** (freedom - 1), angles))


@pytest.mark.parametrize(
    ("confidence", "freedom", "t"),
    [  # printed tables
        (0.95, 1, 12.706),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.99, 4, 4.604),
        (0.99, 5, 4.032),
        (0.99, 24, 2.797),
        (0.999, 10, 4.587),
        (0.95, 1000, 1.962),
        (0.95, 10**6, 1.960),
    ],
)
def test_as_in_the_tables(confidence: float, freedom: int, t: float) -> None:
    assert quantile(confidence, freedom) == pytest.approx(t, abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 101])
@pytest.mark.parametrize("confidence", [0.01, 0.5, 0.95, 0.9999])
def test_turns_over(confidence: float, freedom: int) -> None:
    assert within(quantile(confidence, freedom), freedom) == pytest.approx(confidence, abs=1e-8)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99, 0.9999])
def test_many_degrees_go_on_where_few_ended(confidence: float) -> None:
    assert within(quantile(confidence, MANY + 1), MANY + 1) == pytest.approx(confidence, abs=1e-8)
    assert quantile(confidence, MANY + 1) < quantile(confidence, MANY)


def test_refuses_what_has_no_answer() -> None:
    for confidence in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            quantile(confidence, 4)
    with pytest.raises(ValueError, match="degree of freedom"):
        quantile(0.95, 0)
