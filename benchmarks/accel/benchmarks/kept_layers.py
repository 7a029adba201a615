"""What ``accuracy_control`` found, as a table in Markdown: which layers stay in floating point, and what each costs in INT8.

Light: no numpy.
"""

from __future__ import annotations

from accel.accuracy_outcome import AccuracyOutcome, LayerHarm
from accel.benchmarks import figures
from accel.benchmarks.markdown_blocks import Room, Shown, cut_table, folded
from accel.report import Report

HEAD = ("layer", "type", "output SQNR with it alone in INT8", "metric then", "in the result")


def kept_layers(report: Report, room: Room, shown: Shown) -> list[str]:
    """For each step that controlled its accuracy: a sentence, the layers kept back, and the others folded away."""
    parts: list[str] = []
    for step in report.steps:
        found = step.accuracy
        if found is None:
            continue
        parts.append(f"{shown(step.target)}: {shown(summary(found))}")
        kept = [_cells(layer, found, shown) for layer in found.layers if layer.kept]
        others = [_cells(layer, found, shown) for layer in found.layers if not layer.kept]
        if kept:
            parts.append(cut_table(HEAD, kept, range(2, 4), room.lines))
        if others:
            table = cut_table(HEAD, others, range(2, 4), room.lines)
            parts.append(folded(f"{step.target}: the {len(others):,} layers in INT8, the most harmful first", table))
    return ["## Layers kept in floating point", *parts] if parts else []


def summary(found: AccuracyOutcome) -> str:
    """The outcome in a sentence, as it came."""
    value = "no number" if found.value is None else number(found, found.value)
    whole = found.tried[0].value if found.tried else None
    everything = "no number" if whole is None else number(found, whole)
    text = (
        f"{figures.label(found.metric)} on {found.split} data is {number(found, found.reference)} in floating point, "
        f"{everything} with every layer in INT8, {value} in the result, which keeps {len(found.kept)} of "
        f"{len(found.layers)} layers in floating point; "
    )
    tried = f"{len(found.tried)} candidates compiled and scored on the target in {figures.seconds(found.seconds)}"
    tried += f", stopped by {found.stopped}" if found.stopped is not None else ""
    return text + ("within the budget" if found.passed else "NOT within the budget, this is the best effort") + f"; {tried}"


def number(found: AccuracyOutcome, value: float) -> str:
    """A value of the metric that was judged by."""
    return f"{100 * value:.2f} %" if figures.is_fraction(found.metric) else f"{value:.4g}"


def decibels(layer: LayerHarm) -> str:
    """What a layer costs alone: decibels, or a word where there are none."""
    if layer.failed is not None:
        return "does not run"
    if layer.identical:
        return "no difference"
    return figures.NONE if layer.sqnr_db is None else f"{layer.sqnr_db:.1f} dB"


def _cells(layer: LayerHarm, found: AccuracyOutcome, shown: Shown) -> list[str]:
    value = figures.NONE if layer.value is None else number(found, layer.value)
    return [shown(layer.layer), shown(layer.type), decibels(layer), value, "floating point" if layer.kept else "INT8"]
