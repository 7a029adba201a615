"""What several tables and charts say of a row: its name, its figures, and the word ``unstable`` instead of a figure."""

from __future__ import annotations

from collections.abc import Sequence

from accel.benchmarks import figures
from accel.benchmarks.html.markup import short, shown
from accel.benchmarks.html.tables import MISSING, Cell, figure
from accel.report import Estimate, Metric, Row, Speedup


def name(row: Row, number: int, best: bool = False) -> Cell:
    """The row's name with its place and role below; ``number`` counts from 1, as the charts call it."""
    star = ' <span class="best" title="the row that the verdict speaks of">★ best</span>' if best else ""
    place = f"{shown(row.backend, 40)}/{shown(row.device, 20)}"
    html = f'<span class="number">{number}</span> {short(row.name)}{star}<small>{place}, {row.role}</small>'
    return Cell(html, row.name)


def time(milliseconds: float | None, reason: str | None) -> Cell:
    """A duration, or ``unstable`` with the reason as its tooltip."""
    if reason is not None:
        return unstable(reason)
    return figure(figures.milliseconds(milliseconds), milliseconds)


def unstable(reason: str) -> Cell:
    """A figure that is not to be relied on is no number, for the reader and for sorting."""
    return Cell(f'<span class="unstable" title="{shown(reason, 300)}">unstable</span>', kind="unstable")


def speedup_to(row: Row, vs: Row | None) -> Speedup | None:
    return None if vs is None else next((found for found in row.speedups if found.vs == vs.name), None)


def ratio(row: Row, vs: Row | None) -> Cell:
    """The interleaved ratio to ``vs`` with its interval."""
    if vs is not None and vs.name == row.name:
        return Cell("1 <small>itself</small>", 1.0)
    found = speedup_to(row, vs)
    if found is None:
        return MISSING
    if found.unstable is not None:
        return unstable(found.unstable)
    text, _, interval = figures.ratio(found.ratio).partition(" ")
    unclear = "<small>not significant</small>" if is_unclear(found.ratio) else ""
    return Cell(f"{shown(text)} <small>{shown(interval.strip('()'))}</small>{unclear}", found.ratio.value)


def is_unclear(found: Estimate) -> bool:
    """Whether the interval holds 1."""
    return found.low is not None and found.high is not None and found.low <= 1 <= found.high


def difference(metric: Metric) -> Cell:
    """The paired difference to the reference with its interval and McNemar's test; missing for the reference itself."""
    if metric.difference is None:
        return MISSING
    text, _, interval = figures.metric_difference(metric).partition(" (")
    below = f"<small>{shown(interval.rstrip(')'))}</small>" if interval else ""
    if (test := metric.mcnemar) is not None:
        what = "McNemar's test, exact, two-sided; samples that only this row has right, and only the reference"
        below += f'<small title="{shown(what)}">{p_value(test.p_value)} (+{test.gained:,} −{test.lost:,})</small>'
    return Cell(f"{shown(text)}{below}", metric.difference.value)


def p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def bar(share: float, kind: str = "") -> str:
    """A bar of ``share`` of its width, beside the figure that says it."""
    fill = f' class="{kind}"' if kind else ""
    return (
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<path{fill} d="M0 4H{100 * min(max(share, 0.0), 1.0):.3g}"/></svg>'
    )


def folded(title: str, about: str, inside: str, opened: bool) -> str:
    """One of several parts of a section, folded away unless ``opened``. All are markup."""
    head = f"<summary>{title} <small>{about}</small></summary>"
    return f'<details class="part"{" open" if opened else ""}>{head}{inside}</details>'


def unstable_lines(rows: Sequence[Row], vs: Sequence[str] | None) -> list[str]:
    """Each reason for an ``unstable``, in words, as markup: of latencies and ratios to ``vs``; None: of all ratios alone."""
    lines = []
    for row in rows:
        reasons: dict[str, list[str]] = {}
        if vs is not None and row.latency is not None and row.latency.unstable is not None:
            reasons.setdefault(row.latency.unstable, []).append("latency")
        for found in row.speedups:
            if found.unstable is not None and (vs is None or found.vs in vs):
                reasons.setdefault(found.unstable, []).append(f"speed against {found.vs}")
        lines += [
            f"<strong>{short(row.name)}</strong>, {shown(figures.listed(what), 300)}: {shown(reason)}"
            for reason, what in reasons.items()
        ]
    return lines


def bullets(lines: Sequence[str], kind: str = "", limit: int = 200) -> str:
    """A list of markup; what is over ``limit`` is counted."""
    kept = [f"<li>{line}</li>" for line in lines[:limit]]
    if len(lines) > limit:
        kept.append(f"<li>and {len(lines) - limit:,} more in report.json</li>")
    return f"<ul{f' class={chr(34)}{kind}{chr(34)}' if kind else ''}>{''.join(kept)}</ul>" if kept else ""
