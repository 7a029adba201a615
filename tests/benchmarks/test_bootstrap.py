from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.benchmarks import bootstrap
from accel.report import Estimate


def right(share: float, samples: int = 1000) -> NDArray[np.float64]:
    return (np.arange(samples) < share * samples).astype(np.float64)


def bounds(found: Estimate | None) -> tuple[float, float]:
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_identical_rows_have_no_width() -> None:
    values = np.random.default_rng(0).normal(size=200)
    assert bootstrap.paired(values, values) == Estimate(value=0, low=0, high=0)
    assert bounds(bootstrap.paired(values + 0.5, values)) == pytest.approx((0.5, 0.5), abs=1e-12)


def test_one_sample_has_none() -> None:
    assert bootstrap.paired(np.ones(1), np.zeros(1)) is None


def test_other_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        bootstrap.paired(np.ones(3), np.ones(4))


def test_it_is_paired_and_seeded() -> None:
    theirs = np.random.default_rng(0).permutation(right(0.9))
    ours = theirs.copy()
    ours[np.flatnonzero(theirs)[:4]] = 0
    low, high = bounds(bootstrap.paired(ours, theirs))
    assert -0.012 < low < -0.004 < high < 0.0
    apart_low, apart_high = bounds(bootstrap.paired(np.random.default_rng(1).permutation(ours), theirs))
    assert apart_high - apart_low > 3 * (high - low)
    graded = np.random.default_rng(2).normal(size=1000)
    assert bootstrap.paired(graded, theirs) == bootstrap.paired(graded, theirs)
    assert bootstrap.paired(graded, theirs, seed=1) != bootstrap.paired(graded, theirs, seed=2)


@pytest.mark.parametrize(
    ("samples", "gained", "lost"), [(1000, 0.01, 0.01), (1000, 0.005, 0.015), (200, 0.0, 0.03), (10_000, 0.01, 0.013)]
)
def test_interval_holds_the_truth(samples: int, gained: float, lost: float) -> None:
    generator = np.random.default_rng(5)
    missed = [0, 0]
    for counts in generator.multinomial(samples, [gained, lost, 1 - gained - lost], size=300):
        ours = np.repeat([1.0, 0.0, 1.0], counts)
        theirs = np.repeat([0.0, 1.0, 1.0], counts)
        low, high = bounds(bootstrap.paired(ours, theirs))
        missed[0] += low > gained - lost + 1e-12
        missed[1] += high < gained - lost - 1e-12
    assert sum(missed) <= 0.09 * 300
    assert missed[0] <= 0.045 * 300  # the side of a limit on the drop: of (200, 0, 0.03) the percentile interval misses 7 %


def test_graded_interval_holds_the_truth() -> None:
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(200):
        theirs = generator.normal(0.5, 0.2, 60)
        low, high = bounds(bootstrap.paired(theirs + generator.normal(-0.1, 0.5, 60), theirs))
        held += low <= -0.1 <= high
    assert held / 200 >= 0.9


def test_drawing_counts_is_drawing_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.repeat([1.0, -1.0, 0.0], [30, 60, 910])
    by_count = bootstrap.resampled_means(values, 4000, np.random.default_rng(0))
    monkeypatch.setattr(bootstrap, "FEW_VALUES", 0)
    by_sample = bootstrap.resampled_means(values, 4000, np.random.default_rng(0))
    assert by_count.mean() == pytest.approx(by_sample.mean(), abs=6e-4)
    assert np.quantile(by_count, [0.025, 0.975]) == pytest.approx(np.quantile(by_sample, [0.025, 0.975]), abs=1.5e-3)


def test_memory_does_not_grow_with_samples() -> None:
    values = np.random.default_rng(0).normal(size=50_000)
    tracemalloc.start()
    try:
        bootstrap.resampled_means(values, 60, np.random.default_rng(0))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40e6  # all 60 at once would be 48 MB


def test_extreme_values_give_numbers() -> None:
    ours = np.array([1e150, -1e150, 1e-300, 3.0])
    low, high = bounds(bootstrap.paired(ours, np.zeros(4)))
    assert np.isfinite([low, high]).all()
