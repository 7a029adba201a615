"""One turn of one row: call it again and again, and write down how long each call took. Runs inside the row's own process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter_ns

from accel.benchmarks.schedule import DISCARDED

STALLED_CALLS = 1000
"""Calls in a row that take no time at all before the clock counts as standing still."""


def time_turn(
    call: Callable[[], object],
    *,
    duration_s: float,
    min_queries: int,
    discard: int = DISCARDED,
    clock: Callable[[], int] = perf_counter_ns,
) -> list[int]:
    """Nanoseconds of each call of ``call``, for at least ``duration_s`` seconds **and** at least ``min_queries`` calls.

    The first ``discard`` calls are made and dropped: they pay for the caches that the other rows left behind. Garbage
    collection is off during the turn. Every figure is at least 1, so that ratios are defined whatever the clock does; a clock
    that stands still or goes backwards ends the turn once ``min_queries`` (at least one) calls are made.
    """
    wanted = max(1, min_queries)
    budget = int(duration_s * 1e9)
    durations: list[int] = []
    append = durations.append
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(discard):
            call()
        spent = calls = stalled = 0
        while calls < wanted or (spent < budget and stalled < STALLED_CALLS):
            start = clock()
            call()
            taken = clock() - start
            if taken > 0:
                stalled = 0
            else:
                taken = 1
                stalled += 1
            append(taken)
            spent += taken
            calls += 1
    finally:
        if collecting:
            gc.enable()
    return durations
