"""Turning turns into figures: ratios with intervals, and percentiles only where enough was seen.

Throughout, the timings of one row are ``turns[restart][round]``: the nanoseconds of the queries of that turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks import stability
from accel.benchmarks.schedule import MIN_RESTARTS
from accel.benchmarks.student import quantile
from accel.report import Estimate, Latency, Noise, Speedup

Turns = Sequence[Sequence[Sequence[int]]]
Floats = NDArray[np.float64]

CONFIDENCE = 0.99
"""Of each interval by itself. Restarts are added until intervals are narrow or gates are clear, which up to eight looks decide
(schedule.LOOKS); an interval of 99 % at each covers 95 % whichever look is the last (Pocock 1977, Biometrika 64, 191-199: 1.2 %
at each of eight looks spends 5 %; benchmarks/README.md has the simulation)."""

NOISY_BIAS = 0.005
NOISY_SPREAD = 1.10


def turn_medians(turns: Turns) -> Floats:
    """(restarts, rounds): the median of each turn in nanoseconds. ValueError unless every restart has the same rounds."""
    if len({len(rounds) for rounds in turns}) != 1 or not all(len(turn) for rounds in turns for turn in rounds):
        raise ValueError("every restart must have the same number of rounds, and every turn a query")
    return np.array([[np.median(turn) for turn in rounds] for rounds in turns], dtype=np.float64)


def ratio(numerator: Floats, denominator: Floats, *, confidence: float = CONFIDENCE) -> Estimate:
    """How many times ``numerator`` is ``denominator``, with an interval that holds the truth at least 95 times in 100.

    Both are (restarts, rounds), and entry [i, j] of each comes from the same round of the same restart: what disturbs a round
    disturbs both and cancels. The estimate is the mean over restarts of the median over rounds of the log ratio; the interval
    is Student's t over the restarts, which are independent of one another, as rounds are not. ``confidence`` is that of a
    number of restarts fixed beforehand; the default leaves room for having looked (CONFIDENCE). ``ratio(b, a)`` is the
    reciprocal. Fewer than five restarts give no interval.
    """
    if numerator.shape != denominator.shape or numerator.ndim != 2 or 0 in numerator.shape:
        raise ValueError(f"timings of shape {numerator.shape} and {denominator.shape} cannot be paired")
    logs = np.log(np.maximum(numerator, 1.0)) - np.log(np.maximum(denominator, 1.0))
    return _mean(np.median(logs, axis=1), confidence)


def _mean(logs: Floats, confidence: float) -> Estimate:
    """The geometric mean of one figure per restart, given by its logarithms, with Student's interval."""
    restarts = logs.size
    centre = float(logs.mean())
    if restarts < MIN_RESTARTS:
        return Estimate(value=float(np.exp(centre)))
    half = quantile(confidence, restarts - 1) * float(logs.std(ddof=1)) / float(np.sqrt(restarts))
    return Estimate(value=float(np.exp(centre)), low=float(np.exp(centre - half)), high=float(np.exp(centre + half)))


def speedup(row: Turns, vs_name: str, vs: Turns) -> Speedup:
    """How many times faster ``row`` is than the row ``vs_name``: above 1 is faster."""
    ours, theirs = turn_medians(row), turn_medians(vs)
    found = ratio(theirs, ours)
    if stability.stood_still(ours / 1e6) or stability.stood_still(theirs / 1e6):  # 1.0 exactly, and it says nothing
        return Speedup(vs=vs_name, ratio=Estimate(value=found.value), unstable=stability.STOOD_STILL)
    return Speedup(vs=vs_name, ratio=found, unstable=stability.of_ratio(found, len(row)))


def noise(row_name: str, row: Turns, twin: Turns) -> Noise:
    """What the same comparison says of a model and itself.

    ``noisy``: the interval lies more than 0.5 % beside 1, or its ends are more than 10 % apart. (One interval in a hundred
    misses 1 by definition; by half a per cent it should not.) What the machine did meanwhile does not enter: a busy neighbour
    that left the timings alone is no noise, and one that did not shows here.
    """
    found = ratio(turn_medians(row), turn_medians(twin))
    quiet = (
        not stability.stood_still(turn_medians(row) / 1e6)
        and found.low is not None
        and found.high is not None
        and found.low <= 1 + NOISY_BIAS
        and found.high >= 1 - NOISY_BIAS
        and found.high / found.low <= NOISY_SPREAD
    )
    return Noise(row=row_name, ratio=found, verdict="quiet" if quiet else "noisy")


def discardable(queries: int, percentile: float, confidence: float = 0.99) -> int:
    """MLPerf's ``t``: the most queries that may be slower than the limit; -1 where not even 0 are allowed.

    The largest t with P(Binomial(queries, 1 - percentile) <= t) <= 1 - confidence, which is MLPerf's
    ``I(percentile; queries - t, t + 1) <= 1 - confidence`` (inference_rules.adoc, "early stopping", with tolerance 0).
    """
    if queries < 1:
        return -1
    slow = 1.0 - percentile
    most = int(queries * slow) + 1  # beyond its mean the distribution function is far above 1 - confidence
    steps = np.arange(most, dtype=np.float64)
    log_first = queries * np.log1p(-slow)
    log_rest = np.cumsum(np.log((queries - steps) / (steps + 1)) + np.log(slow) - np.log1p(-slow))
    cumulative = np.cumsum(np.exp(np.concatenate([[log_first], log_first + log_rest])))
    return int(np.searchsorted(cumulative, 1.0 - confidence, side="right")) - 1


def early_stopping_percentile(samples: Sequence[int] | NDArray[np.generic], p: float, confidence: float = 0.99) -> float | None:
    """MLPerf's single-stream estimate of the ``p`` quantile (0.9, 0.99), in the unit of ``samples``; None from too few.

    The largest sample after the t - 1 largest are discarded, t = ``discardable``; it needs t >= 1, so 64 queries for the 90th
    percentile and 662 for the 99th. It lies above the sample quantile: with ``confidence``, the true quantile is no larger. The
    median (p = 0.5) is always given, and is the plain one.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    if not ordered.size:
        return None
    if p == 0.5:
        return float(np.median(ordered))
    discarded = discardable(ordered.size, p, confidence) - 1
    if discarded < 0:
        return None
    return float(ordered[ordered.size - 1 - discarded])


def latency(turns: Turns, *, batch_size: int = 1, threads: int = 1) -> Latency:
    """The single-stream figures of one row over all its turns. ValueError where a turn is empty."""
    medians = turn_medians(turns)
    restarts = [
        float(np.median(np.concatenate([np.asarray(turn, dtype=np.float64) for turn in rounds]))) / 1e6 for rounds in turns
    ]
    samples = np.concatenate([np.asarray(turn, dtype=np.float64) for rounds in turns for turn in rounds]) / 1e6
    p50 = early_stopping_percentile(samples, 0.5)
    assert p50 is not None  # there is at least one sample
    interval = _mean(np.log(np.maximum(restarts, 1e-6)), CONFIDENCE)
    low = None if interval.low is None else min(interval.low, p50)  # p50 is of all samples, the interval of restarts' medians
    high = None if interval.high is None else max(interval.high, p50)
    if p50 <= stability.RESOLUTION_MS:  # an interval around nothing would keep any limit
        low = high = None
    return Latency(
        batch_size=batch_size,
        threads=threads,
        queries=samples.size,
        restarts=medians.shape[0],
        rounds=medians.shape[1],
        p50_ms=p50,
        p90_ms=early_stopping_percentile(samples, 0.9),
        p99_ms=early_stopping_percentile(samples, 0.99),
        min_ms=float(samples.min()),
        p50_low_ms=low,
        p50_high_ms=high,
        restart_p50_ms=restarts,
        quantiles_ms=stability.quantiles(samples),
        unstable=stability.of_latency(Estimate(value=p50, low=low, high=high), medians / 1e6),
    )
