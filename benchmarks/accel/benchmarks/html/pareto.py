"""Accuracy against latency and against size: each row a mark, the rows that no other beats in both joined by a line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accel.benchmarks import figures
from accel.benchmarks.html import cells, marks
from accel.benchmarks.html.fronts import Axis, Spot, front, latency, size, spots
from accel.benchmarks.html.markup import number, shown
from accel.benchmarks.html.placing import CHARACTER, Box, Label, place
from accel.benchmarks.html.scales import Scale, fit, tick_text
from accel.benchmarks.untrusted import visible
from accel.benchmarks.verdict import yardstick
from accel.report import Metric, Report, Row

WIDTH, HEIGHT = 560.0, 400.0
LEFT, TOP, BOTTOM = 62.0, 14.0, HEIGHT - 50
BAND = 66.0
"""Width of the strip at the right for rows that have no figure on the lower axis."""


def charts(report: Report) -> str:
    """Two panels for the first metric, and for each further one, folded away. Empty without accuracies."""
    names = list(dict.fromkeys(metric.name for row in report.rows for metric in row.metrics))[:4]
    if not names:
        return ""
    parts = [_panels(report, names[0])]
    for name in names[1:]:
        label = shown(figures.label(name), 60)
        parts.append(f"<details><summary>{label} against latency and size</summary>{_panels(report, name)}</details>")
    return "\n".join(parts)


def _panels(report: Report, metric: str) -> str:
    axes = [Axis("latency", "latency, p50 in ms", 1.0, latency)]
    if any(row.size_bytes for row in report.rows):
        largest = max(row.size_bytes or 0 for row in report.rows)
        unit, word = (1e6, "MB") if largest >= 1e6 else (1e3, "kB")
        axes.append(Axis("size", f"size of all files that ship, in {word}", unit, size))
    panels = [_panel(report, metric, axis) for axis in axes]
    line = (
        '<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true"><path class="front" d="M0 12H8V4H16"/></svg>'
        "Pareto front: no other row is better in both</li>"
    )
    drawn = [row for row in report.rows if any(each.name == metric for each in row.metrics)]
    absent = [row.name for row in report.rows if row.status == "measured" and all(each.name != metric for each in row.metrics)]
    note = f"<p>Without this metric: {', '.join(shown(name, 60) for name in absent)}.</p>" if absent else ""
    return f'<div class="panels">{"".join(panels)}</div>{marks.legend(drawn, marks.colours(report.rows), line)}{note}'


def _panel(report: Report, metric: str, axis: Axis) -> str:
    found = spots(report, metric, axis)
    placed = [spot for spot in found if spot.x is not None]
    right = WIDTH - 14 - (BAND if len(placed) < len(found) else 0)
    values = [bound / axis.unit for spot in placed for bound in (spot.x or 0.0, *(spot.x_bounds or ()))]
    across = fit(values or [1.0], LEFT, right, may_be_log=True)
    times = 100 if figures.is_fraction(metric) else 1
    heights = [times * bound for spot in found for bound in (spot.metric.value, *(spot.y_bounds or ()))]
    up = fit(heights, BOTTOM, TOP, may_be_log=False)

    apart = BAND / (len(found) - len(placed) + 1)
    strip = {spot.index: right + apart * place for place, spot in enumerate((s for s in found if s.x is None), 1)}

    def at(spot: Spot) -> tuple[float, float]:
        x = strip[spot.index] if spot.x is None else across.at(spot.x / axis.unit)
        return x, up.at(times * spot.metric.value)

    label = figures.label(metric) + (" in %" if times == 100 else "")
    better = "" if all(spot.metric.higher_is_better for spot in found) else " (lower is better)"
    title = f"{shown(figures.label(metric), 60)} against {axis.name}"
    corner = "bottom left" if better else "top left"
    parts = _frame(across, up, right, axis.title + (", logarithmic" if across.log else ""), label + better)
    if len(placed) < len(found):
        middle = number(right + BAND / 2)
        parts.append(
            f'<rect class="band" x="{number(right + 4)}" y="{number(TOP)}" width="{number(BAND - 4)}" '
            f'height="{number(BOTTOM - TOP)}"/>'
        )
        parts.append(f'<text class="tick" x="{middle}" y="{number(BOTTOM + 16)}" text-anchor="middle">no figure</text>')
    parts.append(_front(front(found), at))
    parts += [_whiskers(spot, at(spot), across, up, axis.unit, times) for spot in found]
    first = sorted(found, key=lambda spot: (spot.row.name != report.verdict.row, spot.row.role != "result", spot.index))
    dots = [(*at(spot), _name(spot), f"#{spot.index}") for spot in first]
    bars = [
        Box(x - 2, up.at(times * spot.y_bounds[1]), x + 2, up.at(times * spot.y_bounds[0]))
        for spot, (x, *_) in zip(first, dots, strict=True)
        if spot.y_bounds
    ]
    labels = place(dots, Box(LEFT + 2, TOP, WIDTH - 2, BOTTOM - 2), bars)
    parts += [_label(text, at(spot)) for spot, text in zip(first, labels, strict=True)]
    kinds = marks.colours(report.rows)
    parts += [_mark(spot, at(spot), kinds[spot.row.backend, spot.row.device], report) for spot in found]
    head = f"<figcaption>{title} <small>best is {corner}</small></figcaption>"
    return (
        f'<figure class="chart" data-chart="{axis.name}">{head}<div class="scroll" tabindex="0" '
        f'role="region" aria-label="{title}"><svg viewBox="0 0 {number(WIDTH)} {number(HEIGHT)}" role="group" '
        f'aria-label="{title}">{"".join(parts)}</svg></div></figure>'
    )


def _name(spot: Spot) -> str:
    text = visible(spot.row.name, 30)
    return text or f"#{spot.index}"


def _frame(across: Scale, up: Scale, right: float, below: str, beside: str) -> list[str]:
    parts = []
    ticks = across.ticks(6)
    for tick in ticks:
        x = number(across.at(tick))
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="{number(TOP)}" y2="{number(BOTTOM)}"/>')
        text = tick_text(tick, ticks)
        parts.append(f'<text class="tick" x="{x}" y="{number(BOTTOM + 16)}" text-anchor="middle">{text}</text>')
    ticks = up.ticks(6)
    for tick in ticks:
        y = number(up.at(tick))
        parts.append(f'<line class="grid" x1="{number(LEFT)}" x2="{number(right)}" y1="{y}" y2="{y}"/>')
        text = tick_text(tick, ticks)
        parts.append(f'<text class="tick" x="{number(LEFT - 8)}" y="{y}" dy="4" text-anchor="end">{text}</text>')
    middle = number((LEFT + right) / 2)
    parts.append(f'<text class="title" x="{middle}" y="{number(HEIGHT - 10)}" text-anchor="middle">{shown(below)}</text>')
    half = number((TOP + BOTTOM) / 2)
    parts.append(
        f'<text class="title" transform="translate(14 {half}) rotate(-90)" text-anchor="middle">{shown(beside, 60)}</text>'
    )
    return parts


def _front(found: Sequence[Spot], at: Callable[[Spot], tuple[float, float]]) -> str:
    """Steps, not a slope: between two rows there is nothing to be had."""
    if len(found) < 2:
        return ""
    (x, y), *rest = [at(spot) for spot in found]
    return f'<path class="front" d="M{number(x)} {number(y)}{"".join(f"H{number(a)}V{number(b)}" for a, b in rest)}"/>'


def _whiskers(spot: Spot, place: tuple[float, float], across: Scale, up: Scale, unit: float, times: int) -> str:
    x, y = place
    lines = []
    if spot.y_bounds is not None:
        top, low = (number(up.at(times * bound)) for bound in reversed(spot.y_bounds))
        lines.append(f"M{number(x)} {top}V{low}M{number(x - 4)} {top}h8M{number(x - 4)} {low}h8")
    if spot.x_bounds is not None:
        left, end = (number(across.at(bound / unit)) for bound in spot.x_bounds)
        lines.append(f"M{left} {number(y)}H{end}M{left} {number(y - 4)}v8M{end} {number(y - 4)}v8")
    return f'<path class="whisker" d="{"".join(lines)}"/>' if lines else ""


def _label(label: Label, dot: tuple[float, float]) -> str:
    x, y = dot
    width = len(label.text) * CHARACTER
    leader = ""
    if label.leader:
        end = min(max(x, label.x), label.x + width)
        leader = f'<path class="leader" d="M{number(x)} {number(y)}L{number(end)} {number(label.y)}"/>'
    start, anchor = label.x, ""
    if abs(label.x + width / 2 - x) < 1:
        start, anchor = label.x + width / 2, ' text-anchor="middle"'
    elif label.x + width / 2 < x:
        start, anchor = label.x + width, ' text-anchor="end"'
    return f'{leader}<text class="name" x="{number(start)}" y="{number(label.y)}" dy="4"{anchor}>{shown(label.text)}</text>'


def _mark(spot: Spot, place: tuple[float, float], colour: str, report: Report) -> str:
    """A link to the row in the table, so that a keyboard reaches it; the script makes its title a tooltip."""
    lines = tooltip(spot.row, spot.metric, report)
    x, y = place
    ring = f'<circle class="ring" cx="{number(x)}" cy="{number(y)}" r="11"/>' if spot.row.name == report.verdict.row else ""
    hollow = " hollow" if spot.x is None else ""
    return (
        f'<a class="mark {colour}{hollow}" href="#row-{spot.index}" tabindex="0" data-row="{spot.index}" '
        f'aria-label="{"; ".join(lines)}"><title>{chr(10).join(lines)}</title>'
        f'<circle class="hit" cx="{number(x)}" cy="{number(y)}" r="14"/>{ring}{marks.shape(spot.row.role, x, y)}</a>'
    )


def tooltip(row: Row, metric: Metric, report: Report) -> list[str]:
    """What a mark says of its row, each line as markup."""
    lines = [shown(row.name, 120), f"{shown(row.backend, 40)}/{shown(row.device, 20)}, {row.role}"]
    change = figures.metric_difference(metric)
    lines.append(f"{shown(figures.label(metric.name), 60)} {figures.metric_value(metric)}{f', {change}' if change else ''}")
    timed = row.latency
    if timed is None:
        lines.append("not timed")
    elif timed.unstable is not None:
        lines.append(f"p50 unstable: {shown(timed.unstable, 200)}")
    else:
        lines.append(f"p50 {figures.milliseconds(timed.p50_ms)} of {timed.queries:,} queries")
    vs = yardstick(report.rows)
    found = cells.speedup_to(row, vs)
    if found is not None and vs is not None:
        ratio = "unstable" if found.unstable is not None else figures.ratio(found.ratio)
        lines.append(f"speed {ratio} against {shown(vs.name, 60)}")
    if row.size_bytes:
        lines.append(f"size {figures.size(row.size_bytes)}")
    if row.precision is not None:
        lines.append(shown(figures.precision(row.precision), 80))
    return lines
