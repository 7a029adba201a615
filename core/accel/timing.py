"""The interleaved comparison: rows take turns in rounds, in shuffled order, and every child is restarted several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accel.atomic import exclusive
from accel.benchmarks.schedule import Schedule, schedule, twin_name
from accel.display import Display
from accel.errors import AccelError
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.rows import Subject, Turns
from accel.sessions import Failed, Sessions, close


@dataclass(frozen=True)
class Timed:
    """``times``: turns by row name, the A/A twin's among them; rows that failed on the way are not there."""

    times: dict[str, Turns]
    plan: Schedule | None
    warnings: tuple[str, ...] = ()


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
) -> Timed:
    """Time all rows in turn. ``lost`` is told of rows that fail; ``lock`` is held: two runs do not disturb each other."""
    subjects = {subject.name: subject for subject in alive}
    twin = twinned(alive)
    if twin is not None:
        subjects[twin_name(twin.name)] = twin
    if not subjects:
        return Timed({}, None)
    plan = schedule(
        list(subjects),
        min_duration_s=settings.min_duration_s,
        min_iterations=settings.min_iterations,
        restarts=settings.restarts,
        seed=seed,
    )
    times: dict[str, Turns] = {name: [] for name in subjects}
    warnings: list[str] = []

    def failed(name: str, error: AccelError) -> None:
        times.pop(name, None)
        if any(subject.name == name for subject in alive):
            lost(name, error)
        else:
            warnings.append(f"there is no A/A pair, so nothing says how noisy the timings are: {error}")

    screen.stage(f"timing {len(subjects)} processes in turn, {plan.restarts} restarts of {plan.rounds} rounds")
    with exclusive(lock, waiting=lambda: screen.note("waiting for another run that is timing")):
        for restart in range(plan.restarts):
            workers = sessions.start({name: subjects[name] for name in times}, failed)
            try:
                for name in list(workers):
                    sessions.ask(workers, name, failed, "warm_up", queries=settings.warmup)
                    if name in times:
                        times[name].append([])
                for turn in plan.turns(restart):
                    if turn.row not in workers:
                        continue
                    samples = sessions.ask(
                        workers, turn.row, failed, "turn", duration_s=plan.turn_s, min_queries=plan.turn_queries
                    )
                    if samples is not None:
                        times[turn.row][restart].append(samples)
                    screen.advance(restart * plan.rounds + turn.round, plan.restarts * plan.rounds, "rounds timed")
            finally:
                close(workers)
    return Timed(times, plan, tuple(warnings))
