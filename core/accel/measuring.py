"""Measuring all rows of a run side by side, each in its own child process; a child that fails costs its row alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel import timing
from accel.benchmarks import statistics
from accel.benchmarks.environment import cores
from accel.benchmarks.schedule import Schedule, twin_name
from accel.display import Display, show_event
from accel.errors import AccelError
from accel.rebuilding import Sample
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.recipe.settings import Recipe
from accel.report import Noise, Row
from accel.rows import Found, Subject, guessing, row, unlike
from accel.sessions import Sessions
from accel.worker import Worker

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
        self._sessions = Sessions(
            document=document,
            path=path,
            allowed=allowed,
            folder=folder,
            sample=sample,
            compile_timeout_s=settings.compile_timeout_s,
        )
        self._screen = screen
        self._warnings: list[str] = []

    def measure(self, subjects: Sequence[Subject]) -> tuple[list[Row], Noise | None, dict[str, Any], list[str]]:
        """Rows in the order of ``subjects``, the A/A verdict, how it was measured, and warnings."""
        found = {subject.name: Found(subject) for subject in subjects}
        self._inspect(found)
        alive = [entry.subject for entry in found.values() if entry.reason is None]
        timed = timing.compare(
            alive,
            self._sessions,
            self._settings,
            seed=self._sessions.sample.seed,
            screen=self._screen,
            lock=self._lock,
            lost=lambda name, error: self._lose(found[name], error),
        )
        times = timed.times
        self._warnings += timed.warnings
        alive = [subject for subject in alive if found[subject.name].reason is None]
        reference = next(
            (subject for subject in alive if subject.role != "result" and found[subject.name].score is not None), None
        )
        compared = None if reference is None else found[reference.name]
        rows = [row(entry, compared, alive, times, self._settings) for entry in found.values()]
        noise = None
        twin = timing.twinned(alive)
        if twin is not None and twin_name(twin.name) in times:
            noise = statistics.noise(twin.name, times[twin.name], times[twin_name(twin.name)])
        self._warnings += [text for entry in found.values() if entry.score for text in entry.score["warnings"]]
        self._warnings += filter(None, map(unlike, rows))
        if compared is not None and compared.score is not None:
            first = next(entry for entry in rows if entry.name == compared.subject.name)
            self._warnings += filter(None, [guessing(first, compared.score["classes"])])
        return rows, noise, self._method(timed.plan, found), list(dict.fromkeys(self._warnings))

    # -- once: compile time, memory, precision, scores ----------------------------------------------------------------

    def _inspect(self, found: Mapping[str, Found]) -> None:
        limit = self._settings.compile_timeout_s
        sessions: dict[str, Worker] = {}
        try:
            for name, entry in found.items():  # one at a time: the compile time is reported
                self._screen.stage(f"{name}: compiling")
                try:
                    worker = sessions[name] = self._sessions.open(entry.subject, name)
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

    def _method(self, plan: Schedule | None, found: Mapping[str, Found]) -> dict[str, Any]:
        settings = self._settings
        timed = next((entry.compiled["inputs"] for entry in found.values() if entry.compiled), None)
        method: dict[str, Any] = {
            "scenario": settings.scenario[0],
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
