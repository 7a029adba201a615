"""What each layer costs in INT8, by itself, and which ones stay in floating point for it: bars, the most harmful first."""

from __future__ import annotations

from collections.abc import Sequence

from accel.accuracy_outcome import AccuracyOutcome, LayerHarm
from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import short, shown
from accel.benchmarks.html.tables import MISSING, Cell, Column, figure, table, words
from accel.benchmarks.kept_layers import decibels, number, summary
from accel.report import Report

VISIBLE = 15
MOST = 300
"""Layers drawn for one step; report.json has all."""

_COLUMNS = (
    Column("layer"),
    Column("type"),
    Column("error of the output", numeric=True, note="SQNR with this layer alone in INT8: a smaller one is worse"),
    Column("", sorts=False),
    Column("metric then", numeric=True),
    Column("in the result"),
)


def kept(report: Report) -> str:
    """A part for each step that controlled its accuracy, open where it kept something back. Empty where none did."""
    found = [(index, step.target, step.accuracy) for index, step in enumerate(report.steps, 1)]
    return "\n".join(_part(index, target, accuracy) for index, target, accuracy in found if accuracy is not None)


def _part(number_: int, target: str, found: AccuracyOutcome) -> str:
    drawn = found.layers[:MOST]
    first = [layer for index, layer in enumerate(drawn) if layer.kept or index < VISIBLE]
    rest = [layer for index, layer in enumerate(drawn) if not layer.kept and index >= VISIBLE]
    parts = [f"<p>{shown(summary(found), 600)}</p>"]
    if first:
        parts.append(_table(f"kept-{number_}", f"{short(target)}: kept back, and most harmful", first, found))
    if rest:
        inner = _table(f"kept-{number_}-rest", f"{short(target)}: the others", rest, found)
        parts.append(f"<details><summary>The other {len(rest):,} layers</summary>{inner}</details>")
    if len(found.layers) > len(drawn):
        parts.append(f"<p>{len(found.layers) - len(drawn):,} more in report.json.</p>")
    about = f"{len(found.kept):,} of {len(found.layers):,} layers{'' if found.passed else ', best effort'}"
    return cells.folded(short(target, 80), about, "".join(parts), bool(found.kept))


def _table(name: str, caption: str, layers: Sequence[LayerHarm], found: AccuracyOutcome) -> str:
    worst = min((layer.sqnr_db for layer in found.layers if layer.sqnr_db is not None), default=None)
    best = max((layer.sqnr_db for layer in found.layers if layer.sqnr_db is not None), default=None)
    return table(name, caption, _COLUMNS, [_row(layer, found, worst, best) for layer in layers], compact=True)


def _row(layer: LayerHarm, found: AccuracyOutcome, worst: float | None, best: float | None) -> list[Cell]:
    """The longest bar is the most harmful layer's; the least harmful one's is a tenth of it."""
    value = layer.value
    return [
        Cell(short(layer.layer, 60), kind="words"),
        words(short(layer.type, 30)),
        words(decibels(layer)) if layer.sqnr_db is None else figure(decibels(layer), layer.sqnr_db),
        Cell(cells.bar(_share(layer.sqnr_db, worst, best)), kind="wide"),
        MISSING if value is None else figure(number(found, value), value),
        words("<strong>floating point</strong>" if layer.kept else "INT8"),
    ]


def _share(sqnr_db: float | None, worst: float | None, best: float | None) -> float:
    if sqnr_db is None or worst is None or best is None:
        return 0.0
    return 1.0 if best == worst else 1.0 - 0.9 * (sqnr_db - worst) / (best - worst)
