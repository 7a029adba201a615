"""What Q/DQ around an operator must be like for a CPU runtime to compute it on integers: rules that two runtimes share."""

from __future__ import annotations

from collections.abc import Iterator

from accel.accelerate.lint.graph import LintGraph, label
from accel.accelerate.lint.qdq import CONVOLUTIONS, Weighted, dequantized, weighted
from accel.accelerate.lint.rules import Problem, Rule
from accel.accelerate.lint.tensorrt_placement import (
    computed_weights,
    dequantize_alone,
    duplicate_pair,
    quantize_alone,
    scale_mismatch,
    weight_axis,
)
from accel.accelerate.lint.tensorrt_qdq import scale_shape, scale_value, zero_point_length

WIDE_OR_NARROW = frozenset({"INT16", "UINT16", "INT4", "UINT4"})
"""Types that neither runtime's convolutions compute on, on a CPU (tried: ONNX Runtime 1.32.0, OpenVINO 2026.4.1)."""


def weights_only(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        if each.node.op_type in CONVOLUTIONS and each.weight is not None and each.data is None:
            message = (
                "its weights are quantized and its data is not: it computes in float, from weights that are dequantized first"
            )
            yield Problem(label(each.node), message, "quantize its data too, or leave its weights in float")


def residual_float(graph: LintGraph) -> Iterator[Problem]:
    """An addition of a quantized value and one that is not."""
    for node in graph.nodes:
        if node.op_type != "Add" or len(node.input) != 2 or any(graph.is_constant(name) for name in node.input):
            continue
        sides = [dequantized(graph, name) for name in node.input]
        if (sides[0] is None) != (sides[1] is None):
            other = node.input[0] if sides[0] is None else node.input[1]
            message = (
                f"adds a quantized value and a float one, {other}: it computes in float, and so what is quantized is converted"
            )
            way = "put a Q/DQ pair on the float side too (`quantize` does, where the profile has `quantize_residual_add`)"
            yield Problem(label(node), message, way)


def axis_of_weights(graph: LintGraph, *, convolutions: bool) -> Iterator[Problem]:
    """Scales of weights along another axis than that of output channels, for convolutions or for the other operators."""
    kinds = {label(each.node): each.node.op_type for each in weighted(graph)}
    for problem in weight_axis(graph):
        if (kinds[problem.node] in CONVOLUTIONS) == convolutions:
            yield problem


def narrow(each: Weighted) -> str:
    """A type of ``each`` that is not of 8 bits; empty where there is none."""
    stored = [side.stored for side in (each.data, each.weight) if side is not None]
    return next((kind for kind in stored if kind in WIDE_OR_NARROW), "")


ERRORS = (
    Rule("zero-point-length", "error", "as many zero points as scales", zero_point_length),
    Rule("scale-value", "error", "scales are above 0 and not NaN", scale_value),
    Rule("scale-shape", "error", "one scale for the tensor, each slice along an axis, or whole blocks", scale_shape),
)
WARNINGS = (
    Rule("weights-only", "warning", "a convolution with quantized weights has quantized data", weights_only),
    Rule("computed-weights", "warning", "quantized weights of convolutions are constant", computed_weights),
    Rule("quantize-alone", "warning", "behind every QuantizeLinear is a DequantizeLinear", quantize_alone),
    Rule("dequantize-alone", "warning", "before every DequantizeLinear of an activation is a QuantizeLinear", dequantize_alone),
    Rule("scale-mismatch", "warning", "the two nodes of a pair have one scale", scale_mismatch),
    Rule("duplicate-pair", "warning", "no pair directly behind another", duplicate_pair),
)
