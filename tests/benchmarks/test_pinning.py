from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from accel.benchmarks import pinning
from accel.errors import UsageError

pytestmark = pytest.mark.skipif(not pinning.available(), reason="this system does not let a process choose its cores")


def siblings(root: Path, *groups: str) -> Path:
    for group in groups:
        for core in group.split(","):
            folder = root / f"sys/devices/system/cpu/cpu{core}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"{group}\n")
    return root


def test_the_first_of_the_allowed_cores(tmp_path: Path) -> None:
    assert pinning.chosen(2, allowed=[5, 3, 9], root=tmp_path) == [3, 5]
    assert pinning.chosen(8, allowed=[1, 0], root=tmp_path) == [0, 1]


def test_a_physical_core_is_taken_once_before_any_is_taken_twice(tmp_path: Path) -> None:
    root = siblings(tmp_path, "0,1", "2,3")
    assert pinning.chosen(2, allowed=[0, 1, 2, 3], root=root) == [0, 2]
    assert pinning.chosen(3, allowed=[0, 1, 2, 3], root=root) == [0, 1, 2]


def test_a_busy_core_comes_last_and_so_does_the_one_it_shares_its_units_with(tmp_path: Path) -> None:
    assert pinning.chosen(1, allowed=[0, 1], working={0: 0.9, 1: 0.1}, root=tmp_path) == [1]
    assert pinning.chosen(2, allowed=[0, 1], working={0: 0.9, 1: 0.1}, root=tmp_path) == [0, 1]
    assert pinning.chosen(1, allowed=[0, 1], working={0: 0.2, 1: 0.0}, root=tmp_path) == [0], "a little is nothing"
    assert pinning.chosen(1, allowed=[0, 1], working={0: 1.0, 1: 0.4}, root=tmp_path) == [1], "the less busy of two"
    root = siblings(tmp_path, "0,1", "2,3")
    assert pinning.chosen(1, allowed=[0, 2], working={1: 1.0}, root=root) == [2], "core 1 is not ours, and is in the way"
    assert pinning.chosen(3, allowed=[0, 1, 2, 3], working={1: 1.0}, root=root) == [0, 2, 3]


def test_a_slow_core_comes_after_a_fast_one_and_before_a_busy_one(tmp_path: Path) -> None:
    assert pinning.chosen(1, allowed=[0, 1], slow={0: 1.9, 1: 1.0}, root=tmp_path) == [1]
    assert pinning.chosen(1, allowed=[0, 1], slow={0: 1.04, 1: 1.0}, root=tmp_path) == [0], "a little is chance"
    assert pinning.chosen(1, allowed=[0, 1], slow={0: 1.0, 1: 1.9}, working={0: 1.0, 1: 0.0}, root=tmp_path) == [1]
    root = siblings(tmp_path, "0,1", "2,3")
    assert pinning.chosen(2, allowed=[0, 1, 2, 3], slow={2: 1.4}, root=root) == [0, 2], (
        "a second thread of a core is slower still"
    )


def test_how_slow_each_core_is() -> None:
    cores = pinning.usable()
    before = os.sched_getaffinity(0)
    ticks = iter(range(1_000_000))
    assert pinning.slowness(cores, clock=lambda: next(ticks)) == dict.fromkeys(cores, 1.0)
    found = pinning.slowness(cores[:1])
    assert found == {cores[0]: 1.0}
    assert os.sched_getaffinity(0) == before
    assert pinning.slowness([]) == {}


def test_how_busy_each_core_is(tmp_path: Path) -> None:
    stat = tmp_path / "proc/stat"
    stat.parent.mkdir()
    stat.write_text("cpu  9 9 9 9 9 9 9 9\ncpu0 100 0 0 500 0 0 0 0\ncpu1 7 0 0 9 0 0 0 0\nintr 5\n")

    def later(seconds: float) -> None:
        assert seconds == 0.2
        stat.write_text("cpu  9 9 9 9 9 9 9 9\ncpu0 104 1 1 513 1 0 0 0\ncpu1 7 0 0 9 0 0 0 0\nintr 5\n")

    assert pinning.busy(seconds=0.2, root=tmp_path, sleep=later) == {0: 0.3}, "core 1 did not move at all: it tells nothing"
    assert pinning.busy(seconds=0.0, root=tmp_path / "nowhere") == {}


def test_a_process_that_works_is_seen() -> None:
    core = pinning.chosen(1)
    program = (
        "import sys; from accel.benchmarks import pinning\npinning.pin([int(sys.argv[1])])\nprint(flush=True)\nwhile True: pass"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(core[0])], stdout=subprocess.PIPE) as working:
        assert working.stdout is not None
        working.stdout.readline()
        try:
            assert pinning.busy(seconds=0.5)[core[0]] > pinning.BUSY_SHARE
        finally:
            working.kill()


def test_only_cores_that_this_process_may_use() -> None:
    assert pinning.chosen(1) == sorted(os.sched_getaffinity(0))[:1]


def test_every_thread_moves_also_those_that_were_there_before() -> None:
    program = (
        "import os, threading; from accel.benchmarks import pinning\n"
        "stop = threading.Event(); old = threading.Thread(target=stop.wait); old.start()\n"
        "core = pinning.chosen(1); pinning.pin(core)\n"
        "new = threading.Thread(target=stop.wait); new.start()\n"
        "held = [sorted(os.sched_getaffinity(int(task))) for task in os.listdir('/proc/self/task')]\n"
        "assert held == [core] * 3, held\n"
        "stop.set()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_cores_that_are_not_there_are_refused() -> None:
    with pytest.raises(UsageError, match=r"benchmark\.pinning: cores 1023 are not to be had .*; set pinning: false"):
        pinning.pin([1023])
