"""What this machine does at best, by the runtimes' own kernels: measured once, kept in the store, used by every report."""

from __future__ import annotations

from pathlib import Path

from accel.display import Display
from accel.machine import Peaks


def peaks(store: Path, threads: int, *, screen: Display) -> Peaks | None:
    """The stored figures for this machine, these versions of the runtimes and ``threads``, or newly measured ones.

    None where no runtime that can be timed is here.
    """
    return None
