"""Ranges of quantized values, where the file alone says that they cut numbers off."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accel.accelerate.lint.graph import LintGraph, label, source
from accel.accelerate.lint.qdq import Quantizer, quantizer, quantizers
from accel.accelerate.lint.rules import Problem, Rule

LIMITS = {
    "INT8": (-128, 127),
    "UINT8": (0, 255),
    "INT16": (-32768, 32767),
    "UINT16": (0, 65535),
    "INT4": (-8, 7),
    "UINT4": (0, 15),
}
"""Least and greatest number of each type that values are quantized to."""

# Operators that keep every value: not Slice or Gather, which pick some, and may well pick a narrower range.
_KEEPS = frozenset(
    {"Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Tile"}
)
_SLACK = 0.05  # of the wider range: two calibrations of one value differ by so much
_AT_THE_END = 0.02  # of all weights; a scale from the largest weight puts one or two of each channel there


@dataclass(frozen=True)
class Range:
    """The floats that integers of one scale and zero point stand for."""

    low: float
    high: float


def range_of(each: Quantizer) -> Range | None:
    """None for more than one scale, for scales that are computed, and for types without a table entry."""
    if each.scale is None or each.scale.size != 1 or each.stored not in LIMITS:
        return None
    if each.zero is not None and each.zero.size != 1:
        return None
    scale = float(each.scale.reshape(-1)[0])
    zero = 0 if each.zero is None else int(each.zero.reshape(-1)[0])
    if not 0 < scale < float("inf"):
        return None
    low, high = LIMITS[each.stored]
    return Range((low - zero) * scale, (high - zero) * scale)


def range_clips(graph: LintGraph) -> Iterator[Problem]:
    """A value that is quantized again more narrowly; float weights beyond their range; integer weights piled up at its ends."""
    for each in quantizers(graph):
        if each.on_constant:
            yield from _weights(graph, each)
        elif each.quantizes and (own := range_of(each)) is not None:
            yield from _again(graph, each, own)


def _again(graph: LintGraph, each: Quantizer, own: Range) -> Iterator[Problem]:
    for before, pooled in _origins(graph, each.data):
        given = range_of(quantizer(graph, before))
        if given is None:
            continue
        slack = _SLACK * (given.high - given.low)
        high, low = given.high > own.high + slack, not pooled and given.low < own.low - slack
        if high or low:
            message = (
                f"holds {own.low:.4g} to {own.high:.4g}; {label(before)} gives it {given.low:.4g} to {given.high:.4g}, and"
                " nothing between them changes the values: what is outside is cut off"
            )
            yield Problem(label(each.node), message, "give both pairs one scale and zero point, those of the wider range")
            return


def _origins(graph: LintGraph, value: str) -> list[tuple[Any, bool]]:
    """DequantizeLinear nodes whose values arrive whole at ``value``, each with whether only the largest do (MaxPool)."""
    found, pending = [], [(value, False)]
    while pending:
        name, pooled = pending.pop()
        node = graph.maker(name)
        if node is None:
            continue
        if node.op_type == "DequantizeLinear":
            found.append((node, pooled))
        elif node.op_type in _KEEPS or node.op_type in ("MaxPool", "GlobalMaxPool"):
            pending.append((source(node, 0), pooled or node.op_type not in _KEEPS))
        elif node.op_type == "Concat":
            pending += [(name, pooled) for name in node.input]
    return found


def _weights(graph: LintGraph, each: Quantizer) -> Iterator[Problem]:
    import numpy as np

    numbers: Any = graph.values(each.data)
    if numbers is None or not numbers.size or each.stored not in LIMITS:
        return
    if each.quantizes:
        own = range_of(each)
        if own is None or numbers.dtype.kind != "f":
            return
        step = (own.high - own.low) / (LIMITS[each.stored][1] - LIMITS[each.stored][0])
        outside = int(np.count_nonzero((numbers > own.high + step) | (numbers < own.low - step)))
        if outside:
            message = f"{outside} of {numbers.size} weights lie outside of the {own.low:.4g} to {own.high:.4g} that it can hold"
            yield Problem(label(each.node), message, "quantize the weights again; their scale is that of other weights")
    elif each.stored in ("INT8", "UINT8"):
        low, high = LIMITS[each.stored]
        ends = int(np.count_nonzero((numbers <= low + (each.stored == "INT8")) | (numbers >= high)))
        scales = 1 if each.scale is None else each.scale.size
        if ends > 2 * scales + _AT_THE_END * numbers.size:
            message = f"{ends} of {numbers.size} weights lie at an end of {each.stored}: its scale has cut them off"
            yield Problem(label(each.node), message, "quantize the weights again, with a scale from their largest magnitude")


RULES = (Rule("range-clips", "warning", "no range cuts off values that the one before it holds", range_clips),)
