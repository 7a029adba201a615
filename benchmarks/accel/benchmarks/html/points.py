"""Scenarios beside single-stream, and the settings that were swept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from accel.benchmarks import figures
from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import short, shown
from accel.benchmarks.html.tables import MISSING, Cell, Column, figure, table, words
from accel.benchmarks.verdict import yardstick, yardstick_name
from accel.report import Estimate, Point, Report, Row

MOST = 100
SCENARIOS = {
    "single_stream": "one query after another",
    "multi_stream": "a query is eight batches at once",
    "offline": "all samples are there from the start; what counts is how many a second",
    "server": "queries arrive by chance (Poisson); what counts is the highest rate at which p99 keeps its bound",
}


@dataclass(frozen=True)
class Line:
    """A point with its row, and the row that it is compared with."""

    number: int
    row: Row
    point: Point
    vs: Row | None


def points(report: Report) -> str:
    """A table for each scenario, rows of one setting beside each other. Empty where nothing but single-stream was asked for."""
    vs = yardstick(report.rows)
    lines = [Line(index, row, point, vs) for index, row in enumerate(report.rows, 1) for point in row.points]
    parts = []
    for scenario, about in SCENARIOS.items():
        found = sorted((line for line in lines if line.point.scenario == scenario), key=_setting)
        if found:
            caption = f"{about[:1].upper()}{about[1:]}."
            if vs is not None:
                caption += f" Speed is against {short(vs.name)}, the {yardstick_name(vs)}, at the same setting."
            parts.append(f"<h3>{scenario.replace('_', '-').capitalize()}</h3>{_table(scenario, caption, found)}")
    return "\n".join(parts)


def _setting(line: Line) -> tuple[object, ...]:
    point = line.point
    return point.batch_size, point.threads, point.streams, point.pinned, point.samples_per_query, line.number


def _table(scenario: str, caption: str, found: Sequence[Line]) -> str:
    """Only the columns in which some line has something to say."""
    before = [(column, of) for column, of, worth in _SETTINGS if any(map(worth, found))]
    after = [
        column
        for column in _FIGURES
        if any(
            column[1](line).value is not None or column[1](line).kind == "unstable"
            for line in found
            if line.point.reason is None
        )
    ]
    rows = []
    for line in found[:MOST]:
        row = [Cell(f'<span class="number">{line.number}</span> {short(line.row.name)}', line.row.name)]
        row += [of(line) for _, of in before]
        if line.point.reason is not None:
            row.append(words(shown(line.point.reason)))
        else:
            row += [of(line) for _, of in after]
        rows.append(row)
    columns = [Column("row"), *(column for column, _ in before), *(column for column, _ in after)]
    if not after:
        columns.append(Column("figures"))
    parts = [table(f"points-{scenario}", caption, columns, rows, compact=True)]
    if len(found) > MOST:
        parts.append(f"<p>{len(found) - MOST:,} more in report.json.</p>")
    unstable = [
        f"<strong>{short(line.row.name)}</strong>, batch {line.point.batch_size}, threads {line.point.threads}, "
        f"streams {line.point.streams}: {shown(reason)}"
        for line in found
        for reason in dict.fromkeys(filter(None, [line.point.unstable, *(each.unstable for each in line.point.speedups)]))
    ]
    return "".join(parts) + cells.bullets(unstable, "reasons", 60)


def _percentile(which: str) -> Callable[[Line], Cell]:
    def cell(line: Line) -> Cell:
        value: float | None = getattr(line.point, which)
        return cells.time(value, line.point.unstable if value is not None else None)

    return cell


def _rate(found: Estimate | None, unstable: str | None, below: str = "") -> Cell:
    if found is None:
        return MISSING
    if unstable is not None:
        return cells.unstable(unstable)
    bounds = [] if found.low is None or found.high is None else [f"CI {_per_s(found.low)} to {_per_s(found.high)}"]
    small = ", ".join(filter(None, [*bounds, below]))
    return Cell(f"{_per_s(found.value)} /s{f'<small>{small}</small>' if small else ''}", found.value)


def _per_s(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _highest(line: Line) -> Cell:
    bound = line.point.bound_ms
    return _rate(
        line.point.rate_per_s, line.point.unstable, "" if bound is None else f"p99 within {figures.milliseconds(bound)}"
    )


def _speed(line: Line) -> Cell:
    return cells.ratio(line.row.model_copy(update={"speedups": line.point.speedups}), line.vs)


def _whole(column: str, which: str, least: int) -> tuple[Column, Callable[[Line], Cell], Callable[[Line], bool]]:
    """A setting that is a number, and whether a line's is worth a column: not below ``least``."""

    def value(line: Line) -> int:
        found: int = getattr(line.point, which)
        return found

    return Column(column, numeric=True), lambda line: figure(f"{value(line):,}", value(line)), lambda line: value(line) >= least


_SETTINGS: tuple[tuple[Column, Callable[[Line], Cell], Callable[[Line], bool]], ...] = (
    _whole("batch", "batch_size", 0),
    _whole("threads", "threads", 0),
    _whole("streams", "streams", 2),
    (
        Column("pinned to", note="cores"),
        lambda line: words(shown(", ".join(map(str, line.point.pinned)), 60)) if line.point.pinned else MISSING,
        lambda line: bool(line.point.pinned),
    ),
)
_FIGURES: tuple[tuple[Column, Callable[[Line], Cell]], ...] = (
    (Column("queries", numeric=True), lambda line: figure(f"{line.point.queries:,}", line.point.queries)),
    (Column("restarts", numeric=True), lambda line: figure(f"{line.point.restarts:,}", line.point.restarts)),
    (
        Column("throughput", numeric=True, note="samples a second"),
        lambda line: _rate(line.point.throughput_per_s, line.point.unstable),
    ),
    (Column("highest rate", numeric=True), _highest),
    (Column("p50", numeric=True), _percentile("p50_ms")),
    (Column("p90", numeric=True), _percentile("p90_ms")),
    (Column("p99", numeric=True), _percentile("p99_ms")),
    (Column("speed", numeric=True, note="at the same setting"), _speed),
)
