from __future__ import annotations

import numpy as np
import pytest

from accel.benchmarks import stability
from accel.report import Estimate

STEADY = np.full((5, 6), 2.0)


def test_a_steady_latency_is_a_number() -> None:
    assert stability.of_latency(Estimate(value=2, low=1.9, high=2.1), STEADY) is None
    assert stability.of_latency(Estimate(value=2), STEADY) is None  # too few restarts: no interval, no verdict


def test_a_median_that_wanders_between_restarts_is_called_unstable() -> None:
    said = stability.of_latency(Estimate(value=2, low=1.8, high=2.25), STEADY)
    assert said == ("between 1.8 and 2.25 ms, 25 % apart, after 5 restarts")


def test_turns_of_two_speeds_are_called_unstable() -> None:
    two = np.where(np.arange(30).reshape(5, 6) % 2, 1.0, 2.0)
    said = stability.of_latency(Estimate(value=1.5, low=1.45, high=1.55), two)
    assert said is not None
    assert said.startswith("half of its 30 turns had a median below 1 or above 2 ms, 100 % apart")


def test_one_struck_turn_is_no_reason() -> None:
    struck = STEADY.copy()
    struck[2, 3] = 200.0
    assert stability.of_latency(Estimate(value=2, low=1.95, high=2.05), struck) is None


def test_a_clock_that_stood_still_is_said() -> None:  # fault 49
    still = np.full((5, 6), 1e-6)
    said = stability.of_latency(Estimate(value=1e-6, low=1e-6, high=1e-6), still)
    assert said is not None
    assert "clock stood still" in said


def test_ratio() -> None:
    assert stability.of_ratio(Estimate(value=1.5, low=1.46, high=1.6), 8) is None
    assert stability.of_ratio(Estimate(value=1.5), 3) is None
    said = stability.of_ratio(Estimate(value=1.5, low=1.4, high=1.6), 8)
    assert said is not None
    assert said.startswith("between 1.4x and 1.6x, 14 % apart, after 8 restarts")
    endless = stability.of_ratio(Estimate(value=1, low=1e-9, high=1e9), 5)
    assert endless is not None
    assert "more than a hundred times" in endless


def test_width() -> None:
    assert stability.width(Estimate(value=1, low=1.0, high=1.03)) == pytest.approx(0.03)
    assert stability.width(Estimate(value=1)) is None
    assert stability.width(Estimate(value=0, low=0.0, high=1.0)) is None


def test_quantiles_are_101_in_order() -> None:
    found = stability.quantiles(np.arange(1001) / 7)
    assert len(found) == 101
    assert found == sorted(found)
    assert (found[0], found[50], found[100]) == pytest.approx((0, 500 / 7, 1000 / 7), rel=1e-5)
    assert stability.quantiles(np.array([3.0])) == [3.0] * 101
