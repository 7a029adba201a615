"""Which rows a chart of accuracy against something shows, and which of them no other row beats in both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accel.report import Metric, Report, Row


@dataclass(frozen=True)
class Spot:
    """A measured row in a chart. ``x`` is None with a ``why`` where the row has no figure to rely on."""

    index: int
    row: Row
    metric: Metric
    x: float | None
    why: str
    x_bounds: tuple[float, float] | None
    y_bounds: tuple[float, float] | None


@dataclass(frozen=True)
class Axis:
    """The lower axis: what it is called, its figure of a row (or why none), and how large ones are written."""

    name: str
    title: str
    unit: float
    figure: Callable[[Row], tuple[float | None, str, tuple[float, float] | None]]


def latency(row: Row) -> tuple[float | None, str, tuple[float, float] | None]:
    latency = row.latency
    if latency is None:
        return None, "not timed", None
    if latency.unstable is not None:
        return None, f"unstable: {latency.unstable}", None
    bounded = latency.p50_low_ms is not None and latency.p50_high_ms is not None
    return latency.p50_ms, "", (latency.p50_low_ms or 0.0, latency.p50_high_ms or 0.0) if bounded else None


def size(row: Row) -> tuple[float | None, str, tuple[float, float] | None]:
    return (row.size_bytes, "", None) if row.size_bytes else (None, "no files that ship", None)


def spots(report: Report, name: str, axis: Axis) -> list[Spot]:
    """The rows that have the metric ``name``."""
    found = []
    for index, row in enumerate(report.rows, 1):
        metric = next((each for each in row.metrics if each.name == name), None)
        if metric is None:
            continue
        x, why, x_bounds = axis.figure(row)
        found.append(Spot(index, row, metric, x, why, x_bounds, _bounds(metric)))
    return found


def _bounds(metric: Metric) -> tuple[float, float] | None:
    """The interval of the paired difference, around this row's value."""
    found = metric.difference
    if found is None or found.low is None or found.high is None:
        return None
    return metric.value + found.low - found.value, metric.value + found.high - found.value


def front(found: Sequence[Spot]) -> list[Spot]:
    """Those that no other row beats in both, or ties in one and beats in the other; from small to large."""
    placed = sorted((spot for spot in found if spot.x is not None), key=lambda spot: (spot.x or 0.0, -_good(spot), spot.index))
    kept: list[Spot] = []
    for spot in placed:
        if not kept or _good(spot) > _good(kept[-1]):
            kept.append(spot)
    return kept


def _good(spot: Spot) -> float:
    return spot.metric.value if spot.metric.higher_is_better else -spot.metric.value
