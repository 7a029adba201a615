"""Turning turns into figures: ratios with intervals, and percentiles only where enough was seen.

Throughout, the timings of one row are ``turns[restart][round]``: the nanoseconds of the queries of that turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks.schedule import MIN_RESTARTS
from accel.report import Estimate, Latency, Noise, Speedup

Turns = Sequence[Sequence[Sequence[int]]]
Floats = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_ERROR = 0.5
NOISY_BIAS = 0.005
NOISY_SPREAD = 1.10


def turn_medians(turns: Turns) -> Floats:
    """(restarts, rounds): the median of each turn in nanoseconds. ValueError unless every restart has the same rounds."""
    if len({len(rounds) for rounds in turns}) != 1 or not all(len(turn) for rounds in turns for turn in rounds):
        raise ValueError("every restart must have the same number of rounds, and every turn a query")
    return np.array([[np.median(turn) for turn in rounds] for rounds in turns], dtype=np.float64)


def ratio(numerator: Floats, denominator: Floats, *, resamples: int = RESAMPLES, seed: int = 0) -> Estimate:
    """How many times ``numerator`` is ``denominator``, with its 95 % interval.

    Both are (restarts, rounds), and entry [i, j] of each comes from the same round of the same restart: what disturbs a round
    disturbs both and cancels. The estimate is the mean over restarts of the median over rounds of the log ratio. The interval
    is a two-level bootstrap (restarts are resampled, then rounds within each), studentized: each resample is divided by its own
    standard error over restarts (at least half of the original one), and the 95th percentile of the absolute values says how
    many standard errors to go either way (Efron and Tibshirani 1993, section 12.5; Davison and Hinkley 1997, section 3.8).
    That division is what makes five restarts enough: a percentile bootstrap of five covers 85 %, this 93 to 96 %
    (benchmarks/README.md). ``ratio(b, a)`` is the reciprocal. Fewer than five restarts give no interval.
    """
    if numerator.shape != denominator.shape or numerator.ndim != 2 or 0 in numerator.shape:
        raise ValueError(f"timings of shape {numerator.shape} and {denominator.shape} cannot be paired")
    logs = np.log(np.maximum(numerator, 1.0)) - np.log(np.maximum(denominator, 1.0))
    restarts, rounds = logs.shape
    by_restart = np.median(logs, axis=1)
    centre = float(by_restart.mean())
    if restarts < MIN_RESTARTS:
        return Estimate(value=float(np.exp(centre)))
    error = _standard_error(by_restart)
    generator = np.random.default_rng(seed)
    which = generator.integers(restarts, size=(resamples, restarts, 1))
    when = generator.integers(rounds, size=(resamples, restarts, rounds))
    resampled = np.median(logs[which, when], axis=2)
    errors = _standard_error(resampled)
    away = np.abs(resampled.mean(axis=1) - centre)
    tiny = np.finfo(np.float64).tiny
    # Where one restart of five is unlike the others, a third of the resamples miss it and have next to no spread of their own:
    # without the floor, dividing by that would make the interval of a 2 % outlier reach from 0.01 to 30.
    floor = float(max(LEAST_ERROR * float(error), tiny))
    studentized = np.where(away <= 1e-15, 0.0, away / np.maximum(errors, floor))
    half = float(np.quantile(studentized, CONFIDENCE) * error)
    return Estimate(value=float(np.exp(centre)), low=float(np.exp(centre - half)), high=float(np.exp(centre + half)))


def _standard_error(by_restart: Floats) -> Floats:
    """Of the mean over the last axis."""
    count = by_restart.shape[-1]
    return cast("Floats", by_restart.std(axis=-1, ddof=1) / np.sqrt(count))


def speedup(row: Turns, vs_name: str, vs: Turns) -> Speedup:
    """How many times faster ``row`` is than the row ``vs_name``: above 1 is faster."""
    return Speedup(vs=vs_name, ratio=ratio(turn_medians(vs), turn_medians(row)))


def noise(row_name: str, row: Turns, twin: Turns) -> Noise:
    """What the same comparison says of a model and itself.

    ``noisy``: the interval lies more than 0.5 % beside 1, or its ends are more than 10 % apart. (One interval in twenty misses
    1 by definition; by half a per cent it should not.)
    """
    found = ratio(turn_medians(row), turn_medians(twin))
    quiet = (
        found.low is not None
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
    samples = np.concatenate([np.asarray(turn, dtype=np.float64) for rounds in turns for turn in rounds]) / 1e6
    p50 = early_stopping_percentile(samples, 0.5)
    assert p50 is not None  # there is at least one sample
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
    )
