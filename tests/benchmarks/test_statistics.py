from __future__ import annotations

import time
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from accel.benchmarks.statistics import (
    discardable,
    early_stopping_percentile,
    latency,
    noise,
    ratio,
    speedup,
    turn_medians,
)
from interval_coverage import TRUTH, comparison, drift, percentile_interval, simulated

Floats = NDArray[np.float64]


@pytest.mark.parametrize("kind", ["quiet", "heavy tails", "spikes"])
@pytest.mark.parametrize(("restarts", "rounds"), [(5, 6), (10, 6)])
def test_interval_holds_the_truth_19_times_in_20(kind: str, restarts: int, rounds: int) -> None:
    generator = np.random.default_rng(2026)
    held = 0
    for _ in range(200):
        found = ratio(*comparison(generator, kind, restarts, rounds), resamples=1000)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= TRUTH <= found.high
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize("restarts_too", [False, True])
def test_simpler_intervals_would_not_hold_it(restarts_too: bool) -> None:
    """Fails if the simulation were too tame to tell a good interval from a bad one."""
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(200):
        slow, fast = comparison(generator, "quiet", 5, 6)
        low, high = percentile_interval(slow, fast, generator, restarts_too=restarts_too, resamples=500)
        held += low <= TRUTH <= high
    assert held / 200 < (0.90 if restarts_too else 0.5)


@pytest.mark.parametrize("slower", [0.02, 0.10, 0.50])
def test_one_restart_unlike_the_others_does_not_blow_the_interval_up(slower: float) -> None:
    ours, theirs = np.full((5, 6), 2e6), np.full((5, 6), 1e6)
    ours[2] *= 1 + slower
    found = ratio(ours, theirs)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= 2 <= found.high, "four of five restarts say 2"
    assert found.high / found.low < (1 + slower) ** 2


def test_median_of_paired_rounds_is_steady_under_drift_and_under_spikes() -> None:
    """Why the point estimate is what it is: unpaired figures suffer from what moves both rows, means from what strikes one."""
    generator = np.random.default_rng(3)
    spread: dict[str, dict[str, float]] = {}
    for kind in ("quiet", "spikes"):
        errors: dict[str, list[float]] = {"paired median": [], "unpaired medians": [], "unpaired means": [], "paired mean": []}
        for _ in range(300):
            common = drift(generator, 5, 6)
            ours, theirs = (common * simulated(generator, kind, 5, 6) for _ in range(2))
            errors["paired median"].append(float(np.log(ratio(ours, theirs, resamples=2).value)))
            errors["unpaired medians"].append(float(np.log(np.median(ours) / np.median(theirs))))
            errors["unpaired means"].append(float(np.log(ours.mean() / theirs.mean())))
            errors["paired mean"].append(float(np.mean(np.log(ours) - np.log(theirs))))
        spread[kind] = {name: float(np.std(found)) for name, found in errors.items()}
    quiet, spikes = spread["quiet"], spread["spikes"]
    assert quiet["paired median"] < 0.9 * quiet["unpaired medians"], spread
    assert spikes["paired median"] < 0.5 * min(spikes["paired mean"], spikes["unpaired means"]), spread


def test_bootstrap_is_quick() -> None:
    generator = np.random.default_rng(0)
    ours, theirs = (simulated(generator, "quiet", 5, 12) for _ in range(2))
    ratio(ours, theirs)
    started = time.process_time()
    ratio(ours, theirs)
    assert time.process_time() - started < 0.3


TIMES = st.lists(st.lists(st.integers(1, 10**10), min_size=5, max_size=5), min_size=5, max_size=5)


@settings(max_examples=60, deadline=None)
@given(TIMES, TIMES)
def test_ratio_is_inside_its_interval_and_turns_over(ours: list[list[int]], theirs: list[list[int]]) -> None:
    a, b = np.array(ours, dtype=np.float64), np.array(theirs, dtype=np.float64)
    forth, back = ratio(a, b, resamples=200), ratio(b, a, resamples=200)
    assert forth.low is not None
    assert forth.high is not None
    assert back.low is not None
    assert back.high is not None
    assert 0 < forth.low <= forth.value <= forth.high
    assert forth.value * back.value == pytest.approx(1)
    assert forth.low * back.high == pytest.approx(1)
    assert forth.high * back.low == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(TIMES, st.floats(0.01, 100))
def test_ratio_follows_the_scale(times: list[list[int]], factor: float) -> None:
    base = np.array(times, dtype=np.float64) + 1e3
    found = ratio(base * factor * 1e3, base * 1e3, resamples=50)
    assert found.value == pytest.approx(factor)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_no_interval_from_fewer_than_five_restarts() -> None:
    found = ratio(np.full((4, 6), 2e6), np.full((4, 6), 1e6))
    assert found.value == pytest.approx(2)
    assert (found.low, found.high) == (None, None)


def test_clock_that_stood_still_divides_by_nothing() -> None:  # fault 49
    still = ratio(np.zeros((5, 5)), np.zeros((5, 5)))
    assert (still.low, still.value, still.high) == (1, 1, 1)
    assert np.isfinite(ratio(np.full((5, 5), 1e6), np.zeros((5, 5))).value)


@pytest.mark.parametrize("shape", [(5, 6), (6, 5), (0, 5)])
def test_timings_that_do_not_pair_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        ratio(np.ones(shape), np.ones((5, 5)) if shape[0] else np.ones(shape))


# -- percentiles


@pytest.mark.parametrize(
    ("percentile", "none", "first", "five"), [(0.9, 44, 64, 127), (0.95, 90, 130, 259), (0.99, 459, 662, 1307)]
)
def test_counts_are_mlperfs(percentile: float, none: int, first: int, five: int) -> None:
    for queries, allowed in ((none, 0), (first, 1), (five, 5)):
        assert discardable(queries, percentile) == allowed
        assert discardable(queries - 1, percentile) == allowed - 1


def test_counts_are_the_largest_that_the_binomial_allows() -> None:
    for queries in (64, 100, 333, 500):
        allowed = discardable(queries, 0.9)
        tail = [sum(comb(queries, k) * 0.1**k * 0.9 ** (queries - k) for k in range(t + 1)) for t in (allowed, allowed + 1)]
        assert tail[0] <= 0.01 < tail[1]


@pytest.mark.parametrize(("percentile", "queries"), [(0.9, 64), (0.99, 662)])
def test_percentile_needs_its_count(percentile: float, queries: int) -> None:
    samples = np.arange(1, queries + 1)
    assert early_stopping_percentile(samples[:-1], percentile) is None
    assert early_stopping_percentile(samples, percentile) == queries  # t = 1: the largest of all


def test_percentile_discards_the_largest() -> None:
    assert early_stopping_percentile(np.arange(1, 128), 0.9) == 127 - 4  # t = 5


def test_percentile_is_an_upper_bound_99_times_in_100() -> None:
    generator = np.random.default_rng(0)
    true = -np.log(0.1)
    above = sum((early_stopping_percentile(generator.exponential(1, 300), 0.9) or 0) >= true for _ in range(1000))
    assert above >= 985


@given(st.lists(st.integers(0, 10**9), max_size=900))
@settings(max_examples=80, deadline=None)
def test_percentiles_are_ordered(samples: list[int]) -> None:
    p50, p90, p99 = (early_stopping_percentile(samples, p) for p in (0.5, 0.9, 0.99))
    assert (p50 is None) == (not samples)
    if p50 is not None:
        assert min(samples) <= p50
    if p90 is not None:
        assert p50 is not None
        assert p50 <= p90 <= max(samples)
    if p99 is not None:
        assert p90 is not None
        assert p90 <= p99 <= max(samples)


# -- rows


def turns(nanoseconds: int, queries: int = 20) -> list[list[list[int]]]:
    return [[[nanoseconds + query for query in range(queries)] for _ in range(5)] for _ in range(5)]


def test_latency_of_a_row() -> None:
    found = latency(turns(1_000_000), batch_size=1, threads=2)
    assert (found.queries, found.restarts, found.rounds, found.threads) == (500, 5, 5, 2)
    assert found.p50_ms == pytest.approx(1.0000095)
    assert found.min_ms == pytest.approx(1.0)
    assert found.p90_ms is not None
    assert found.p99_ms is None


def test_speedup_is_above_one_for_the_faster_row() -> None:
    found = speedup(turns(1_000_000), "fp32", turns(2_000_000))
    assert found.vs == "fp32"
    assert found.ratio.value == pytest.approx(2, rel=1e-4)


def test_noise_is_quiet_for_the_same_figures_and_noisy_beside_one() -> None:
    same = turns(1_000_000)
    assert noise("int8", same, same).verdict == "quiet"
    assert noise("int8", same, turns(1_020_000)).verdict == "noisy"
    wild = [[[int(1e6 * (1 + 0.1 * restart))] for _ in range(5)] for restart in range(5)]
    assert noise("int8", same, wild).verdict == "noisy"
    assert noise("int8", same[:3], same[:3]).verdict == "noisy"  # no interval, no quiet


@pytest.mark.parametrize("wrong", [[[[1], [1]], [[1]]], [[[1], []]], []], ids=["uneven", "empty turn", "nothing"])
def test_uneven_turns_are_refused(wrong: list[list[list[int]]]) -> None:
    with pytest.raises(ValueError, match="same number of rounds"):
        turn_medians(wrong)
