from __future__ import annotations

import numpy as np
import pytest

from accel.compress.least_error_range import least_error_range


def found(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], symmetric: bool = False) -> tuple[float, float]:
    width = float(np.abs(values).max())
    counts, edges = np.histogram(values, 2048, (-width, width))
    return least_error_range(counts, edges, float(values.min()), float(values.max()), symmetric)


def error(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]], low: float, high: float) -> float:
    step = (high - low) / 255
    zero = np.rint(-low / step)
    return float(np.mean(((np.clip(np.rint(values / step) + zero, 0, 255) - zero) * step - values) ** 2))


def test_a_long_tail_is_cut_and_the_error_is_less() -> None:
    values = np.random.default_rng(0).laplace(size=200_000)
    low, high = found(values)
    assert values.min() < low < 0 < high < values.max()
    assert error(values, low, high) < 0.8 * error(values, values.min(), values.max())


def test_each_side_is_cut_by_itself() -> None:
    values = np.random.default_rng(0).uniform(-1, 1, 200_000)
    values[0] = 6.0
    low, high = found(values)
    assert low == pytest.approx(-1, abs=0.03)
    assert 1 <= high < 5


def test_even_values_keep_their_range() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 200_000)
    assert found(values) == pytest.approx((0, 1), abs=0.02)


def test_symmetric_ranges_are_symmetric() -> None:
    low, high = found(np.random.default_rng(0).laplace(size=20_000), symmetric=True)
    assert low == -high


def test_nothing_to_choose() -> None:
    edges = np.linspace(-1, 1, 11)
    assert least_error_range(np.zeros(10), edges, -0.5, 0.5) == (-0.5, 0.5)
    assert least_error_range(np.ones(10), edges, 0.0, 0.0) == (0.0, 0.0)
