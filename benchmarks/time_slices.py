"""Processes that share a core in slices of a few hundredths of a second, whatever tool they are: all meet the same spells.

On a virtual machine others on the host make a core up to twice as slow, for seconds or minutes. Processes that are timed one
after the other are then timed on different machines; processes that are stopped and continued in turn (SIGSTOP, SIGCONT) while
each believes it has the core to itself are not. A call that a stop falls into comes out long: one in seven of 7 ms and one in
a hundred of 0.5 ms, of whichever tool.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from accel.benchmarks import pinning

SLICE_S = 0.05
AS_FAST = 1.15
"""A loop that takes at most so many times as long as the fastest one was run by a core that nobody slowed."""


class Pace:
    """How fast the core under this process is, as against the fastest that was seen: a loop, timed now and then."""

    def __init__(self) -> None:
        self._fastest = float("inf")
        self._seen: list[float] = []

    def look(self) -> None:
        """Takes about a hundredth of a second."""
        self._seen.append(pinning.loop_s())
        self._fastest = min(self._fastest, self._seen[-1])

    def undisturbed(self) -> float:
        """The share of the looks since the last call that found the core fast."""
        seen, self._seen = self._seen, []
        return sum(taken <= AS_FAST * self._fastest for taken in seen) / max(1, len(seen))


def share(
    groups: Mapping[str, int],
    *,
    seconds: float,
    order: random.Random,
    between: Callable[[], None],
    slice_s: float = SLICE_S,
) -> None:
    """Let the process groups run in turn for ``seconds`` in all, in rounds whose order is drawn anew; then let all run.

    ``groups``: process group numbers by name. ``between``: called before each round, while all are stopped.
    """
    try:
        for group in groups.values():
            pause(group)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            between()
            for name in order.sample(list(groups), len(groups)):
                resume(groups[name])
                time.sleep(slice_s)
                pause(groups[name])
    finally:
        for group in groups.values():
            resume(group)


def pause(group: int) -> None:
    """Stop every process of the group; one that has ended is left alone."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGSTOP)


def resume(group: int) -> None:
    """Let every process of the group go on."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGCONT)
