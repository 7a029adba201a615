"""How single-stream latencies are spread: for each row a curve over one shared axis, from the sample's own quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from accel.benchmarks import figures
from accel.benchmarks.html import cells, marks
from accel.benchmarks.html.markup import number
from accel.benchmarks.html.scales import Scale, fit, tick_text
from accel.benchmarks.html.tables import MISSING, Cell, Column, figure, table
from accel.report import Latency, Report

WIDTH, HEIGHT, BASE = 460.0, 52.0, 40.0
BINS = 115


def distributions(report: Report) -> str:
    """A table with a picture in each line. Empty where no row keeps its quantiles."""
    found = [
        (index, row, row.latency)
        for index, row in enumerate(report.rows, 1)
        if row.latency is not None and len(row.latency.quantiles_ms) >= 3 and row.latency.quantiles_ms[0] > 0
    ]
    if not found:
        return ""
    ends = [end for _, _, latency in found for end in (latency.quantiles_ms[0], _near_end(latency.quantiles_ms))]
    scale = fit(ends, 4, WIDTH - 4, may_be_log=True, pad=0.03)
    kinds = marks.colours(report.rows)
    rows = [
        [
            cells.name(row, index),
            Cell(_picture(latency, scale, kinds[row.backend, row.device]), kind="picture"),
            cells.time(latency.p50_ms, latency.unstable),
            _spread(latency),
            figure(f"{latency.queries:,}", latency.queries),
        ]
        for index, row, latency in found
    ]
    caption = (
        f"Curve: how often a query took how long{', on a logarithmic axis' if scale.log else ''}. Line: the median of all. "
        "Ticks below: the medians of the restarts. The slowest 1 % are not drawn. Heights are not comparable between rows."
    )
    columns = [
        Column("row"),
        Column("latency in ms", sorts=False),
        Column("p50", numeric=True),
        Column("middle half", numeric=True, note="from the 25th to the 75th percentile of the sample"),
        Column("queries", numeric=True),
    ]
    foot = [Cell("<small>axis, ms</small>", kind="words"), Cell(_axis(scale), kind="picture"), *[Cell("", kind="words")] * 3]
    return table("distributions", caption, columns, rows, foot=foot)


def _near_end(quantiles: Sequence[float]) -> float:
    return quantiles[-2] if len(quantiles) > 2 else quantiles[-1]


def _spread(latency: Latency) -> Cell:
    if latency.unstable is not None:
        return cells.unstable(latency.unstable)
    last = len(latency.quantiles_ms) - 1
    low, high = (latency.quantiles_ms[round(last * share)] for share in (0.25, 0.75))
    if last < 4:
        return MISSING
    text = f"{figures.milliseconds(low).removesuffix(' ms')} to {figures.milliseconds(high)}"
    return figure(text, high - low)


def density(quantiles: Sequence[float], scale: Scale, bins: int = BINS) -> list[float]:
    """Share of queries in each of ``bins`` equal parts of the axis, smoothed, its largest made 1.

    Between two neighbouring quantiles the queries are spread evenly; what lies beyond the axis is left out.
    """
    width = (scale.end - scale.start) / bins
    heights = [0.0] * bins
    share = 1 / (len(quantiles) - 1)
    for low, high in pairwise(quantiles):
        start, end = ((scale.at(value) - scale.start) / width for value in (low, high))
        if end - start < 1e-6:
            start, end = start - 5e-7, end + 5e-7
        for index in range(max(0, math.floor(start)), min(bins, math.ceil(end))):
            heights[index] += share * (min(end, index + 1) - max(start, index)) / (end - start)
    for _ in range(2):
        padded = [0.0, *heights, 0.0]
        heights = [0.25 * a + 0.5 * b + 0.25 * c for a, b, c in zip(padded, padded[1:], padded[2:], strict=False)]
    largest = max(heights) or 1.0
    return [height / largest for height in heights]


def _picture(latency: Latency, scale: Scale, colour: str) -> str:
    heights = density(latency.quantiles_ms, scale)
    width = (scale.end - scale.start) / len(heights)
    shown = [index for index, height in enumerate(heights) if height > 0.002] or [0]
    line = "".join(
        f"L{number(scale.start + (index + 0.5) * width)} {number(BASE - heights[index] * (BASE - 5))}"
        for index in range(shown[0], shown[-1] + 1)
    )
    first, last = (number(scale.start + (index + 0.5) * width) for index in (shown[0], shown[-1]))
    median = number(scale.held(latency.p50_ms))
    ticks = "".join(f"M{number(scale.held(found))} {number(BASE + 3)}v7" for found in latency.restart_p50_ms if found > 0)
    about = f"{figures.milliseconds(latency.p50_ms)} median" if latency.unstable is None else "unstable"
    return (
        f'<svg class="spread {colour}" viewBox="0 0 {number(WIDTH)} {number(HEIGHT)}" role="img" '
        f'aria-label="distribution of latency, {about}">{_grid(scale, BASE)}'
        f'<path class="area{" hollow" if latency.unstable else ""}" d="M{first} {number(BASE)}{line}L{last} {number(BASE)}Z"/>'
        f'<path class="median" d="M{median} 3V{number(BASE)}"/><path class="restarts" d="{ticks or "M0 0"}"/></svg>'
    )


def _grid(scale: Scale, bottom: float) -> str:
    lines = "".join(f"M{number(scale.at(tick))} 0V{number(bottom)}" for tick in scale.ticks(7))
    return f'<path class="grid" d="{lines}M{number(scale.start)} {number(bottom)}H{number(scale.end)}"/>'


def _axis(scale: Scale) -> str:
    ticks = scale.ticks(7)
    texts = "".join(
        f'<text class="tick" x="{number(scale.at(tick))}" y="16" text-anchor="middle">{tick_text(tick, ticks)}</text>'
        for tick in ticks
    )
    return f'<svg class="spread axis" viewBox="0 0 {number(WIDTH)} 22" aria-hidden="true">{_grid(scale, 4)}{texts}</svg>'
