"""Queries that arrive by themselves, at random moments, and wait their turn: MLPerf's server scenario.

The loop is open: a slow answer delays no arrival, and a query's latency counts from the moment it was due, so that a queue
which builds up is seen (a closed loop that waits for each answer leaves it out: "coordinated omission").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Literal

from accel.benchmarks.concurrent import no_collection

LEAD_NS = 20_000_000
"""From the start to the moment the arrivals count from: the threads are up by then."""

SPIN_NS = 50_000
"""Before a query is due, the last of the waiting is done awake: a sleep ends about so much late."""

_LOOK_S = 0.1


def poisson(rate_per_s: float, queries: int, seed: int | str) -> list[int]:
    """When ``queries`` queries are due, in ascending nanoseconds: gaps are exponential with mean ``1 / rate_per_s``.

    The same seed gives the same gaps at every rate, longer or shorter: of two rates the higher one is never the easier by luck.
    """
    generator = Random(seed)
    due, found = 0.0, []
    for _ in range(queries):
        due += generator.expovariate(1.0)
        found.append(int(due / rate_per_s * 1e9))
    return found


@dataclass(frozen=True)
class Served:
    """``latencies_ns``: of the answered queries, in order of arrival. ``ended``: ``all`` were answered; more were ``late``
    than allowed; or the ``time`` was up."""

    latencies_ns: list[int]
    ended: Literal["all", "late", "time"]


def wait_until(
    due_ns: int, clock: Callable[[], int] = time.perf_counter_ns, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return at ``due_ns``, at once where that is over. Asleep but for the end: there may be one core, and others work on it.

    Even awake it gives Python's lock away at each look.
    """
    while (left := due_ns - clock()) > 0:
        sleep(min(_LOOK_S, (left - SPIN_NS) / 1e9) if left > SPIN_NS else 0.0)


def serve(
    calls: Sequence[Callable[[], object]],
    due_ns: Sequence[int],
    *,
    bound_ns: int,
    allowed_late: int,
    limit_s: float,
    clock: Callable[[], int] = time.perf_counter_ns,
    wait: Callable[[int], None] | None = None,
) -> Served:
    """Answer queries due at ``due_ns`` (from the start) with ``calls``, a thread each, first come, first served.

    A thread that is free takes the next query in order of arrival, waits until it is due, and answers it: the same as one queue
    before them all. It ends early once more than ``allowed_late`` queries took longer than ``bound_ns``, or after ``limit_s``.
    Raises what a call raised. ``wait``: until a moment of ``clock``.
    """
    pause = wait or (lambda moment: wait_until(moment, clock))
    latencies: list[int | None] = [None] * len(due_ns)
    late: list[int] = []
    ended: list[Literal["late", "time"]] = []
    turn = count()
    start = clock() + (LEAD_NS if len(calls) > 1 else 0)
    last = start + int(limit_s * 1e9)

    def work(call: Callable[[], object]) -> None:
        try:
            while not ended and (index := next(turn)) < len(due_ns):
                due = start + due_ns[index]
                if due > last:
                    ended.append("time")
                    return
                pause(due)
                if ended:
                    return
                call()
                now = clock()
                latencies[index] = now - due
                if now - due > bound_ns:
                    late.append(index)
                if len(late) > allowed_late:
                    ended.append("late")
                elif now > last:
                    ended.append("time")
        except BaseException:
            ended.append("time")  # the others stop too
            raise

    with no_collection():
        if len(calls) == 1:
            work(calls[0])
        else:
            with ThreadPoolExecutor(len(calls)) as pool:
                list(pool.map(work, calls))
    return Served([each for each in latencies if each is not None], ended[0] if ended else "all")
