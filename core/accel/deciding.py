"""Whether the timings so far decide the gates they are taken for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from accel.benchmarks import statistics
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gates import conclusive, stops
from accel.report import Row
from accel.rows import Subject, Turns


def enough(settings: Sequence[GateSettings], alive: Sequence[Subject]) -> Callable[[Mapping[str, Turns]], bool] | None:
    """A question for timing.compare: is every gate on the median against this run's baselines decided? None without one.

    ``alive``: the rows that are timed.
    """
    wanted = stops(settings)
    if not wanted:
        return None

    def decided(times: Mapping[str, Turns]) -> bool:
        return conclusive(wanted, [_row(subject, alive, times) for subject in alive if subject.name in times])

    return decided


def _row(subject: Subject, alive: Sequence[Subject], times: Mapping[str, Turns]) -> Row:
    """What the gates look at, of a row that is not finished."""
    mine = times[subject.name]
    return Row(
        name=subject.name,
        role=subject.role,
        target=subject.target_name,
        backend=subject.target.backend,
        device=subject.target.device,
        latency=statistics.latency(mine),
        speedups=[
            statistics.speedup(mine, other.name, times[other.name])
            for other in alive
            if other.role != "result" and other.name != subject.name and other.name in times
        ],
    )
