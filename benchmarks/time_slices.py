"""Processes that share a core in slices of a few hundredths of a second, whatever tool they are: all meet the same spells.

On a virtual machine others on the host make a core up to twice as slow, for seconds or minutes. Processes that are timed one
after the other are then timed on different machines; processes that are stopped and continued in turn (SIGSTOP, SIGCONT) while
each believes it has the core to itself are not. A call that a stop falls into comes out long, one in a hundred or fewer: the
median does not see it.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Mapping
from contextlib import suppress

SLICE_S = 0.05


def share(groups: Mapping[str, int], *, seconds: float, order: random.Random, slice_s: float = SLICE_S) -> None:
    """Let the process groups run in turn for ``seconds`` in all, in rounds whose order is drawn anew; then let all run.

    ``groups``: process group numbers by name. Each is expected to be stopped, or to wait for its first slice.
    """
    try:
        for group in groups.values():
            pause(group)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
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
