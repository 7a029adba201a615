"""When OpenVINO's CPU plugin runs a quantized operator in float. It moves Q/DQ about, so it asks for less than others.

Each rule was tried on the runtime model of OpenVINO 2026.4.1; tests try it again.
"""

from __future__ import annotations

from collections.abc import Iterator

from accel.accelerate.lint.cpu_placement import axis_of_weights, narrow, residual_float
from accel.accelerate.lint.graph import LintGraph, label, made
from accel.accelerate.lint.qdq import CONVOLUTIONS, Quantizer, weighted
from accel.accelerate.lint.rules import Problem, Rule

_SYMMETRIC = "quantize weights symmetrically, to INT8 with zero point 0 (onnxruntime.quantization: weight_type=QInt8)"


def weight_zero_point(graph: LintGraph) -> Iterator[Problem]:
    """Of convolutions; matrix products take one."""
    for each in weighted(graph):
        if each.quantized and each.node.op_type in CONVOLUTIONS and each.weight is not None and _shifted(each.weight):
            message = f"its weights are {each.weight.stored} with a zero point that is not 0: the convolution runs in float"
            yield Problem(label(each.node), message, _SYMMETRIC)


def weight_axis(graph: LintGraph) -> Iterator[Problem]:
    yield from axis_of_weights(graph, convolutions=True)


def data_only(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        if each.node.op_type in CONVOLUTIONS and each.data is not None and each.weight is None and each.constant:
            message = "its data is quantized and its weights are not: it computes in float, and the rounding stays"
            yield Problem(label(each.node), message, "quantize its weights too, or add it to `ignored_scope`")


def no_int8_kernel(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        if not each.quantized or each.node.op_type not in CONVOLUTIONS:
            continue
        if kind := narrow(each):
            message = f"its data or weights are {kind}: kernels are of 8 bits, so it runs in float"
            yield Problem(label(each.node), message, "quantize it to 8 bits, or leave it in float")
        elif each.node.op_type == "ConvTranspose" and each.data is not None and _shifted(each.data):
            message = (
                "a ConvTranspose whose data has a zero point that is not 0: there is no such INT8 kernel, it runs in float"
            )
            yield Problem(label(each.node), message, "quantize its data around 0 (symmetric, or unsigned behind a Relu)")


def skip_float(graph: LintGraph) -> Iterator[Problem]:
    """A float result of a convolution may be added: the addition becomes part of it."""
    heavy = {made(each.node) for each in weighted(graph)}
    nodes = {label(node): node for node in graph.nodes}
    for problem in residual_float(graph):
        if not heavy & set(nodes[problem.node].input):
            yield problem


def _shifted(each: Quantizer) -> bool:
    return each.zero is not None and bool(each.zero.any())


RULES = (
    Rule("no-int8-kernel", "warning", "Q/DQ stand around operators that have an INT8 kernel", no_int8_kernel),
    Rule("weight-zero-point", "warning", "weights of convolutions have zero point 0", weight_zero_point),
    Rule("residual-float", "warning", "what is added to a quantized value is quantized too, or a convolution's", skip_float),
    Rule("weight-axis", "warning", "scales of a convolution's weights lie along output channels (Conv 0)", weight_axis),
    Rule("data-only", "warning", "a convolution with quantized data has quantized weights", data_only),
)
