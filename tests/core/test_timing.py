"""The interleaved comparison over children that are made up: what it costs, when it ends, what it survives."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from accel.atomic import exclusive
from accel.benchmarks import statistics
from accel.benchmarks.schedule import LOOKS, twin_name
from accel.display import Silent
from accel.errors import AccelError, WorkerFault
from accel.model import Target
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.rows import Subject, Turns
from accel.sessions import Failed, Sessions
from accel.timing import Enough, Timed, compare, twinned
from accel.worker import Worker

FP32, INT8 = "fp32", "int8"


def subject(name: str, role: Any = "result") -> Subject:
    return Subject(name=name, role=role, target_name=None, target=Target(name, "onnxruntime", "cpu"), model={}, folder=None)


BOTH = (subject(FP32, "baseline"), subject(INT8))


class Children:
    """Stands for Sessions and its workers: a machine with a clock of its own.

    ``slower``: how many times a query of a row takes 1 ms; ``process``, ``turn``: standard deviations between processes and
    between turns; ``lost``: (restart, row) at which a row dies, while starting or in its first turn.
    """

    def __init__(
        self,
        *,
        slower: Mapping[str, float] | None = None,
        process: float = 0.006,
        turn: float = 0.002,
        start_s: float = 0.5,
        seed: int = 0,
        dies_starting: tuple[int, str] | None = None,
        dies_in_turn: tuple[int, str] | None = None,
        stands_still: bool = False,
    ) -> None:
        self.now = 0.0
        self.restarts = 0
        self.open = 0
        self.asked: list[tuple[int, str]] = []
        self._slower = slower or {}
        self._process, self._turn = process, turn
        self._start_s = start_s
        self._random = Random(seed)
        self._dies_starting, self._dies_in_turn = dies_starting, dies_in_turn
        self._stands_still = stands_still
        self._level: dict[str, float] = {}

    def start(self, subjects: Mapping[str, Subject], failed: Failed) -> dict[str, Worker]:
        assert self.open == 0, "the children of the restart before were not ended"
        self.restarts += 1
        self.now += self._start_s
        workers: dict[str, Worker] = {}
        for name, of in subjects.items():
            if (self.restarts, name) == self._dies_starting:
                failed(name, WorkerFault(f"{name}: died"))
                continue
            self._level[name] = self._slower.get(of.name, 1.0) * (1 + self._random.gauss(0, self._process))
            workers[name] = cast("Worker", self)
            self.open += 1
        return workers

    def close(self) -> None:
        self.open -= 1

    def ask(self, workers: dict[str, Worker], name: str, failed: Failed, method: str, **arguments: Any) -> Any:
        if method == "warm_up":
            self.now += 1e-3 * arguments["queries"]
            return None
        if (self.restarts, name) == self._dies_in_turn:
            workers.pop(name).close()
            failed(name, WorkerFault(f"{name}: died"))
            return None
        self.asked.append((self.restarts, name))
        self.now += arguments["duration_s"]
        if self._stands_still:
            return [1] * arguments["min_queries"]
        query_ns = int(1e6 * self._level[name] * (1 + self._random.gauss(0, self._turn)))
        return [query_ns] * max(arguments["min_queries"], int(arguments["duration_s"] * 1e9 / query_ns) + 1)


def timed(
    children: Children,
    folder: Path,
    *subjects: Subject,
    enough: Enough | None = None,
    lost: list[str] | None = None,
    **settings: Any,
) -> Timed:
    def failed(name: str, error: AccelError) -> None:
        if lost is None:
            raise error
        lost.append(name)

    return compare(
        subjects or BOTH,
        cast("Sessions", children),
        BenchmarkSettings(**({"min_duration_s": 1.0} | settings)),
        seed=0,
        screen=Silent(),
        lock=folder / "lock",
        lost=failed,
        enough=enough,
        clock=lambda: children.now,
    )


def widest(found: Timed) -> float:
    medians = {name: statistics.turn_medians(turns) for name, turns in found.times.items()}
    widths = []
    for above, below in ((FP32, INT8), (INT8, twin_name(INT8))):
        ratio = statistics.ratio(medians[above], medians[below])
        assert ratio.low is not None
        assert ratio.high is not None
        widths.append(ratio.high / ratio.low - 1)
    return max(widths)


def test_a_quiet_machine_is_done_after_the_least_that_was_asked_for(tmp_path: Path) -> None:
    children = Children(process=0.0001)
    found = timed(children, tmp_path)
    assert found.stopped == "narrow"
    assert found.plan is not None
    assert found.plan.restarts == children.restarts
    assert children.restarts <= 8
    assert set(found.times) == {FP32, INT8, twin_name(INT8)}
    for turns in found.times.values():
        assert len(turns) == children.restarts
        assert {len(rounds) for rounds in turns} == {found.plan.rounds}
        assert sum(sum(turn) for rounds in turns for turn in rounds) >= 1e9 * 0.98
        assert sum(len(turn) for rounds in turns for turn in rounds) >= 100
    assert children.open == 0


def test_restarts_are_added_until_every_interval_is_narrow(tmp_path: Path) -> None:
    children = Children(process=0.012)
    found = timed(children, tmp_path, max_duration_s=1000)
    assert found.stopped == "narrow"
    assert widest(found) <= 0.03
    assert children.restarts > 8
    assert children.restarts in LOOKS


def test_the_last_look_is_the_end(tmp_path: Path) -> None:
    children = Children(process=0.2)
    found = timed(children, tmp_path, max_duration_s=10_000)
    assert (found.stopped, children.restarts) == ("looks", LOOKS[-1])


def test_time_is_what_starting_costs_too(tmp_path: Path) -> None:
    children = Children(process=0.05, start_s=1.2)
    found = timed(children, tmp_path, max_duration_s=6, min_duration_s=0.5)
    assert found.stopped == "time"
    assert children.now <= 3 * 6
    assert 3 * 6 - children.now < 2 * children.now / children.restarts, "time was left for another restart"


def test_the_least_is_made_whatever_the_time(tmp_path: Path) -> None:
    children = Children(process=0.05, start_s=60)
    found = timed(children, tmp_path, max_duration_s=1, restarts=7)
    assert (found.stopped, children.restarts) == ("time", 7)


def test_dear_starts_make_few_and_long_restarts(tmp_path: Path) -> None:
    cheap, dear = Children(start_s=0.1), Children(start_s=30)
    first, second = (timed(each, tmp_path, min_duration_s=4, max_interval=1.0) for each in (cheap, dear))
    assert (cheap.restarts, dear.restarts) == (8, 5)
    assert first.plan is not None
    assert second.plan is not None
    assert second.plan.turn_s > first.plan.turn_s


def test_slow_models_have_fewer_turns_of_as_many_queries(tmp_path: Path) -> None:
    class Slow(Children):
        def ask(self, workers: dict[str, Worker], name: str, failed: Failed, method: str, **arguments: Any) -> Any:
            self.now += 2.0 if method == "warm_up" else 0.0  # 0.2 s a query
            return super().ask(workers, name, failed, method, **arguments)

    found = timed(Slow(), tmp_path)
    assert found.plan is not None
    assert found.plan.rounds == 5


def test_the_caller_says_what_is_enough_at_looks_only(tmp_path: Path) -> None:
    seen = []

    def enough(times: Mapping[str, Turns]) -> bool:
        seen.append(len(times[INT8]))
        return len(seen) == 3

    children = Children(process=0.0001)  # narrow from the beginning: that alone does not end it
    found = timed(children, tmp_path, enough=enough, min_duration_s=0.1, max_duration_s=100)
    assert found.stopped == "enough"
    assert seen == [each for each in LOOKS if each >= seen[0]][:3]


def test_what_would_be_called_unstable_is_not_enough(tmp_path: Path) -> None:
    found = timed(Children(process=0.3), tmp_path, enough=lambda times: True, max_duration_s=5)
    assert found.stopped == "time"
    assert statistics.speedup(found.times[INT8], FP32, found.times[FP32]).unstable is not None


def test_a_row_that_dies_costs_itself(tmp_path: Path) -> None:
    for children in (Children(dies_starting=(3, FP32)), Children(dies_in_turn=(3, FP32))):
        lost: list[str] = []
        found = timed(children, tmp_path, lost=lost)
        assert lost == [FP32]
        assert set(found.times) == {INT8, twin_name(INT8)}
        assert len(found.times[INT8]) == children.restarts >= 5
        assert children.open == 0


def test_a_twin_that_dies_is_a_warning(tmp_path: Path) -> None:
    found = timed(Children(dies_starting=(2, twin_name(INT8))), tmp_path)
    assert set(found.times) == {FP32, INT8}
    assert any("no A/A pair" in warning for warning in found.warnings)


def test_a_row_that_is_timed_twice_takes_its_twin_along(tmp_path: Path) -> None:
    for children in (Children(dies_starting=(3, INT8)), Children(dies_in_turn=(3, INT8))):
        lost: list[str] = []
        found = timed(children, tmp_path, lost=lost)
        assert lost == [INT8]
        assert set(found.times) == {FP32}
        assert [warning for warning in found.warnings if "no A/A pair" in warning] == list(found.warnings) != []
        assert not [asked for asked in children.asked if asked[0] > 3 and asked[1] == twin_name(INT8)]
        assert children.open == 0


def test_when_all_die_nothing_is_timed(tmp_path: Path) -> None:
    lost: list[str] = []

    class Dead(Children):
        def start(self, subjects: Mapping[str, Subject], failed: Failed) -> dict[str, Worker]:
            for name in list(subjects):
                failed(name, WorkerFault("died"))
            return {}

    found = timed(Dead(), tmp_path, lost=lost)
    assert (found.times, found.plan, found.stopped) == ({}, None, None)
    assert lost == [FP32, INT8]


def test_nothing_to_time_is_no_error(tmp_path: Path) -> None:
    children = Children()
    found = compare(
        [],
        cast("Sessions", children),
        BenchmarkSettings(),
        seed=0,
        screen=Silent(),
        lock=tmp_path / "lock",
        lost=lambda name, error: None,
    )
    assert (found, children.restarts) == (Timed({}, None), 0)


def test_a_clock_that_stands_still_ends_all_the_same(tmp_path: Path) -> None:  # fault 49
    found = timed(Children(stands_still=True), tmp_path)
    latency = statistics.latency(found.times[INT8])
    assert latency.unstable is not None
    assert "clock" in latency.unstable
    assert statistics.speedup(found.times[INT8], FP32, found.times[FP32]).ratio.value == 1


def test_rows_take_turns_within_a_round(tmp_path: Path) -> None:
    children = Children()
    timed(children, tmp_path)
    rows = {FP32, INT8, twin_name(INT8)}
    for first in range(0, len(children.asked), 3):
        assert {name for _, name in children.asked[first : first + 3]} == rows


def test_the_timing_lock_is_free_again_and_held_meanwhile(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def enough(times: Mapping[str, Turns]) -> bool:
        assert lock.exists()
        return True

    timed(Children(), tmp_path, enough=enough)
    with exclusive(lock, waiting=lambda: pytest.fail("the lock is still held")):
        pass


def test_conditions_come_with_the_turns(tmp_path: Path) -> None:
    found = timed(Children(), tmp_path)
    assert found.conditions is not None
    assert found.conditions.drift == pytest.approx(1, abs=0.05)


def test_a_result_is_what_is_timed_twice() -> None:
    assert twinned(BOTH) is BOTH[1]
    assert twinned(BOTH[:1]) is BOTH[0]
    assert twinned([]) is None


@pytest.mark.parametrize("seed", range(6))
def test_a_loud_machine_makes_no_false_regression(tmp_path: Path, seed: int) -> None:  # fault 48
    """The same model twice, turns 20 % apart, processes 3 %: no interval may lie beyond 3 %."""
    found = timed(Children(process=0.03, turn=0.2, seed=seed), tmp_path, max_duration_s=6)
    speedup = statistics.speedup(found.times[INT8], FP32, found.times[FP32])
    assert speedup.ratio.low is not None
    assert speedup.ratio.high is not None
    assert speedup.unstable is not None or speedup.ratio.low <= 1.03
    assert speedup.unstable is not None or speedup.ratio.high >= 1 / 1.03
