"""Measuring all rows of a run side by side, each in its own child process; a child that fails costs its row alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel import deciding, limits, samples, timing
from accel import peaks as machine_peaks
from accel.benchmarks import stability, statistics
from accel.benchmarks.environment import cores
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.schedule import twin_name
from accel.display import Display, show_event
from accel.errors import AccelError
from accel.machine import Conditions, Peaks
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.recipe.settings import Recipe, ReportSettings
from accel.report import Noise, Point, Row
from accel.report import Sample as ShownSample
from accel.rows import Found, Subject, guessing, row, slow_int8, unlike
from accel.sessions import TURN_SLACK_S, Sessions
from accel.sweeping import crowded, sweep
from accel.timed_inputs import Sample
from accel.worker import Worker

TIMES_ONLY = ReportSettings(layers=False, samples=0, roofline=False)

_SCORE_LIMIT_S = 3600.0
_ON_DEVICE_QUERIES = 200
_PROFILED_QUERIES = 20
_PROFILED_S = 1.0


@dataclass(frozen=True)
class Measured:
    """What a report is made from. ``noise``: the A/A verdict, None without a pair; ``samples``: those that rows name.

    ``peaks``: of this machine, None where no row is held against them; ``method``: how it was measured.
    """

    rows: Sequence[Row]
    noise: Noise | None
    conditions: Conditions | None
    peaks: Peaks | None
    samples: Sequence[ShownSample]
    method: Mapping[str, Any]
    warnings: Sequence[str]


class Bench:
    """Opens sessions for subjects of one run. ``document`` is the recipe's, None where files are measured without one.

    ``report``: what is measured besides; ``store``: its folder. Two runs of one store do not time at the same moment.
    """

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
        store: Path,
        report: ReportSettings = TIMES_ONLY,
    ) -> None:
        self._settings = settings
        self._report = report
        self._store = store
        self._lock = store / "locks" / "timing.lock"
        self._sessions = Sessions(
            document=document,
            path=path,
            allowed=allowed,
            folder=folder,
            sample=sample,
            compile_timeout_s=settings.compile_timeout_s,
            pinned=settings.pinning,
        )
        self._screen = screen
        self._warnings: list[str] = []

    def measure(self, subjects: Sequence[Subject], *, gates: Sequence[GateSettings] = ()) -> Measured:
        """Rows are in the order of ``subjects``.

        ``gates``: those on the median that are to be decided by the timing, which goes on until they are.
        """
        self._warnings += filter(None, [crowded(self._settings.threads[0], cores())])
        found = {subject.name: Found(subject) for subject in subjects}
        self._inspect(found)
        alive = _alive(found)
        timed = timing.compare(
            alive,
            self._sessions,
            self._settings,
            seed=self._sessions.sample.seed,
            screen=self._screen,
            lock=self._lock,
            lost=lambda name, error: self._lose(found[name], error),
            enough=deciding.enough(gates, alive),
        )
        times = timed.times
        self._warnings += timed.warnings
        if timed.conditions is not None:
            self._warnings += timed.conditions.problems
        alive = _alive(found)
        points = self._points(alive)
        reference = next(
            (subject for subject in alive if subject.role != "result" and found[subject.name].score is not None), None
        )
        compared = None if reference is None else found[reference.name]
        named = self._report.samples
        rows = [row(entry, compared, alive, times, self._settings, named) for entry in found.values()]
        rows = [each.model_copy(update={"points": points.get(each.name, [])}) for each in rows]
        rows = [limits.with_layers(each, found[each.name].layers) for each in rows]
        peaks = self._peaks(rows)
        if peaks is not None:
            rows = limits.with_rooflines(rows, found, peaks)
        if any(_unstable(each) for each in rows):
            self._warnings.append(stability.WAY_OUT)
        noise = None
        twin = timing.twinned(alive)
        if twin is not None and twin_name(twin.name) in times:
            noise = statistics.noise(twin.name, times[twin.name], times[twin_name(twin.name)])
        shown = samples.collect(rows, compared, self._sessions, self._warnings.append)
        self._warnings += [text for entry in found.values() if entry.score for text in entry.score["warnings"]]
        self._warnings += filter(None, [*map(unlike, rows), slow_int8(rows)])
        if compared is not None and compared.score is not None:
            first = next(entry for entry in rows if entry.name == compared.subject.name)
            self._warnings += filter(None, [guessing(first, compared.score["classes"])])
        warnings = list(dict.fromkeys(self._warnings))
        return Measured(rows, noise, timed.conditions, peaks, shown, self._method(timed, found), warnings)

    # -- beside the main comparison -----------------------------------------------------------------------------------

    def _points(self, alive: Sequence[Subject]) -> dict[str, list[Point]]:
        return sweep(
            alive,
            self._sessions,
            self._settings,
            seed=self._sessions.sample.seed,
            screen=self._screen,
            lock=self._lock,
            lost=lambda name, error: self._warnings.append(f"{name}: {error}"),
        )

    def _peaks(self, rows: Sequence[Row]) -> Peaks | None:
        """Only where a row is to be held against them; that they cannot be had is said, and costs no row."""
        if not self._report.roofline or not any(each.device == "cpu" and each.latency is not None for each in rows):
            return None
        try:
            return machine_peaks.peaks(self._store, self._settings.threads[0], screen=self._screen)
        except AccelError as error:
            self._warnings.append(f"the machine's peak could not be measured, so no row has a roofline: {error}")
            return None

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
            asked = [name for name in group if self._asked(found[name], sessions[name], "score")]
            for name in asked:
                try:
                    answer = sessions[name].result(
                        timeout_s=_SCORE_LIMIT_S, on_event=lambda event: show_event(self._screen, event)
                    )
                    found[name].score = answer if answer["outputs"] else None
                except AccelError as error:
                    self._lose(found[name], error)
            for name in group:
                if self._report.layers and found[name].reason is None:
                    self._profile(found[name], sessions[name])
            for name in group:  # their memory is wanted by the next ones
                sessions.pop(name).close()

    def _asked(self, entry: Found, worker: Worker, method: str) -> bool:
        """Whether the request went out: a child may have died while it waited for its turn, for want of memory say."""
        try:
            worker.request(method)
        except AccelError as error:
            self._lose(entry, error)
            return False
        return True

    def _profile(self, entry: Found, worker: Worker) -> None:
        """Alone, and last: a profiler that takes its process with it costs the layer times, nothing else."""
        self._screen.stage(f"{entry.subject.name}: timing layers")
        try:
            limit = self._settings.compile_timeout_s + TURN_SLACK_S
            entry.layers = worker.call("layers", timeout_s=limit, queries=_PROFILED_QUERIES, limit_s=_PROFILED_S)
        except AccelError as error:
            self._warnings.append(f"{entry.subject.name}: its layers could not be timed: {error}")

    def _lose(self, entry: Found, error: AccelError) -> None:
        entry.reason = str(error)
        self._screen.warn(f"{entry.subject.name}: {error}")

    def _method(self, run: timing.Timed, found: Mapping[str, Found]) -> dict[str, Any]:
        settings, plan = self._settings, run.plan
        timed = next((entry.compiled["inputs"] for entry in found.values() if entry.compiled), None)
        method: dict[str, Any] = {
            "scenario": settings.scenario[0],
            "batch_size": settings.batch_sizes[0],
            "threads": settings.threads[0],
            "pinned": self._sessions.cores_for(settings.threads[0]),
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
                "stopped": run.stopped,
            }
        return method


def _alive(found: Mapping[str, Found]) -> list[Subject]:
    return [entry.subject for entry in found.values() if entry.reason is None]


def measure(
    subjects: Sequence[Subject],
    recipe: Recipe,
    *,
    allowed: Sequence[str],
    folder: Path,
    sample: Path,
    screen: Display,
    store: Path,
) -> Measured:
    """Measure the rows of a recipe's run. ``store``: its folder."""
    bench = Bench(
        recipe.benchmark,
        document=recipe.document(),
        path=recipe.path,
        allowed=allowed,
        folder=folder,
        sample=Sample(str(sample), recipe.benchmark.batch_sizes[0], recipe.seed),
        screen=screen,
        store=store,
        report=recipe.report,
    )
    return bench.measure(subjects, gates=recipe.gates)


def _unstable(found: Row) -> bool:
    """Whether any figure of a row stands for a reason instead of a number."""
    latency = found.latency is not None and found.latency.unstable is not None
    others = [one.unstable for one in found.speedups] + [one.unstable for one in found.points]
    return latency or any(reason is not None for reason in others)
