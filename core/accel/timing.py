"""The interleaved comparison: rows take turns in rounds, in shuffled order; children are restarted until ratios are clear."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from accel.atomic import exclusive
from accel.benchmarks import stability, statistics
from accel.benchmarks.conditions import Watch
from accel.benchmarks.schedule import Schedule, looks, schedule, twin_name
from accel.display import Display
from accel.errors import AccelError
from accel.machine import Conditions
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import Estimate
from accel.rows import Subject, Turns
from accel.sessions import Failed, Sessions, close
from accel.worker import Worker

Enough = Callable[[Mapping[str, Turns]], bool]
"""Whether these turns, by row name, settle what they are taken for. Asked only at the looks that intervals allow for."""

Stopped = Literal["narrow", "enough", "time", "looks"]


@dataclass(frozen=True)
class Timed:
    """``times``: turns by row name, the A/A twin's among them; rows that failed on the way are not there.

    ``plan``: with the restarts that were made. ``stopped``: why no more were: every interval was ``narrow``; the caller had
    ``enough``; the ``time`` was up; the last of the ``looks`` was taken. Both are None where nothing was timed.
    """

    times: dict[str, Turns]
    plan: Schedule | None
    warnings: tuple[str, ...] = ()
    conditions: Conditions | None = None
    stopped: Stopped | None = None


def twinned(alive: Sequence[Subject]) -> Subject | None:
    """The row that is timed twice: a result if there is one."""
    return next((subject for subject in reversed(alive) if subject.role == "result"), alive[-1] if alive else None)


def compare(
    alive: Sequence[Subject],
    sessions: Sessions,
    settings: BenchmarkSettings,
    *,
    seed: int,
    screen: Display,
    lock: Path,
    lost: Failed,
    enough: Enough | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Timed:
    """Time all rows in turn. ``lost`` is told of rows that fail; ``lock`` is held: two runs do not disturb each other.

    Restarts are added, past the least that ``settings`` ask for, until each interval that a report shows is at most
    ``max_interval`` wide or, where ``enough`` is given, until that says so instead and no ratio between targets would be called
    unstable; and, once the least are made, at the latest when one more would take the whole beyond ``max_duration_s`` seconds a
    row, starting the children included: that is most of what a restart costs. Results are looked at after a few numbers of
    restarts only (schedule.LOOKS).
    """
    subjects = {subject.name: subject for subject in alive}
    twin = twinned(alive)
    if twin is not None:
        subjects[twin_name(twin.name)] = twin
    if not subjects:
        return Timed({}, None)
    with exclusive(lock, waiting=lambda: screen.note("waiting for another run that is timing")):
        comparison = _Comparison(alive, subjects, sessions, settings, seed, screen, lost, clock)
        stopped = comparison.run(enough)
    if comparison.plan is None or not comparison.times:
        return Timed({}, comparison.plan, tuple(comparison.warnings))
    made = replace(comparison.plan, restarts=comparison.made)
    conditions = comparison.watch.conditions(comparison.times)
    return Timed(comparison.times, made, tuple(comparison.warnings), conditions, stopped)


class _Comparison:
    """One comparison's state: the turns so far, and what restarts have cost."""

    def __init__(
        self,
        alive: Sequence[Subject],
        subjects: Mapping[str, Subject],
        sessions: Sessions,
        settings: BenchmarkSettings,
        seed: int,
        screen: Display,
        lost: Failed,
        clock: Callable[[], float],
    ) -> None:
        self._alive = alive
        self._subjects = subjects
        twin = twinned(alive)
        self._pair: tuple[str, ...] = () if twin is None else (twin.name, twin_name(twin.name))
        self._sessions = sessions
        self._settings = settings
        self._seed = seed
        self._screen = screen
        self._lost = lost
        self._clock = clock
        self._began = clock()
        self.watch = Watch()
        self.times: dict[str, Turns] = {name: [] for name in subjects}
        self.plan: Schedule | None = None
        self.warnings: list[str] = []
        self.made = 0

    def run(self, enough: Enough | None) -> Stopped | None:
        self._screen.stage(f"timing {len(self._subjects)} processes in turn, restarted until the ratios are known well")
        self._restart()
        if self.plan is None:
            return None
        planned = looks(self.plan.restarts)
        look = next(planned)
        while self.times:
            if self.made >= look:
                settled = self._settled(enough)
                if settled is not None:
                    return settled
                following = next(planned, None)
                if following is None:
                    return "looks"
                look = following
            if self.made >= self.plan.restarts and self._time_is_up():
                return "time"
            self._restart(look)
        return None

    # -- when to stop -------------------------------------------------------------------------------------------------

    def _settled(self, enough: Enough | None) -> Stopped | None:
        if enough is None:
            return "narrow" if self._within(self._settings.max_interval, self._alive) else None
        # The eager reference is the noisiest row, and no gate is held against it where a target has a baseline.
        judged = [subject for subject in self._alive if subject.role != "reference"]
        return "enough" if self._within(stability.WIDEST_RATIO, judged) and enough(self.times) else None

    def _within(self, widest: float, among: Sequence[Subject]) -> bool:
        widths = map(stability.width, self._ratios(among))
        return all(wide is not None and wide <= widest for wide in widths)

    def _ratios(self, among: Sequence[Subject]) -> list[Estimate]:
        """The ratios that the report will show of these: each row against each it is compared with, and the A/A pair."""
        medians = {name: statistics.turn_medians(turns) for name, turns in self.times.items()}
        here = [subject for subject in among if subject.name in medians]
        pairs = [(other.name, row.name) for row in here for other in here if other.role != "result" and other is not row]
        twin = twinned(here)
        if twin is not None and twin_name(twin.name) in medians:
            pairs.append((twin.name, twin_name(twin.name)))
        return [statistics.ratio(medians[above], medians[below]) for above, below in pairs]

    def _time_is_up(self) -> bool:
        """Whether one more restart, at the cost of those before it, would not fit."""
        spent = self._clock() - self._began
        return spent + spent / self.made > self._settings.max_duration_s * len(self.times)

    # -- one restart --------------------------------------------------------------------------------------------------

    def _restart(self, look: int | None = None) -> None:
        began = self._clock()
        workers = self._sessions.start({name: self._subjects[name] for name in self.times}, self._failed)
        started_s = self._clock() - began
        try:
            query_s = self._warm_up(workers)
            if not self.times:
                return
            if self.plan is None:
                self.plan = schedule(
                    list(self._subjects),
                    min_duration_s=self._settings.min_duration_s,
                    min_iterations=self._settings.min_iterations,
                    restarts=self._settings.restarts,
                    start_s=started_s,
                    query_s=query_s,
                    seed=self._seed,
                )
            self._take_turns(self.plan, workers, look or self.plan.restarts)
            self.watch.lap()
        finally:
            close(workers)
        self.made += 1

    def _warm_up(self, workers: dict[str, Worker]) -> float:
        """Seconds of one query of the slowest row, about; 0 where none were wanted."""
        slowest, queries = 0.0, self._settings.warmup
        for name in list(workers):
            began = self._clock()
            self._sessions.ask(workers, name, self._failed, "warm_up", queries=queries)
            if name in self.times:
                self.times[name].append([])
                slowest = max(slowest, (self._clock() - began) / queries if queries else 0.0)
        return slowest

    def _take_turns(self, plan: Schedule, workers: dict[str, Worker], look: int) -> None:
        total = max(look, self.made + 1) * plan.rounds
        for turn in plan.turns(self.made):
            if turn.row not in workers or turn.row not in self.times:
                continue
            samples = self._sessions.ask(
                workers, turn.row, self._failed, "turn", duration_s=plan.turn_s, min_queries=plan.turn_queries
            )
            if samples is not None:
                self.times[turn.row][self.made].append(samples)
            self._screen.advance(self.made * plan.rounds + turn.round, total, "rounds timed")

    def _failed(self, name: str, error: AccelError) -> None:
        """Without the row that is timed twice its twin says nothing either, and is timed no longer."""
        self.times.pop(name, None)
        if any(subject.name == name for subject in self._alive):
            self._lost(name, error)
        if name in self._pair:
            self.times.pop(self._pair[1], None)
            if not self.warnings:
                self.warnings.append(f"there is no A/A pair, so nothing says how noisy the timings are: {error}")
