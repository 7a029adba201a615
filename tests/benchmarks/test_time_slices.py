"""Processes that are stopped and continued in turn: each gets its share, one at a time, and none is left stopped."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import time_slices

WORKS = "import time\nwhile time.process_time() < 60: pass"


@pytest.fixture
def two() -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    made = {name: subprocess.Popen([sys.executable, "-c", WORKS], start_new_session=True) for name in ("a", "b")}
    yield made
    for process in made.values():
        process.kill()
        process.wait()


def columns(process: subprocess.Popen[bytes]) -> list[str]:
    """proc(5), from the state on."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()


def spent_ticks(process: subprocess.Popen[bytes]) -> int:
    return int(columns(process)[11]) + int(columns(process)[12])


def state(process: subprocess.Popen[bytes]) -> str:
    return columns(process)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_each_gets_half_of_the_time_and_goes_on_afterwards(two: dict[str, subprocess.Popen[bytes]]) -> None:
    before = {name: spent_ticks(process) for name, process in two.items()}
    groups = {name: process.pid for name, process in two.items()}
    running: list[str] = []

    def look() -> None:
        time.sleep(0.005)  # a signal takes a moment to arrive
        running.extend(name for name, process in two.items() if state(process) != "T")

    time_slices.share(groups, seconds=1.0, order=random.Random(0), between=look, slice_s=0.02)
    assert running == []
    spent = {name: spent_ticks(process) - before[name] for name, process in two.items()}
    assert all(1 <= ticks <= 85 for ticks in spent.values()), spent  # of 100: two that run all the time had 100 each
    assert all(state(process) in "RS" for process in two.values())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_ends_meanwhile_and_an_interrupt_leave_nobody_stopped(two: dict[str, subprocess.Popen[bytes]]) -> None:
    class Interrupted(random.Random):
        rounds = 0

        def sample(self, *arguments: object) -> list[str]:  # type: ignore[override]
            self.rounds += 1
            if self.rounds == 2:
                two["b"].kill()
                two["b"].wait()
            if self.rounds == 4:
                raise KeyboardInterrupt
            return ["a", "b"]

    with pytest.raises(KeyboardInterrupt):
        groups = {name: process.pid for name, process in two.items()}
        time_slices.share(groups, seconds=9, order=Interrupted(), between=lambda: None, slice_s=0.01)
    assert state(two["a"]) in "RS"


def test_the_pace_is_held_against_the_fastest_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([2.0, 1.0, 1.1, 2.0, 1.0, 0.5])
    monkeypatch.setattr("accel.benchmarks.pinning.loop_s", lambda: next(taken))
    pace = time_slices.Pace()
    assert pace.undisturbed() == 0.0
    for _ in range(4):
        pace.look()
    assert pace.undisturbed() == 0.5
    pace.look()
    assert pace.undisturbed() == 1.0
    pace.look()
    assert pace.undisturbed() == 1.0
