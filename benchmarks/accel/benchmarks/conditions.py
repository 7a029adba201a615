"""What the machine did while rows were timed: who else used its cores, who held us back, did it slow down.

Read from Linux's /proc and /sys at the start and the end; elsewhere, and where the system does not tell, figures are null.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from statistics import fmean

import numpy as np

from accel.benchmarks import core_ticks
from accel.benchmarks.environment import control_groups
from accel.machine import Conditions

Turns = Sequence[Sequence[Sequence[int]]]

BUSY_SHARE = 0.10
STOLEN_SHARE = 0.02
THROTTLED_SHARE = 0.01
CLOCK_FALL = 0.10
DRIFT = 0.05

_TICK_S = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


@dataclass(frozen=True)
class _Counted:
    """Seconds since some beginning; None where the system does not tell. ``busy_s``, ``stolen_s``: summed over our cores."""

    at: float
    ours_s: float
    busy_s: float | None
    stolen_s: float | None
    throttled_s: Mapping[Path, float]


class Watch:
    """Made when timing starts. ``root`` holds ``proc`` and ``sys`` (another folder in tests)."""

    def __init__(
        self,
        *,
        root: Path = Path("/"),
        cores: Sequence[int] | None = None,
        ours_s: Callable[[], float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._cores = _allowed() if cores is None else list(cores)
        self._ours_s = _ours_s if ours_s is None else ours_s
        self._clock = clock
        self._mhz: list[float] = []
        self._start = self._count()

    def lap(self) -> None:
        """Note the clock frequency: called while the cores are warm from timing, so that an idle clock is not the start."""
        mhz = _mhz(self._root, self._cores)
        if mhz is not None:
            self._mhz.append(mhz)

    def conditions(self, times: Mapping[str, Turns]) -> Conditions:
        """Since the watch was made. Every child must be ended and waited for: only then does the system count it as ours."""
        end, start = self._count(), self._start
        seconds = max(0.0, end.at - start.at)
        capacity_s = seconds * len(self._cores)
        found = Conditions(
            seconds=seconds,
            others_share=_others(start, end, capacity_s),
            steal_share=_share(start.stolen_s, end.stolen_s, capacity_s),
            throttled_s=_throttled(start, end),
            clock_mhz_before=self._mhz[0] if self._mhz else None,
            clock_mhz_after=self._mhz[-1] if self._mhz else None,
            drift=drift(times),
        )
        return found.model_copy(update={"problems": problems(found, len(self._cores))})

    def _count(self) -> _Counted:
        busy, stolen = _busy_and_stolen(self._root, self._cores)
        return _Counted(self._clock(), self._ours_s(), busy, stolen, _held_back(self._root))


def drift(times: Mapping[str, Turns]) -> float | None:
    """How many times longer a query took in the last third of the restarts than in the first, over all rows (1: no change).

    None from fewer than three restarts, and where nothing was timed.
    """
    changes = []
    for turns in times.values():
        logs = [log(max(1.0, float(np.median(np.concatenate(rounds))))) for rounds in turns if any(rounds)]
        if len(logs) >= 3:
            third = len(logs) // 3
            changes.append(fmean(logs[-third:]) - fmean(logs[:third]))
    return exp(fmean(changes)) if changes else None


def problems(found: Conditions, cores: int) -> list[str]:
    """What is bad enough to be said, each with the fact and what to do."""
    said = []
    if found.others_share is not None and found.others_share > BUSY_SHARE:
        of = "the core" if cores == 1 else f"the {cores} cores"
        said.append(
            f"other processes took {_percent(found.others_share)} of {of} while rows were timed: end them, or measure where"
            " nothing else runs; intervals are wider for it"
        )
    if found.steal_share is not None and found.steal_share > STOLEN_SHARE:
        said.append(
            f"the hypervisor gave {_percent(found.steal_share)} of our time to other virtual machines: use a dedicated machine,"
            " or rely on ratios only"
        )
    if found.throttled_s is not None and found.throttled_s > THROTTLED_SHARE * found.seconds:
        said.append(
            f"the control group's CPU quota held us back for {found.throttled_s:.3g} of {found.seconds:.3g} s: raise the quota"
            " to a core more than the threads that are timed"
        )
    before, after = found.clock_mhz_before, found.clock_mhz_after
    if before and after is not None and after < (1 - CLOCK_FALL) * before:
        said.append(
            f"the clock fell from {before:.0f} to {after:.0f} MHz: the processor may be too hot or short of power; cool it or"
            " fix its frequency, and rely on ratios only"
        )
    if found.drift is not None and abs(log(found.drift)) > log(1 + DRIFT):
        slower = found.drift > 1
        change = found.drift - 1 if slower else 1 / found.drift - 1
        said.append(
            f"all rows together became {_percent(change)} {'slower' if slower else 'faster'} between the first third of the"
            " restarts and the last: the machine changed; rely on ratios, not on milliseconds"
        )
    return said


def _allowed() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _ours_s() -> float:
    """CPU seconds of this process and of all its children that have ended and were waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def _busy_and_stolen(root: Path, cores: Sequence[int]) -> tuple[float | None, float | None]:
    """Seconds that ``cores`` worked and that the hypervisor kept from them."""
    ticks = core_ticks.read(root)
    found = [ticks[core] for core in cores if core in ticks]
    if not found or len(found) != len(cores):
        return None, None
    stolen = [each.stolen for each in found if each.stolen is not None]
    return sum(each.busy for each in found) * _TICK_S, sum(stolen) * _TICK_S if len(stolen) == len(found) else None


def _held_back(root: Path) -> dict[Path, float]:
    """Seconds that our control group, or one above it, was stopped for its quota, by file."""
    found = {}
    for folder in control_groups(root, "cpu"):
        for line in _lines(folder / "cpu.stat"):
            key, _, value = line.partition(" ")
            unit = {"throttled_usec": 1e-6, "throttled_time": 1e-9}.get(key)  # version 2, version 1
            if unit is not None and value.strip().isdecimal():
                found[folder] = int(value) * unit
    return found


def _mhz(root: Path, cores: Sequence[int]) -> float | None:
    """Mean clock of ``cores``: what the governor says, or else what the processor does."""
    found = []
    for core in cores:
        lines = _lines(root / f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq")
        if lines and lines[0].strip().isdecimal():
            found.append(int(lines[0]) / 1e3)
    if found:
        return fmean(found)
    here = None
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = (part.strip() for part in line.partition(":"))
        if key == "processor":
            here = int(value) if value.isdecimal() else None
        elif key == "cpu MHz" and here in cores:
            try:
                found.append(float(value))
            except ValueError:
                return None
    return fmean(found) if found else None


def _others(start: _Counted, end: _Counted, capacity_s: float) -> float | None:
    if start.busy_s is None or end.busy_s is None or capacity_s <= 0:
        return None
    busy, ours = end.busy_s - start.busy_s, end.ours_s - start.ours_s
    if busy < ours / 2:  # the system counts less than we know of (sandboxes show a /proc/stat of zeros): it does not tell
        return None
    return min(1.0, max(0.0, (busy - ours) / capacity_s))


def _share(start: float | None, end: float | None, capacity_s: float) -> float | None:
    return None if start is None or end is None or capacity_s <= 0 else min(1.0, max(0.0, (end - start) / capacity_s))


def _throttled(start: _Counted, end: _Counted) -> float | None:
    """Of the group that was held back longest: those above it hold it back at the same time."""
    found = [end.throttled_s[folder] - before for folder, before in start.throttled_s.items() if folder in end.throttled_s]
    return max(0.0, *found) if found else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"
