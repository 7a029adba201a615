"""Several runners at work at once, a Python thread each: MLPerf's offline scenario. Runs inside the row's own process.

Runtimes release Python's lock while they compute; what is left between two inferences is a few microseconds that only one
thread at a time can spend, as in any Python server.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Barrier
from time import perf_counter_ns

from accel.benchmarks.schedule import DISCARDED

_TOGETHER_S = 60.0


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage collection off, and on again where it was on: it stops every thread."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def run_together(
    calls: Sequence[Callable[[], object]],
    *,
    duration_s: float,
    min_calls: int,
    discard: int = DISCARDED,
    clock: Callable[[], int] = perf_counter_ns,
) -> tuple[int, int]:
    """How many calls all of ``calls`` made together, each again and again in a thread of its own, and in how many nanoseconds.

    Each goes on for at least ``duration_s`` seconds **and** until it has made its share of ``min_calls``; the time is from the
    common start to the end of the last. ``discard`` calls of each come before, one after the other: OpenVINO's binding stops
    for good where two threads hand over their first tensor at the same moment (2026.4: a static of pybind11 that is waited for
    with Python's lock held). Raises what a call raised.
    """
    share = max(1, -(-min_calls // len(calls)))
    budget = int(duration_s * 1e9)

    def work(call: Callable[[], object]) -> tuple[int, int, int]:
        if len(calls) > 1:
            together.wait(_TOGETHER_S)
        start = now = clock()
        made = 0
        while made < share or now - start < budget:
            call()
            made += 1
            now = clock()
            if now <= start and made >= share:  # a clock that stands still ends the turn
                break
        return made, start, now

    together = Barrier(len(calls))
    with no_collection():
        for call in calls:
            for _ in range(discard):
                call()
        if len(calls) == 1:
            found = [work(calls[0])]
        else:
            from concurrent.futures import ThreadPoolExecutor  # 10 ms, and most children run one stream

            with ThreadPoolExecutor(len(calls)) as pool:
                found = list(pool.map(work, calls))
    first, last = min(start for _, start, _ in found), max(end for _, _, end in found)
    return sum(made for made, _, _ in found), max(1, last - first)
