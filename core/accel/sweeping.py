"""Scenarios and settings beside the main comparison: each a point of its own, rows in turn.

A row that cannot do a setting (a batch that its file fixes otherwise, more threads than cores, no memory for it) has a point
there that says why, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from accel.atomic import exclusive
from accel.benchmarks import scenarios
from accel.benchmarks.environment import cores
from accel.benchmarks.rate_search import planned
from accel.benchmarks.scenarios import Measured, Setting
from accel.benchmarks.schedule import MIN_RESTARTS, MIN_ROUNDS, MIN_TURN_QUERIES, Schedule
from accel.display import Display
from accel.errors import AccelError, UsageError, WorkFault
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import Point
from accel.rows import Subject
from accel.sessions import Failed, Sessions, close
from accel.worker import Worker

_FIRST_LOOK_S = 0.1
_ATTEMPT_SHARE = 0.25
"""Of ``min_duration_s``: what one attempt of a search for a rate takes on the slowest row, if that gives queries enough."""


def sweep(
    alive: Sequence[Subject],
    sessions: Sessions,
    settings: BenchmarkSettings,
    *,
    seed: int,
    screen: Display,
    lock: Path,
    lost: Failed,
) -> dict[str, list[Point]]:
    """The points of each row by its name; empty where the recipe asks for nothing but the main comparison.

    ``lost`` is told which row failed at which setting; ``lock`` is held: two runs do not disturb each other.
    """
    wanted = scenarios.asked_for(settings.scenario, settings.batch_sizes, settings.threads, settings.streams)
    if not wanted or not alive:
        return {}
    points: dict[str, list[Point]] = {subject.name: [] for subject in alive}
    with exclusive(lock, waiting=lambda: screen.note("waiting for another run that is timing")):
        for number, setting in enumerate(wanted, start=1):
            screen.stage(f"point {number} of {len(wanted)}: {setting}: {len(alive)} rows in turn, {MIN_RESTARTS} restarts")
            here = _AtSetting(setting, alive, sessions, settings, seed, screen, lost)
            for name, point in here.measure().items():
                points[name].append(point)
    return points


def crowded(threads: int, there: int) -> str | None:
    """A warning where the main comparison has more threads than there are cores; None where it has not."""
    if threads <= there:
        return None
    found = f"benchmark.threads: {threads}, and this process may use {_counted(there, 'core')}"
    return f"{found}: what is timed is how threads wait for one another; set threads: {there}"


class _AtSetting:
    """All rows at one setting. ``_taken``: what each has answered so far, a list per restart."""

    def __init__(
        self,
        setting: Setting,
        alive: Sequence[Subject],
        sessions: Sessions,
        settings: BenchmarkSettings,
        seed: int,
        screen: Display,
        lost: Failed,
    ) -> None:
        self._setting = setting
        self._alive = alive
        self._sessions = sessions
        self._settings = settings
        self._seed = seed
        self._screen = screen
        self._lost = lost
        self._subjects = {
            subject.name: replace(subject, target=replace(subject.target, threads=setting.threads, batch=setting.batch_size))
            for subject in alive
        }
        self._taken: dict[str, list[list[Any]]] = {name: [] for name in self._subjects}
        self._reasons: dict[str, str] = {}
        self._bound_ms = settings.server_bound_ms
        self._queries = 0
        turns = MIN_RESTARTS * MIN_ROUNDS
        self._plan = Schedule(
            rows=tuple(self._subjects),
            restarts=MIN_RESTARTS,
            rounds=MIN_ROUNDS,
            turn_s=settings.min_duration_s / turns,
            turn_queries=max(MIN_TURN_QUERIES, -(-settings.min_iterations // turns)),
            seed=seed,
        )

    def measure(self) -> dict[str, Point]:
        """One point for each row, with figures or with a reason."""
        self._require_cores()
        sample = replace(self._sessions.sample, size=self._setting.batch_size)
        for restart in range(self._plan.restarts):
            if not self._taken:
                break
            rows = {name: self._subjects[name] for name in self._taken}
            workers = self._sessions.start(rows, self._failed, sample, streams=self._setting.streams)
            try:
                for name in list(workers):
                    self._ask(workers, name, "warm_up", queries=self._settings.warmup)
                    if name in self._taken:
                        self._taken[name].append([])
                self._restart(restart, workers)
            finally:
                close(workers)
        return self._points()

    # -- one restart --------------------------------------------------------------------------------------------------

    def _restart(self, restart: int, workers: dict[str, Worker]) -> None:
        if self._setting.scenario == "server":
            self._search(restart, workers)
            return
        for turn in self._plan.turns(restart):
            if turn.row in workers:
                method, arguments = self._turn()
                answer = self._ask(workers, turn.row, method, duration_s=self._plan.turn_s, **arguments)
                if answer is not None:
                    self._taken[turn.row][restart].append(answer)
            done = restart * self._plan.rounds + turn.round
            self._screen.advance(done, self._plan.restarts * self._plan.rounds, "rounds timed")

    def _turn(self) -> tuple[str, dict[str, int]]:
        """The session's method for one turn, and what it takes besides the duration."""
        least, setting = self._plan.turn_queries, self._setting
        if setting.scenario == "offline":
            return "together", {"min_calls": least * setting.streams}
        if setting.batches_per_query > 1:
            return "long_turn", {"min_queries": least, "batches": setting.batches_per_query}
        return "turn", {"min_queries": least}

    def _search(self, restart: int, workers: dict[str, Worker]) -> None:
        """Each row's highest rate, in shuffled order; arrivals are the same for all rows of one restart."""
        if not self._queries:
            self._look_first(workers)
        order = self._plan.order(restart, 0)
        for number, name in enumerate(order):
            if name in workers and self._bound_ms is not None:
                before = [taken[0]["rate_per_s"] for taken in self._taken[name][:-1]]
                arguments = {"bound_ms": self._bound_ms, "queries": self._queries, "seed": f"{self._seed}/{restart}"}
                answer = self._ask(
                    workers,
                    name,
                    "highest_rate",
                    **arguments,
                    limit_s=self._settings.max_duration_s,
                    guess=median(before) if before else None,
                )
                if answer is not None and answer["rate_per_s"] is None:
                    self._failed(name, WorkFault(self._no_rate(answer)))
                    workers.pop(name).close()
                elif answer is not None:
                    self._taken[name][restart].append(answer)
            self._screen.advance(restart * len(order) + number, self._plan.restarts * len(order), "rates found")

    def _look_first(self, workers: dict[str, Worker]) -> None:
        """One turn of each row: what a query takes decides the bound, and how many queries an attempt can have."""
        medians_ms = {}
        for name in list(workers):
            taken = self._ask(workers, name, "turn", duration_s=_FIRST_LOOK_S, min_queries=MIN_TURN_QUERIES)
            if taken is not None:
                medians_ms[name] = median(taken) / 1e6
        if not medians_ms:
            return
        baselines = [subject.name for subject in self._alive if _is_fp32_baseline(subject)]
        if self._bound_ms is None:
            self._bound_ms = scenarios.default_bound_ms(medians_ms, baselines)
        slowest_per_s = self._setting.streams * 1e3 / max(medians_ms.values())
        self._queries = planned(slowest_per_s, _ATTEMPT_SHARE * self._settings.min_duration_s)

    def _no_rate(self, answer: Mapping[str, Any]) -> str:
        if not answer["narrow"]:
            return (
                f"no rate at which {self._queries} queries arrive within {self._settings.max_duration_s:g} s kept the 99th"
                f" percentile within {self._bound_ms:g} ms (it answers {answer['capacity_per_s']:.4g} a second at most); raise"
                " benchmark.max_duration_s, or run it on a machine that does nothing else"
            )
        return (
            f"no rate keeps the 99th percentile within {self._bound_ms:g} ms: it answers {answer['capacity_per_s']:.4g} queries"
            " a second at most; raise benchmark.server_bound_ms"
        )

    # -- rows that fail -----------------------------------------------------------------------------------------------

    def _require_cores(self) -> None:
        """More threads than cores only take turns: what would be measured there is the scheduler."""
        there = cores()
        for subject in self._alive:
            if subject.target.device == "cpu" and self._setting.threads > there:
                reason = f"{self._setting.threads} threads are asked for, and this process may use {_counted(there, 'core')}"
                self._failed(subject.name, UsageError(f"{reason}; leave them out of benchmark.threads"))

    def _ask(self, workers: dict[str, Worker], name: str, method: str, **arguments: Any) -> Any:
        return self._sessions.ask(workers, name, self._failed, method, **arguments)

    def _failed(self, name: str, error: AccelError) -> None:
        self._taken.pop(name, None)
        self._reasons[name] = str(error)
        self._lost(f"{name}, {self._setting}", error)

    # -- points -------------------------------------------------------------------------------------------------------

    def _points(self) -> dict[str, Point]:
        measured = {name: self._measured(name, taken) for name, taken in self._taken.items()}
        found = {}
        for subject in self._alive:
            name = subject.name
            if name not in measured:
                found[name] = scenarios.failed(self._setting, self._reasons[name])
                continue
            others = {
                other.name: measured[other.name]
                for other in self._alive
                if other.role != "result" and other.name != name and other.name in measured
            }
            point = measured[name].point
            more = {"speedups": scenarios.compared(measured[name], others), "unstable": point.unstable or self._shared(subject)}
            found[name] = point.model_copy(update=more)
        return found

    def _measured(self, name: str, taken: list[list[Any]]) -> Measured:
        setting = self._setting
        pinned = self._sessions.cores_for(setting.threads * setting.streams)
        percentiles = self._settings.percentiles
        if setting.scenario == "offline":
            return scenarios.all_at_once(setting, taken, pinned=pinned)
        if setting.scenario != "server":
            return scenarios.one_after_the_other(setting, taken, pinned=pinned, percentiles=percentiles)
        answers = [answer for restart in taken for answer in restart]
        unfinished = None
        if not all(answer["narrow"] for answer in answers):
            unfinished = (
                f"the search was ended after {self._settings.max_duration_s:g} s, before the highest rate was known to 2 %;"
                " raise benchmark.max_duration_s"
            )
        assert self._bound_ms is not None  # without it there are no answers
        return scenarios.at_random(
            setting,
            [answer["rate_per_s"] for answer in answers],
            [answer["latencies_ns"] for answer in answers],
            bound_ms=self._bound_ms,
            pinned=pinned,
            percentiles=percentiles,
            unfinished=unfinished,
        )

    def _shared(self, subject: Subject) -> str | None:
        """Why a figure depends on how the system shares out the cores; None where there are enough."""
        setting, there = self._setting, cores()
        if subject.target.device != "cpu" or setting.streams == 1 or setting.threads * setting.streams <= there:
            return None
        return (
            f"{setting.streams} streams of {_counted(setting.threads, 'thread')} share {_counted(there, 'core')}: the figures"
            " depend on how the system shares them out"
        )


def _is_fp32_baseline(subject: Subject) -> bool:
    return subject.role == "baseline" and subject.target.precision == "fp32"


def _counted(count: int, thing: str) -> str:
    return f"{count} {thing}{'s' if count != 1 else ''}"
