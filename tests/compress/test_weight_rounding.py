from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.compress import weight_rounding
from accel.compress.weight_rounding import Grouped, by_gptq, to_nearest

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(96, 24)).astype(np.float32)
MIXED = RANDOM.normal(size=(96, 96)) * np.linspace(0.1, 3, 96)[:, None]
ROWS = RANDOM.normal(size=(400, 96)) @ MIXED  # inputs that go together, as those of a layer do
PRODUCTS = ROWS.T @ ROWS


def error(found: Grouped, weights: NDArray[np.float32] = WEIGHTS) -> float:
    """Of the layer's output over ROWS, relative."""
    wanted = ROWS[:, : len(weights)] @ weights
    return float(np.linalg.norm(ROWS[:, : len(weights)] @ found.restored(len(weights)) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "within"), [(4, 0.15), (8, 0.01)])
def test_what_is_restored_is_close(bits: int, within: float, symmetric: bool) -> None:
    found = to_nearest(WEIGHTS, 32, bits, symmetric)
    assert found.integers.shape == (96, 24) and found.scales.shape == found.zeros.shape == (3, 24)
    assert found.integers.max() < 2**bits
    assert (found.zeros == 2 ** (bits - 1)).all() == symmetric
    assert np.linalg.norm(found.restored(96) - WEIGHTS) < within * np.linalg.norm(WEIGHTS)


@pytest.mark.parametrize("symmetric", [False, True])
def test_weights_on_a_grid_stay_as_they_are(symmetric: bool) -> None:
    steps = RANDOM.integers(0, 16, (64, 5))
    steps[::32], steps[1::32] = 0, 15  # each group reaches both ends
    weights = ((steps - 8) * 0.25).astype(np.float32)
    assert np.allclose(to_nearest(weights, 32, 4, symmetric).restored(64), weights, atol=1e-6)


def test_cutting_ranges_lowers_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    heavy = RANDOM.standard_t(3, size=(128, 16)).astype(np.float32)
    cut = to_nearest(heavy, 64, 4, False).restored(128)
    monkeypatch.setattr(weight_rounding, "CUTS", np.array([1.0]))
    whole = to_nearest(heavy, 64, 4, False).restored(128)
    assert np.sum((cut - heavy) ** 2) < 0.95 * np.sum((whole - heavy) ** 2)


@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_lowers_the_error_of_the_output(symmetric: bool) -> None:
    nearest, made = to_nearest(WEIGHTS, 32, 4, symmetric), by_gptq(WEIGHTS, PRODUCTS, 32, 4, symmetric)
    assert error(made) < 0.7 * error(nearest)
    assert np.sum((made.restored(96) - WEIGHTS) ** 2) > np.sum((nearest.restored(96) - WEIGHTS) ** 2)  # at the weights' cost


def test_gptq_on_inputs_that_have_nothing_to_do_with_each_other_is_rounding() -> None:
    found = by_gptq(WEIGHTS, np.eye(96), 32, 4, False)
    assert np.array_equal(found.integers, to_nearest(WEIGHTS, 32, 4, False).integers)


def test_a_last_group_that_is_not_full_is_filled_with_its_zero_point() -> None:
    for found in (to_nearest(WEIGHTS[:70], 32, 4, False), by_gptq(WEIGHTS[:70], PRODUCTS[:70, :70], 32, 4, False)):
        assert found.integers.shape == (96, 24)
        assert (found.integers[70:] == found.zeros[2]).all()
        assert error(found, WEIGHTS[:70]) < 0.15


def test_zeros_and_inputs_that_never_come_are_no_trouble() -> None:
    weights = WEIGHTS.copy()
    weights[:32] = 0
    silent = PRODUCTS.copy()
    silent[40] = silent[:, 40] = 0
    assert not to_nearest(weights, 32, 4, True).restored(96)[:32].any()
    for products in (silent, silent * 0):
        assert np.isfinite(by_gptq(weights, products, 32, 4, False).restored(96)).all()
