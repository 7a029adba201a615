"""The highest rate of arrivals at which the 99th percentile keeps a bound."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from accel.benchmarks.arrivals import Served
from accel.benchmarks.statistics import discardable

FEWEST_QUERIES = 662
"""Below that MLPerf's early-stopping rule gives no 99th percentile (statistics.early_stopping_percentile)."""

MOST_QUERIES = 5000
TOLERANCE = 0.02
FIRST_SHARE = 0.75
"""Of what it answers at most: where a fixed service time and a bound of ten of them put the answer, about."""

STEP = 1.15
LEAST_SHARE = 0.02
_SLACK = 1.1

Attempt = Callable[[float, float], Served]
"""``(rate, seconds left)``: serve at that rate, for no longer than that."""


@dataclass(frozen=True)
class Found:
    """``rate_per_s``: the highest that was kept, None where none was. ``latencies_ns``: of the queries at that rate.

    ``narrow``: a rate at most 2 % above it was not kept; else the time was up before.
    """

    rate_per_s: float | None
    latencies_ns: list[int]
    narrow: bool
    attempts: int


def allowed_late(queries: int) -> int:
    """How many of ``queries`` may be later than the bound that the 99th percentile keeps, by MLPerf's early-stopping rule.

    With so many ``early_stopping_percentile(latencies, 0.99) <= bound``; -1: too few queries.
    """
    return discardable(queries, 0.99) - 1


def planned(slowest_per_s: float, seconds: float) -> int:
    """Queries of one attempt, the same for every row: about ``seconds`` of them at ``slowest_per_s``, 662 to 5000."""
    return max(FEWEST_QUERIES, min(MOST_QUERIES, int(slowest_per_s * seconds)))


def search(
    attempt: Attempt,
    *,
    queries: int,
    capacity_per_s: float,
    limit_s: float,
    guess: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """The highest rate below ``capacity_per_s`` that ``attempt`` serves in full, to 2 %, in about ``limit_s`` seconds.

    From ``guess`` (another restart's answer), or else from three quarters of the capacity, it steps up or down until the answer
    lies between two rates, then halves (geometrically). No rate above the capacity is tried: for a while a queue can grow
    unnoticed. A rate whose ``queries`` cannot arrive in the time that is left is not tried either.
    """
    began = clock()
    kept: Found | None = None
    low, high = 0.0, capacity_per_s
    rate = min(guess or FIRST_SHARE * capacity_per_s, capacity_per_s / (1 + TOLERANCE))
    attempts = 0
    while rate >= LEAST_SHARE * capacity_per_s:
        left = limit_s - (clock() - began)
        if queries / rate * _SLACK > left:
            return Found(low or None, kept.latencies_ns if kept else [], False, attempts)
        served = attempt(rate, left)
        attempts += 1
        if served.ended == "time":
            return Found(low or None, kept.latencies_ns if kept else [], False, attempts)
        if served.ended == "all":
            low, kept = rate, Found(rate, served.latencies_ns, True, attempts)
        else:
            high = rate
        if low and high <= low * (1 + TOLERANCE):
            break
        if not low:
            rate = high / STEP
        elif low * STEP < high:
            rate = low * STEP
        else:
            rate = (low * high) ** 0.5
    return Found(low or None, kept.latencies_ns if kept else [], True, attempts)
