"""Where a row's time goes: by precision and by kind of layer in one bar each, then layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from accel.benchmarks import figures
from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import number, short, shown
from accel.benchmarks.html.palette import SERIES_LIGHT
from accel.benchmarks.html.tables import MISSING, Cell, Column, figure, table, words
from accel.report import Layer, Report, Row

VISIBLE = 15
REST = 250_000
"""Characters of all layers beyond the visible ones, shared evenly among the rows."""

_COLUMNS = (
    Column("layer"),
    Column("kind"),
    Column("precision"),
    Column("time", numeric=True, note="mean of one inference, with the runtime's profiler on"),
    Column("share", numeric=True),
    Column("", sorts=False),
    Column("ONNX nodes"),
)


def layers(report: Report) -> str:
    """A part for each row that was profiled, the best one's open. Empty where none was."""
    found = [(index, row) for index, row in enumerate(report.rows, 1) if row.layers]
    opened = next((row.name for _, row in found if row.name == report.verdict.row), found[0][1].name if found else "")
    everything = [layer for _, row in found for layer in row.layers]
    colours = {title: _colours(everything, of) for title, of in _STACKS.items()}
    room = REST // max(len(found), 1)
    return "\n".join(_part(row, index, row.name == opened, colours, room) for index, row in found)


_STACKS: dict[str, Callable[[Layer], str]] = {
    "precision": lambda layer: layer.precision or "unknown",
    "kind": lambda layer: layer.kind or "unknown",
}


def _colours(found: Sequence[Layer], of: Callable[[Layer], str]) -> dict[str, int]:
    """A colour for each of the commonest names, the same in every row; the last one is left for the others."""
    counts: dict[str, int] = {}
    for layer in found:
        counts[of(layer)] = counts.get(of(layer), 0) + 1
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: index for index, name in enumerate(ranked[: len(SERIES_LIGHT) - 1])}


def _part(row: Row, number_: int, opened: bool, colours: dict[str, dict[str, int]], room: int) -> str:
    total = sum(layer.ms or 0.0 for layer in row.layers)
    timed = sorted(row.layers, key=lambda layer: -(layer.ms if layer.ms is not None else -1.0))
    about = f"{len(row.layers):,} layers" + (f", {figures.milliseconds(total)}" if total else ", not timed")
    longest = (timed[0].ms or 0.0) / total if total else 0.0
    rows = [_layer(layer, total, longest) for layer in timed[:VISIBLE]]
    caption = f"{short(row.name)}: the {len(rows)} layers that take longest"
    parts = [_stack(row.layers, of, title, colours[title]) for title, of in _STACKS.items()]
    parts.append(table(f"layers-{number_}", caption, _COLUMNS, rows, compact=True))
    if len(timed) > VISIBLE:
        others = _rest(timed[VISIBLE:], total, room)
        rest = table(f"layers-{number_}-rest", f"{short(row.name)}: the others", _COLUMNS, others, compact=True)
        left = len(timed) - VISIBLE - len(others)
        more = f"<p>{left:,} more in report.json.</p>" if left else ""
        parts.append(f"<details><summary>The other {len(timed) - VISIBLE:,} layers</summary>{rest}{more}</details>")
    return cells.folded(short(row.name, 80), about, "".join(parts), opened)


def _rest(found: Sequence[Layer], total: float, room: int) -> list[list[Cell]]:
    """As many lines as ``room`` characters hold, without bars."""
    lines = []
    for layer in found:
        line = _layer(layer, total, 0.0)
        room -= 150 + sum(len(cell.html) for cell in line)
        if room < 0:
            break
        lines.append(line)
    return lines


def _layer(layer: Layer, total: float, longest: float) -> list[Cell]:
    """``longest``: the share that fills a bar; 0: no bar."""
    share = layer.ms / total if layer.ms is not None and total else None
    nodes = ", ".join(short(node, 48) for node in layer.nodes[:2])
    if len(layer.nodes) > 2:
        nodes += f" and {len(layer.nodes) - 2:,} more"
    return [
        Cell(short(layer.name, 60), kind="words"),
        words(short(layer.kind, 30)),
        words(short(layer.precision, 20)),
        figure(figures.milliseconds(layer.ms), layer.ms),
        figure("" if share is None else f"{100 * share:.1f} %", share),
        Cell("") if share is None or not longest else Cell(cells.bar(share / longest), kind="wide"),
        words(f'<small class="why">{nodes}</small>') if nodes else MISSING,
    ]


def shares(found: Sequence[Layer], of: Callable[[Layer], str], named: Mapping[str, int]) -> list[tuple[str, float, int]]:
    """``(name, share of the time, layers)``, the largest first; what is not in ``named`` together, last, as ``other``.

    Where no layer is timed, the share is of the number of layers.
    """
    timed = any(layer.ms for layer in found)
    groups: dict[str, tuple[float, int]] = {}
    for layer in found:
        name = of(layer) if of(layer) in named else ""
        weight, count = groups.get(name, (0.0, 0))
        groups[name] = (weight + ((layer.ms or 0.0) if timed else 1.0), count + 1)
    total = sum(weight for weight, _ in groups.values())
    ranked = sorted(groups, key=lambda name: (not name, -groups[name][0], name))
    return [(name or "other", groups[name][0] / total, groups[name][1]) for name in ranked]


def _stack(found: Sequence[Layer], of: Callable[[Layer], str], what: str, colours: Mapping[str, int]) -> str:
    timed = any(layer.ms for layer in found)
    x, rects, keys = 0.0, [], []
    for name, share, count in shares(found, of, colours):
        width, colour = 1000 * share, colours.get(name, len(SERIES_LIGHT) - 1)
        told = f"{shown(name, 60)}: {100 * share:.1f} % of the {'time' if timed else 'layers'}, {count:,} layers"
        inner = max(width - 3, 0.5)
        rects.append(
            f'<rect class="s{colour}" x="{number(x)}" width="{number(inner)}" height="20"><title>{told}</title></rect>'
        )
        keys.append(
            f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true"><rect class="s{colour}" x="2" y="2" width="12" '
            f'height="12" rx="3"/></svg>{short(name, 30)} <b>{100 * share:.1f} %</b></li>'
        )
        x += width
    title = f"{'time' if timed else 'number of layers'} by {what}"
    return (
        f'<figure class="stack"><figcaption>{title}</figcaption><svg viewBox="0 0 1000 20" preserveAspectRatio="none" '
        f'role="img" aria-label="{title}; see the list below">{"".join(rects)}</svg>'
        f'<ul class="legend">{"".join(keys)}</ul></figure>'
    )
