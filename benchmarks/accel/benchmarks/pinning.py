"""Keeping a process on some of its cores, so that the scheduler does not move it about while it is timed. Linux only."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from accel.errors import UsageError


def available() -> bool:
    """Whether this system lets a process choose its cores."""
    return hasattr(os, "sched_setaffinity")


def chosen(count: int, *, allowed: Sequence[int] | None = None, root: Path = Path("/")) -> list[int]:
    """The first ``count`` of the cores that this process may use, in ascending order; all of them where there are fewer.

    Threads of one physical core share its units: the first of each core comes before any second one.
    """
    if allowed is None:
        allowed = sorted(os.sched_getaffinity(0)) if available() else []
    taken: set[str] = set()
    firsts: list[int] = []
    seconds: list[int] = []
    for core in sorted(allowed):
        siblings = _siblings(core, root)
        (seconds if siblings in taken else firsts).append(core)
        taken.add(siblings)
    return sorted([*firsts, *seconds][:count])


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
