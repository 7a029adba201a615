"""Measuring all rows of a run side by side, each in its own child process; a child that fails costs its row alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accel.atomic import exclusive
from accel.benchmarks import statistics
from accel.benchmarks.environment import cores
from accel.benchmarks.schedule import Schedule, schedule, twin_name
from accel.display import Display, show_event
from accel.errors import AccelError
from accel.rebuilding import Sample
from accel.recipe.settings import BenchmarkSettings, Recipe
from accel.report import Noise, Row
from accel.rows import Found, Subject, Turns, guessing, row, unlike
from accel.worker import Worker

_TURN_SLACK_S = 120.0
_SCORE_LIMIT_S = 3600.0
_ON_DEVICE_QUERIES = 200


class Bench:
    """Opens sessions for subjects of one run. ``document`` is the recipe's, None where files are measured without one."""

    def __init__(
        self,
        settings: BenchmarkSettings,
        *,
        document: Mapping[str, Any] | None,
        path: Path,
        allowed: Sequence[str],
        folder: Path,
        sample: Sample,
        screen: Display,
        lock: Path,
    ) -> None:
        self._settings = settings
        self._lock = lock
        self._document = document
        self._path = path
        self._allowed = list(allowed)
        self._folder = folder
        self._sample = sample
        self._screen = screen
        self._opened = 0
        self._warnings: list[str] = []

    def measure(self, subjects: Sequence[Subject]) -> tuple[list[Row], Noise | None, dict[str, Any], list[str]]:
        """Rows in the order of ``subjects``, the A/A verdict, how it was measured, and warnings."""
        found = {subject.name: Found(subject) for subject in subjects}
        self._inspect(found)
        alive = [entry.subject for entry in found.values() if entry.reason is None]
        times, plan = self._time(alive, found)
        alive = [subject for subject in alive if found[subject.name].reason is None]
        reference = next(
            (subject for subject in alive if subject.role != "result" and found[subject.name].score is not None), None
        )
        compared = None if reference is None else found[reference.name]
        rows = [row(entry, compared, alive, times, self._settings) for entry in found.values()]
        noise = None
        twin = _twinned(alive)
        if twin is not None and twin_name(twin.name) in times:
            noise = statistics.noise(twin.name, times[twin.name], times[twin_name(twin.name)])
        self._warnings += [text for entry in found.values() if entry.score for text in entry.score["warnings"]]
        self._warnings += filter(None, map(unlike, rows))
        if compared is not None and compared.score is not None:
            first = next(entry for entry in rows if entry.name == compared.subject.name)
            self._warnings += filter(None, [guessing(first, compared.score["classes"])])
        return rows, noise, self._method(plan, found), list(dict.fromkeys(self._warnings))

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _open(self, subject: Subject, label: str) -> Worker:
        """A started child; its first answer is still to be read with ``result``."""
        self._opened += 1
        folder = self._folder / f"session-{self._opened}"
        folder.mkdir()
        return Worker(
            label,
            "accel.serving:open_session",
            {
                "document": self._document,
                "path": str(self._path),
                "allowed": self._allowed,
                "target": asdict(subject.target),
                "model": dict(subject.model),
                "folder": str(folder),
                "sample": asdict(self._sample),
            },
            log=folder / "log.txt",
        )

    def _start(self, subjects: Mapping[str, Subject], failed: Callable[[str, AccelError], None]) -> dict[str, Worker]:
        """Compile all, as many at a time as there are cores; those that fail are reported and left out."""
        workers: dict[str, Worker] = {}
        names = list(subjects)
        width = cores()
        try:
            for first in range(0, len(names), width):
                self._start_group({name: subjects[name] for name in names[first : first + width]}, workers, failed)
        except BaseException:  # an interrupt, in a process that goes on: no child is left behind
            for worker in workers.values():
                worker.close()
            raise
        return workers

    def _start_group(
        self, group: Mapping[str, Subject], workers: dict[str, Worker], failed: Callable[[str, AccelError], None]
    ) -> None:
        for stage in ("open", "compile", "end"):
            for name, subject in group.items():
                if stage != "open" and name not in workers:
                    continue
                try:
                    if stage == "open":
                        workers[name] = self._open(subject, name)
                    else:
                        workers[name].result(timeout_s=self._settings.compile_timeout_s)
                    if stage == "compile":
                        workers[name].request("compile")
                except AccelError as error:
                    if name in workers:
                        workers.pop(name).close()
                    failed(name, error)

    # -- once: compile time, memory, precision, scores ----------------------------------------------------------------

    def _inspect(self, found: Mapping[str, Found]) -> None:
        limit = self._settings.compile_timeout_s
        sessions: dict[str, Worker] = {}
        try:
            for name, entry in found.items():  # one at a time: the compile time is reported
                self._screen.stage(f"{name}: compiling")
                try:
                    worker = sessions[name] = self._open(entry.subject, name)
                    worker.result(timeout_s=limit)
                    entry.compiled = worker.call("compile", timeout_s=limit)
                    entry.precision = worker.call("precision", timeout_s=limit)
                    entry.on_device = worker.call("on_device", timeout_s=limit, queries=_ON_DEVICE_QUERIES)
                except AccelError as error:
                    self._lose(entry, error)
                    if name in sessions:
                        sessions.pop(name).close()
            self._score(found, sessions)
        finally:
            for worker in sessions.values():
                worker.close()

    def _score(self, found: Mapping[str, Found], sessions: dict[str, Worker]) -> None:
        """Accuracy is not a timing: as many rows as there are cores are scored side by side."""
        names = list(sessions)
        width = cores()
        for first in range(0, len(names), width):
            group = names[first : first + width]
            self._screen.stage(f"{' and '.join(group)}: scoring")
            for name in group:
                sessions[name].request("score")
            for name in group:
                try:
                    answer = sessions[name].result(
                        timeout_s=_SCORE_LIMIT_S, on_event=lambda event: show_event(self._screen, event)
                    )
                    found[name].score = answer if answer["outputs"] else None
                except AccelError as error:
                    self._lose(found[name], error)
            for name in group:  # their memory is wanted by the next ones
                sessions.pop(name).close()

    def _lose(self, entry: Found, error: AccelError) -> None:
        entry.reason = str(error)
        self._screen.warn(f"{entry.subject.name}: {error}")

    # -- timing -------------------------------------------------------------------------------------------------------

    def _time(self, alive: Sequence[Subject], found: Mapping[str, Found]) -> tuple[dict[str, Turns], Schedule | None]:
        """Turns by row name: [restart][round][query] in nanoseconds. Rows that fail on the way are dropped."""
        subjects = {subject.name: subject for subject in alive}
        twin = _twinned(alive)
        if twin is not None:
            subjects[twin_name(twin.name)] = twin
        if not subjects:
            return {}, None
        settings = self._settings
        plan = schedule(
            list(subjects),
            min_duration_s=settings.min_duration_s,
            min_iterations=settings.min_iterations,
            restarts=settings.restarts,
            seed=self._sample.seed,
        )
        times: dict[str, Turns] = {name: [] for name in subjects}

        def failed(name: str, error: AccelError) -> None:
            times.pop(name, None)
            if name in found:
                self._lose(found[name], error)
            else:
                self._warnings.append(f"there is no A/A pair, so nothing says how noisy the timings are: {error}")

        self._screen.stage(f"timing {len(subjects)} processes in turn, {plan.restarts} restarts of {plan.rounds} rounds")
        with exclusive(self._lock, waiting=lambda: self._screen.note("waiting for another run that is timing")):
            self._take_turns(plan, subjects, times, failed)
        return times, plan

    def _take_turns(
        self,
        plan: Schedule,
        subjects: Mapping[str, Subject],
        times: dict[str, Turns],
        failed: Callable[[str, AccelError], None],
    ) -> None:
        for restart in range(plan.restarts):
            workers = self._start({name: subjects[name] for name in times}, failed)
            try:
                for name in list(workers):
                    self._ask(workers, name, failed, "warm_up", queries=self._settings.warmup)
                    if name in times:
                        times[name].append([])
                for turn in plan.turns(restart):
                    if turn.row not in workers:
                        continue
                    samples = self._ask(
                        workers, turn.row, failed, "turn", duration_s=plan.turn_s, min_queries=plan.turn_queries
                    )
                    if samples is not None:
                        times[turn.row][restart].append(samples)
                    self._screen.advance(restart * plan.rounds + turn.round, plan.restarts * plan.rounds, "rounds timed")
            finally:
                for worker in workers.values():
                    worker.close()

    def _ask(
        self, workers: dict[str, Worker], name: str, failed: Callable[[str, AccelError], None], method: str, **arguments: Any
    ) -> Any:
        """Call one method; a child that fails is closed, reported and gone."""
        try:
            return workers[name].call(method, timeout_s=self._settings.compile_timeout_s + _TURN_SLACK_S, **arguments)
        except AccelError as error:
            workers.pop(name).close()
            failed(name, error)
            return None

    def _method(self, plan: Schedule | None, found: Mapping[str, Found]) -> dict[str, Any]:
        settings = self._settings
        timed = next((entry.compiled["inputs"] for entry in found.values() if entry.compiled), None)
        method: dict[str, Any] = {
            "scenario": settings.scenario,
            "batch_size": settings.batch_sizes[0],
            "threads": settings.threads[0],
            "warmup_queries": settings.warmup,
            "percentiles": list(settings.percentiles),
            "timed_inputs": timed,
            "peak_memory": "of the whole process, Python included, up to the first inference",
        }
        if plan is not None:
            method |= {
                "restarts": plan.restarts,
                "rounds_per_restart": plan.rounds,
                "turn_s": plan.turn_s,
                "min_queries_per_turn": plan.turn_queries,
            }
        return method


def _twinned(alive: Sequence[Subject]) -> Subject | None:
    """The row that is timed twice: a result if there is one."""
    return next((subject for subject in reversed(alive) if subject.role == "result"), alive[-1] if alive else None)


def measure(
    subjects: Sequence[Subject],
    recipe: Recipe,
    *,
    allowed: Sequence[str],
    folder: Path,
    sample: Path,
    screen: Display,
    lock: Path,
) -> tuple[list[Row], Noise | None, dict[str, Any], list[str]]:
    """Measure the rows of a recipe's run. ``lock``: held while timing: two runs of one store do not disturb each other."""
    bench = Bench(
        recipe.benchmark,
        document=recipe.document(),
        path=recipe.path,
        allowed=allowed,
        folder=folder,
        sample=Sample(str(sample), recipe.benchmark.batch_sizes[0], recipe.seed),
        screen=screen,
        lock=lock,
    )
    return bench.measure(subjects)
