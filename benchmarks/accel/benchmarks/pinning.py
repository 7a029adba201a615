"""Keeping processes that are compared on the same cores while they are timed. Linux only.

On a virtual machine each core has a neighbour of its own, and its own spells of running a fifth slower. Rows on different cores
meet different ones; rows on one core meet the same, which cancels in their ratio.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from math import log
from pathlib import Path

from accel.benchmarks import core_ticks
from accel.errors import UsageError

WATCHED_S = 0.1
BUSY_SHARE = 0.3
"""Of a core's time. Cores are ranked by how many times this others take of them: a smaller difference is chance."""

SLOWER = 1.15
"""Cores are ranked by how many times this factor they are slower: a smaller difference is chance."""

_LOOPS, _LOOP = 21, 40_000


def available() -> bool:
    """Whether this system lets a process choose its cores."""
    return hasattr(os, "sched_setaffinity")


def usable() -> list[int]:
    """The cores that this process may use; none where the system does not let it choose."""
    return sorted(os.sched_getaffinity(0)) if available() else []


def busy(
    *, seconds: float = WATCHED_S, root: Path = Path("/"), sleep: Callable[[float], None] = time.sleep
) -> dict[int, float]:
    """The share of its time that each core works, for whomever, in the next ``seconds``; empty where the system is silent."""
    before = core_ticks.read(root)
    sleep(seconds)
    found = {}
    for core, now in core_ticks.read(root).items():
        then = before.get(core, now)
        passed = now.busy + now.idle - then.busy - then.idle
        if passed > 0:
            found[core] = (now.busy - then.busy) / passed
    return found


def loop_s(*, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds that a loop of always the same length takes here and now: the median of some twenty, half a millisecond each."""
    taken = []
    for _ in range(_LOOPS):
        began = clock()
        for _ in range(_LOOP):
            pass
        taken.append(clock() - began)
    return max(sorted(taken)[_LOOPS // 2], 1e-9)


def slowness(cores: Sequence[int], *, clock: Callable[[], float] = time.perf_counter) -> dict[int, float]:
    """How many times longer the same loop takes on each core than on the fastest of them; about 0.02 s a core.

    On a virtual machine this shows what ``busy`` cannot: what others do on the host. The calling thread is put back afterwards.
    """
    before = os.sched_getaffinity(0)
    found = {}
    try:
        for core in cores:
            os.sched_setaffinity(0, {core})
            found[core] = loop_s(clock=clock)
    finally:
        os.sched_setaffinity(0, before)
    fastest = min(found.values(), default=1.0)
    return {core: seconds / fastest for core, seconds in found.items()}


def chosen(
    count: int,
    *,
    allowed: Sequence[int] | None = None,
    working: Mapping[int, float] | None = None,
    slow: Mapping[int, float] | None = None,
    root: Path = Path("/"),
) -> list[int]:
    """The first ``count`` of the cores that this process may use, in ascending order; all of them where there are fewer.

    ``working``: what ``busy`` found; the busier a physical core, the later it comes. Threads of one physical core share its
    units: the first of each comes before any second one. ``slow``: what ``slowness`` found; slower ones come later.
    """
    if allowed is None:
        allowed = usable()
    siblings = {core: _siblings(core, root) for core in sorted({*allowed, *(working or {})})}
    shares: dict[str, float] = {}
    for core, share in (working or {}).items():
        shares[siblings[core]] = max(share, shares.get(siblings[core], 0.0))
    taken: set[str] = set()
    ranked = []
    for core in sorted(allowed):
        group = siblings[core]
        slower = round(log((slow or {}).get(core, 1.0)) / log(SLOWER))
        ranked.append((int(shares.get(group, 0.0) / BUSY_SHARE), group in taken, slower, core))
        taken.add(group)
    return sorted(core for *_, core in sorted(ranked)[:count])


def pin(cores: Sequence[int]) -> None:
    """Move every thread of this process to ``cores``; those it starts later inherit that. UsageError where it may not.

    Libraries that were imported before have started threads already, and ``sched_setaffinity`` moves only the one it is given.
    """
    if not available():
        raise UsageError("benchmark.pinning: this system does not let a process choose its cores; set pinning: false")
    try:
        os.sched_setaffinity(0, cores)
        for task in _threads():
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setaffinity(task, cores)
    except OSError as error:
        found = f"cores {', '.join(map(str, cores))} are not to be had ({error.strerror})"
        raise UsageError(f"benchmark.pinning: {found}; set pinning: false") from error


def _threads() -> list[int]:
    try:
        return sorted(int(task.name) for task in Path("/proc/self/task").iterdir())
    except OSError:
        return []


def _siblings(core: int, root: Path) -> str:
    """What the threads of one physical core have in common; the core's own number where the system does not tell."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text().strip() or str(core)
    except OSError:
        return str(core)
