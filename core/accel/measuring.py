"""Measuring all rows of a run side by side, each in its own child process; a child that fails costs its row alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from accel.benchmarks import accuracy, fidelity, statistics
from accel.benchmarks.environment import cores
from accel.benchmarks.schedule import Schedule, schedule, twin_name
from accel.benchmarks.size import files as shipped_files
from accel.benchmarks.size import totals
from accel.contracts import Score
from accel.display import Display, show_event
from accel.errors import AccelError
from accel.model import Target
from accel.onnx_file import files as model_files
from accel.recipe.settings import BenchmarkSettings, Recipe
from accel.report import File, Noise, Precision, Row
from accel.worker import Worker

_TURN_SLACK_S = 120.0
_SCORE_LIMIT_S = 6 * 3600.0


@dataclass(frozen=True)
class Subject:
    """One row to measure. ``model``: as serving.open_session takes it; ``folder``: the files that ship, None for eager.

    ``main``: only this file of the folder and what it refers to ships; None for all of them.
    """

    name: str
    role: Literal["reference", "baseline", "result"]
    target_name: str | None
    target: Target
    model: Mapping[str, Any]
    folder: Path | None
    main: Path | None = None


@dataclass
class _Found:
    """What is known of one row so far."""

    subject: Subject
    reason: str | None = None
    compiled: Mapping[str, Any] | None = None
    precision: Mapping[str, Any] | None = None
    score: Mapping[str, Any] | None = None


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
        sample: Path | None,
        seed: int,
        screen: Display,
    ) -> None:
        self._settings = settings
        self._document = document
        self._path = path
        self._allowed = list(allowed)
        self._folder = folder
        self._sample = sample
        self._seed = seed
        self._screen = screen
        self._opened = 0

    def measure(self, subjects: Sequence[Subject]) -> tuple[list[Row], Noise | None, dict[str, Any], list[str]]:
        """Rows in the order of ``subjects``, the A/A verdict, how it was measured, and warnings."""
        found = {subject.name: _Found(subject) for subject in subjects}
        self._inspect(found)
        alive = [entry.subject for entry in found.values() if entry.reason is None]
        times, plan = self._time(alive, found)
        alive = [subject for subject in alive if found[subject.name].reason is None]
        reference = next((subject for subject in alive if found[subject.name].score is not None), None)
        rows = [
            self._row(entry, None if reference is None else found[reference.name], alive, times) for entry in found.values()
        ]
        noise = None
        twin = _twinned(alive)
        if twin is not None and twin_name(twin.name) in times:
            noise = statistics.noise(twin.name, times[twin.name], times[twin_name(twin.name)])
        warnings = [
            f"{entry.subject.name}: {text}" for entry in found.values() if entry.score for text in entry.score["warnings"]
        ]
        return rows, noise, self._method(plan), list(dict.fromkeys(warnings))

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
                "sample": None if self._sample is None else str(self._sample),
                "batch_size": self._settings.batch_sizes[0],
                "seed": self._seed,
            },
            log=folder / "log.txt",
        )

    def _start(self, subjects: Mapping[str, Subject], failed: Callable[[str, AccelError], None]) -> dict[str, Worker]:
        """Compile all, as many at a time as there are cores; those that fail are reported and left out."""
        workers: dict[str, Worker] = {}
        names = list(subjects)
        width = cores()
        for first in range(0, len(names), width):
            group = names[first : first + width]
            for name in group:
                workers[name] = self._open(subjects[name], name)
            for method in ("", "compile"):
                for name in group:
                    if name in workers:
                        try:
                            workers[name].result(timeout_s=self._settings.compile_timeout_s)
                            if not method:
                                workers[name].request("compile")
                        except AccelError as error:
                            workers.pop(name).close()
                            failed(name, error)
        return workers

    # -- once: compile time, memory, precision, scores ----------------------------------------------------------------

    def _inspect(self, found: Mapping[str, _Found]) -> None:
        limit = self._settings.compile_timeout_s
        sessions: dict[str, Worker] = {}
        try:
            for name, entry in found.items():  # one at a time: the compile time is reported
                self._screen.stage(f"{name}: compiling")
                worker = sessions[name] = self._open(entry.subject, name)
                try:
                    worker.result(timeout_s=limit)
                    entry.compiled = worker.call("compile", timeout_s=limit)
                    entry.precision = worker.call("precision", timeout_s=limit)
                except AccelError as error:
                    self._lose(entry, error)
                    sessions.pop(name).close()
            self._score(found, sessions)
        finally:
            for worker in sessions.values():
                worker.close()

    def _score(self, found: Mapping[str, _Found], sessions: dict[str, Worker]) -> None:
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

    def _lose(self, entry: _Found, error: AccelError) -> None:
        entry.reason = str(error)
        self._screen.warn(f"{entry.subject.name}: {error}")

    # -- timing -------------------------------------------------------------------------------------------------------

    def _time(
        self, alive: Sequence[Subject], found: Mapping[str, _Found]
    ) -> tuple[dict[str, list[list[list[int]]]], Schedule | None]:
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
            seed=self._seed,
        )
        times: dict[str, list[list[list[int]]]] = {name: [] for name in subjects}

        def failed(name: str, error: AccelError) -> None:
            times.pop(name, None)
            if name in found:
                self._lose(found[name], error)

        self._screen.stage(f"timing {len(subjects)} processes in turn, {plan.restarts} restarts of {plan.rounds} rounds")
        for restart in range(plan.restarts):
            workers = self._start({name: subjects[name] for name in times}, failed)
            try:
                for name in list(workers):
                    self._ask(workers, name, failed, "warm_up", queries=settings.warmup)
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
        return times, plan

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

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _row(
        self, entry: _Found, reference: _Found | None, alive: Sequence[Subject], times: Mapping[str, list[list[list[int]]]]
    ) -> Row:
        subject = entry.subject
        files = _shipped(subject)
        size, gzipped = totals(files)
        compiled = entry.compiled or {}
        row: dict[str, Any] = {
            "name": subject.name,
            "role": subject.role,
            "target": subject.target_name,
            "backend": subject.target.backend,
            "device": subject.target.device,
            "status": "failed" if entry.reason else "measured",
            "reason": entry.reason,
            "files": files,
            "size_bytes": size if files else None,
            "gzip_bytes": gzipped if files else None,
            **compiled,
        }
        if entry.precision is not None:
            notes = entry.precision["notes"]
            row["notes"] = list(notes)
            row["precision"] = Precision(**{key: value for key, value in entry.precision.items() if key != "notes"})
        if entry.score is not None:
            other = None if reference is None or reference is entry else reference.score
            row["metrics"] = accuracy.metrics(_scores(entry.score), other and _scores(other), entry.score["samples"])
            if reference is not None and other is not None:
                row["fidelity"] = fidelity.compare(
                    [Path(entry.score["outputs"])], [Path(other["outputs"])], vs=reference.subject.name
                )
        mine = times.get(subject.name)
        if mine and entry.reason is None:
            row["latency"] = statistics.latency(
                mine, batch_size=self._settings.batch_sizes[0], threads=self._settings.threads[0]
            )
            row["speedups"] = [
                statistics.speedup(mine, other.name, times[other.name])
                for other in alive
                if other.role != "result" and other.name != subject.name and other.name in times
            ]
        return Row(**row)

    def _method(self, plan: Schedule | None) -> dict[str, Any]:
        settings = self._settings
        method: dict[str, Any] = {
            "scenario": settings.scenario,
            "batch_size": settings.batch_sizes[0],
            "threads": settings.threads[0],
            "warmup_queries": settings.warmup,
        }
        if plan is not None:
            method |= {
                "restarts": plan.restarts,
                "rounds_per_restart": plan.rounds,
                "turn_s": plan.turn_s,
                "min_queries_per_turn": plan.turn_queries,
            }
        return method


def _shipped(subject: Subject) -> list[File]:
    if subject.folder is None:
        return []
    return shipped_files(subject.folder, only=None if subject.main is None else model_files(subject.main))


def _scores(answer: Mapping[str, Any]) -> dict[str, Score]:
    """The scores that a session left in files."""
    import numpy as np

    return {
        name: Score(
            value=record["value"],
            per_sample=None if record["per_sample"] is None else np.load(record["per_sample"], allow_pickle=False),
            higher_is_better=record["higher_is_better"],
        )
        for name, record in answer["metrics"].items()
    }


def _twinned(alive: Sequence[Subject]) -> Subject | None:
    """The row that is timed twice: a result if there is one."""
    return next((subject for subject in reversed(alive) if subject.role == "result"), alive[-1] if alive else None)


def measure(
    subjects: Sequence[Subject], recipe: Recipe, *, allowed: Sequence[str], folder: Path, sample: Path, screen: Display
) -> tuple[list[Row], Noise | None, dict[str, Any], list[str]]:
    """Measure the rows of a recipe's run."""
    bench = Bench(
        recipe.benchmark,
        document=recipe.document(),
        path=recipe.path,
        allowed=allowed,
        folder=folder,
        sample=sample,
        seed=recipe.seed,
        screen=screen,
    )
    return bench.measure(subjects)
