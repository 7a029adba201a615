"""What the machine did: over a /proc and /sys that are made up, and once over those of this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel.benchmarks.conditions import Watch, drift, problems
from accel.machine import Conditions

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Machine:
    """A root folder with two cores; what it counts is set in seconds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 100.0
        self.ours = 5.0
        self.set()

    def set(self, *, busy: tuple[float, float] = (10, 10), stolen: float = 1, throttled: float = 0, mhz: float = 3000) -> None:
        def ticks(seconds: float) -> int:
            return round(seconds / TICK_S)

        cores = "".join(
            f"cpu{core} {ticks(seconds)} 0 0 5000 3 0 0 {ticks(stolen / 2)} 0 0\n" for core, seconds in enumerate(busy)
        )
        self._write("proc/stat", f"cpu  1 2 3 4 5 6 7 8 0 0\n{cores}intr 5\n")
        self._write("proc/self/cgroup", "0::/ours\n")
        self._write("sys/fs/cgroup/ours/cpu.stat", f"usage_usec 5\nnr_throttled 1\nthrottled_usec {round(throttled * 1e6)}\n")
        self._write("proc/cpuinfo", "".join(f"processor\t: {core}\ncpu MHz\t\t: {mhz}\n\n" for core in (0, 1)))

    def _write(self, path: str, text: str) -> None:
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def watch(self, *cores: int) -> Watch:
        return Watch(root=self.root, cores=cores or (0, 1), ours_s=lambda: self.ours, clock=lambda: self.now)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_quiet_machine_has_no_problems(machine: Machine) -> None:
    watch = machine.watch()
    watch.lap()
    machine.now, machine.ours = 110.0, 14.0
    machine.set(busy=(15, 14.5), mhz=2950)
    watch.lap()
    found = watch.conditions({})
    assert found.seconds == pytest.approx(10)
    assert found.others_share == pytest.approx(0.5 / 20)
    assert found.steal_share == 0
    assert found.throttled_s == 0
    assert (found.clock_mhz_before, found.clock_mhz_after) == (3000, 2950)
    assert found.drift is None
    assert found.problems == []


def test_a_busy_machine_is_said(machine: Machine) -> None:
    watch = machine.watch()
    watch.lap()
    machine.now, machine.ours = 110.0, 14.0
    machine.set(busy=(20, 19), stolen=2, throttled=0.5, mhz=2400)
    watch.lap()
    found = watch.conditions({"a": [[[1000]]] * 5 + [[[1100]]]})
    assert found.others_share == pytest.approx(10 / 20)
    assert found.steal_share == pytest.approx(1 / 20)
    assert found.throttled_s == pytest.approx(0.5)
    texts = [
        "other processes took 50 % of the 2 cores",
        "the hypervisor gave 5 % of our time",
        "held us back for 0.5 of 10 s",
        "the clock fell from 3000 to 2400 MHz",
    ]
    assert [text for text, said in zip(texts, found.problems, strict=True) if text in said] == texts


def test_only_our_cores_count(machine: Machine) -> None:
    watch = machine.watch(1)
    machine.now, machine.ours = 110.0, 14.0
    machine.set(busy=(20, 19.5))
    found = watch.conditions({})
    assert found.others_share == pytest.approx(0.5 / 10)


def test_version_1_of_control_groups(machine: Machine) -> None:
    (machine.root / "proc/self/cgroup").write_text("4:cpu,cpuacct:/ours\n")
    place = machine.root / "sys/fs/cgroup/cpu/ours"
    place.mkdir(parents=True)
    (place / "cpu.stat").write_text("nr_periods 1\nthrottled_time 1000000000\n")
    watch = machine.watch()
    machine.now = 110.0
    (place / "cpu.stat").write_text("nr_periods 1\nthrottled_time 3500000000\n")
    assert watch.conditions({}).throttled_s == pytest.approx(2.5)


def test_the_governor_is_asked_first(machine: Machine) -> None:
    for core, khz in ((0, "3100000\n"), (1, "2900000\n")):
        place = machine.root / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        place.mkdir(parents=True)
        (place / "scaling_cur_freq").write_text(khz)
    watch = machine.watch()
    watch.lap()
    assert watch.conditions({}).clock_mhz_before == 3000


@pytest.mark.parametrize("stat", ["", "cpu0 1 2\ncpu1 1 2\n", "cpu0 a b c d e f g\n", "cpu0 1 2 3 4 5 6 7 8\n", None], ids=str)
def test_what_the_system_does_not_tell_is_null(tmp_path: Path, stat: str | None) -> None:
    if stat is not None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/stat").write_text(stat)
    watch = Watch(root=tmp_path, cores=(0, 1))
    watch.lap()
    found = watch.conditions({})
    assert (found.others_share, found.steal_share, found.throttled_s) == (None, None, None)
    assert (found.clock_mhz_before, found.clock_mhz_after, found.drift, found.problems) == (None, None, None, [])


def test_a_system_that_counts_nothing_does_not_say_that_nobody_else_is_here(machine: Machine) -> None:
    watch = machine.watch()
    machine.now, machine.ours = 110.0, 14.0  # we worked nine seconds, and /proc/stat did not move
    assert watch.conditions({}).others_share is None


def test_a_clock_that_does_not_move_divides_by_nothing(machine: Machine) -> None:  # fault 49
    watch = machine.watch()
    machine.set(busy=(20, 20), throttled=0)
    found = watch.conditions({})
    assert (found.seconds, found.others_share, found.steal_share) == (0, None, None)
    machine.now = 50.0
    assert watch.conditions({}).seconds == 0


def test_drift_is_of_all_rows_and_of_the_thirds() -> None:
    assert drift({}) is None
    assert drift({"a": [[[1000]], [[1000]]]}) is None
    rising = [[[1000, 1000]], [[1000, 1000]], [[5000]], [[5000]], [[1100]], [[1100]]]
    assert drift({"a": rising}) == pytest.approx(1.1)
    assert drift({"a": rising, "b": rising[::-1]}) == pytest.approx(1.0)
    assert drift({"still": [[[0]]] * 6}) == 1


def test_drift_is_said_in_both_directions() -> None:
    def said(change: float) -> list[str]:
        return problems(Conditions(seconds=10, drift=change), 2)

    assert said(1.04) == said(0.97) == []
    assert "became 8 % slower" in said(1.08)[0]
    assert "became 25 % faster" in said(0.8)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_here_our_own_children_are_not_others() -> None:
    watch = Watch()
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    found = watch.conditions({})
    assert found.seconds == pytest.approx(time.monotonic() - began, abs=0.1)
    if found.others_share is not None:
        cores = len(os.sched_getaffinity(0))
        busy = found.others_share * cores * found.seconds
        assert busy <= cores * found.seconds - 0.25, "the 0.3 s of our own child were counted as another's"
