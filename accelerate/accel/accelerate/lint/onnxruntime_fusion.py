"""When ONNX Runtime on a CPU takes an operator and the Q/DQ around it for one that computes on integers, and when not.

Each rule was tried on the graph that ONNX Runtime 1.32.0 writes after its optimizations; tests try it again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from accel.accelerate.lint.cpu_placement import axis_of_weights, narrow, residual_float
from accel.accelerate.lint.graph import LintGraph, label, made, source
from accel.accelerate.lint.integer_ranges import range_of
from accel.accelerate.lint.qdq import Quantizer, dequantized, quantizer, quantizers, weighted
from accel.accelerate.lint.rules import Problem, Rule

NO_KERNEL = frozenset(
    {
        "Relu", "Tanh", "HardSwish", "HardSigmoid", "Erf", "Exp", "Sqrt", "Abs", "Neg", "Gelu", "Mish", "Elu", "ReduceMean",
        "LayerNormalization", "InstanceNormalization", "Clip", "LRN", "PRelu", "GlobalMaxPool", "Sub", "Div", "Max",
        "Pad",
    }
)  # fmt: skip
"""Operators that stay in float between Q/DQ: tried one by one. What is neither here nor fused was not tried."""

_PASSED_BACK = frozenset({"Identity", "Dropout", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "MaxPool"})
"""A QuantizeLinear behind these is moved in front of them; not so behind Flatten, Concat or DepthToSpace (tried)."""

_UNSIGNED = (
    "quantize for a target with `backend: onnxruntime`, whose profile is unsigned (onnxruntime.quantization:"
    " activation_type=QUInt8, weight_type=QInt8, per_channel=True)"
)
_CLOSE = 1e-3  # of a bias's scale; the runtime compares more strictly, quantizers write it exactly


def no_int8_kernel(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        if not each.quantized:
            continue
        if each.node.op_type == "ConvTranspose":
            message = "a ConvTranspose: there is no INT8 kernel, so it computes in float, between conversions"
            yield Problem(label(each.node), message, "leave it out (`ignored_scope`), and its neighbours' Q/DQ with it")
        elif (kind := narrow(each)) and each.node.op_type == "Conv":
            message = f"its data or weights are {kind}: kernels are of 8 bits, so it computes in float, between conversions"
            yield Problem(label(each.node), message, "quantize it to 8 bits, or leave it in float")
    for node in graph.nodes:
        if node.op_type in NO_KERNEL and _between(graph, node):
            message = f"Q/DQ stand around a {node.op_type}, for which there is no INT8 kernel: conversions, and nothing faster"
            yield Problem(label(node), message, "leave the value before it in float, if nothing else reads it in INT8")


def float_output(graph: LintGraph) -> Iterator[Problem]:
    """A quantized Conv whose result is not quantized at once: it computes in float, from weights that are dequantized in every
    inference. A MatMul or Gemm may give floats."""
    for each in weighted(graph):
        if each.quantized and each.node.op_type == "Conv" and not narrow(each) and (why := _not_requantized(graph, each.node)):
            yield Problem(label(each.node), f"{why[0]}, so it computes in float", why[1])


def float_weights(graph: LintGraph) -> Iterator[Problem]:
    """A convolution that the file keeps in float between Q/DQ: the runtime's optimizer WeightBiasQuantization quantizes its
    weights to INT8 by itself (tried: 37 dB between result and file)."""
    for each in weighted(graph):
        if each.node.op_type != "Conv" or each.data is None or each.weight is not None or not each.constant:
            continue
        if not narrow(each) and not _not_requantized(graph, each.node):
            message = (
                "its weights are float, and Q/DQ stand before and behind it: the runtime quantizes the weights by itself and"
                " computes in INT8, whatever the file says"
            )
            way = "leave the value before it or behind it in float too, or quantize its weights with a scale for each channel"
            yield Problem(label(each.node), message, way)


def signed_activation(graph: LintGraph) -> Iterator[Problem]:
    """INT8 behind a Relu or a Clip at 0: half of the numbers is never used, and the activation cannot be left out."""
    for each in quantizers(graph):
        before = graph.maker(each.data)
        if (
            not each.quantizes
            or each.on_constant
            or each.stored != "INT8"
            or before is None
            or before.op_type not in ("Relu", "Clip")
        ):
            continue
        if not _holds(each, *_bounds(graph, before)):
            message = (
                f"quantizes what {label(before)} ({before.op_type}) makes to INT8 around {_zero(each)}: numbers that"
                " never occur, and the activation stays, with what is before it, in float"
            )
            yield Problem(label(each.node), message, _UNSIGNED)


def bias_scale(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        bias = dequantized(graph, source(each.node, 2)) if each.node.op_type in ("Conv", "Gemm") else None
        if not each.quantized or bias is None or bias.scale is None or each.data is None or each.weight is None:
            continue
        if each.data.scale is None or each.weight.scale is None or each.data.scale.size != 1 or each.weight.many != bias.many:
            continue
        wanted = each.data.scale.reshape(-1)[0] * each.weight.scale.reshape(-1)
        given = bias.scale.reshape(-1)
        if given.size == wanted.size and (abs(given - wanted) > _CLOSE * abs(wanted)).any():
            message = "the scale of its bias is not that of its data times that of its weights: it computes in float"
            yield Problem(label(each.node), message, "give the bias that scale and zero point 0, or keep it in float")


def gemm_form(graph: LintGraph) -> Iterator[Problem]:
    """Gemm becomes QGemm where its weights have a zero point and, if it gives floats, its bias is INT32."""
    for each in weighted(graph):
        if each.node.op_type != "Gemm" or not each.quantized or each.weight is None:
            continue
        bias = source(each.node, 2)
        if not source(each.weight.node, 2):
            message = "its weights have no zero point, not even 0: a Gemm without one computes in float"
            yield Problem(label(each.node), message, "write the zero point 0 out, or export the layer as MatMul and Add")
        elif bias and dequantized(graph, bias) is None and _not_requantized(graph, each.node):
            message = "its bias and its result are float: a Gemm that gives floats computes in INT8 with an INT32 bias only"
            way = "quantize the bias (onnxruntime.quantization does, unless QuantizeBias=False), or put Q/DQ behind the Gemm"
            yield Problem(label(each.node), message, way)


def product_axis(graph: LintGraph) -> Iterator[Problem]:
    """It computes in float, but for :func:`product_fails`."""
    fails = _failing(graph)
    yield from (problem for problem in axis_of_weights(graph, convolutions=False) if problem.node not in fails)


def product_fails(graph: LintGraph) -> Iterator[Problem]:
    """A MatMul that gives floats becomes MatMulIntegerToFloat, which fails in the first inference."""
    fails = _failing(graph)
    yield from (problem for problem in axis_of_weights(graph, convolutions=False) if problem.node in fails)


def _failing(graph: LintGraph) -> set[str]:
    products = (each.node for each in weighted(graph) if each.quantized and each.node.op_type == "MatMul")
    return {label(node) for node in products if _not_requantized(graph, node)}


def convolution_axis(graph: LintGraph) -> Iterator[Problem]:
    """It takes any list of scales for those of output channels (tried: 4 dB between result and file)."""
    yield from axis_of_weights(graph, convolutions=True)


def per_channel_activation(graph: LintGraph) -> Iterator[Problem]:
    """Fused without a look at the number of scales; the kernel then refuses, in the first inference."""
    for each in weighted(graph):
        if each.quantized and each.data is not None and each.data.many and each.node.op_type == "Conv":
            assert each.data.scale is not None
            message = (
                f"its data has {each.data.scale.size} scales; the kernel that it becomes takes one, and fails when it runs"
            )
            yield Problem(label(each.node), message, "one scale for each activation (per tensor)")


def _between(graph: LintGraph, node: Any) -> bool:
    """Whether all that varies of what it reads is dequantized for it, and all that reads it quantizes it."""
    varying = [name for name in node.input if name and not graph.is_constant(name)]
    before = [graph.maker(name) for name in varying]
    after = graph.readers.get(made(node), ())
    return (
        bool(varying and after)
        and all(maker is not None and maker.op_type == "DequantizeLinear" for maker in before)
        and all(reader.op_type == "QuantizeLinear" for reader in after)
        and made(node) not in graph.outputs
    )


def _not_requantized(graph: LintGraph, node: Any) -> tuple[str, str] | None:
    """Why the runtime does not join ``node`` with a QuantizeLinear behind it, and the way out; None where it does."""
    value, behind = made(node), "put a Q/DQ pair right behind it"
    clamp = None
    moved = False
    while True:
        readers = graph.readers.get(value, ())
        if value in graph.outputs:
            return "its result leaves the model in float", f"{behind}, or leave the layer in float on purpose (`ignored_scope`)"
        others = [reader for reader in readers if reader.op_type != "QuantizeLinear"]
        if not others:
            return _not_joined(graph, [quantizer(graph, reader) for reader in readers], clamp)
        if len(readers) > 1:
            named = f"{label(others[0])} ({others[0].op_type})"
            return f"its result goes to {len(readers)} nodes, and {named} reads it in float", behind
        (reader,) = readers
        if reader.op_type in ("Relu", "Clip") and clamp is None and not moved:
            clamp = reader
        elif reader.op_type in _PASSED_BACK:
            moved = True
        else:
            return f"{label(reader)} ({reader.op_type}) stands between it and the next QuantizeLinear", behind
        value = made(reader)


def _not_joined(graph: LintGraph, behind: Sequence[Quantizer], clamp: Any | None) -> tuple[str, str] | None:
    """``behind``: the QuantizeLinear nodes that read a result, perhaps behind ``clamp``, a Relu or Clip."""
    forms = {(each.stored, str(each.scale), str(each.zero)) for each in behind}
    if len(forms) > 1:
        return f"its result is quantized in {len(forms)} ways", "quantize it once: one pair that all of its readers share"
    if clamp is None or not behind or _holds(behind[0], *_bounds(graph, clamp)):
        return None
    between = f"{label(clamp)} ({clamp.op_type}) between it and {label(behind[0].node)}"
    return f"{between} cannot be left out ({_kept(behind[0], clamp)})", _UNSIGNED


def _bounds(graph: LintGraph, node: Any) -> tuple[float, float]:
    """What a Relu or a Clip lets through; a bound that is computed lets through nothing that is known."""
    if node.op_type == "Relu":
        return 0.0, float("inf")
    found = []
    for index, (name, default) in enumerate((("min", float("-inf")), ("max", float("inf"))), start=1):
        given = graph.values(source(node, index))
        attribute = next((float(entry.f) for entry in node.attribute if entry.name == name), default)
        found.append(attribute if not source(node, index) else default if given is None else float(given.reshape(-1)[0]))
    return found[0], found[1]


def _holds(each: Quantizer, low: float, high: float) -> bool:
    """Whether all numbers that ``each`` can hold lie within ``low`` and ``high``, so that it cuts off whatever they would."""
    own = range_of(each)
    if own is None:
        return False
    slack = 1e-4 * (own.high - own.low)
    return own.low >= low - slack and own.high <= high + slack


def _kept(each: Quantizer, reader: Any) -> str:
    if reader.op_type == "Relu":
        return f"{each.stored} around {_zero(each)} also holds numbers below 0"
    return f"its {each.stored} also holds numbers outside of the bounds"


def _zero(each: Quantizer) -> int:
    return 0 if each.zero is None else int(each.zero.reshape(-1)[0])


ERRORS = (
    Rule("weight-axis", "error", "scales of a convolution's weights lie along output channels (Conv 0)", convolution_axis),
    Rule("product-fails", "error", "scales of weights of a MatMul that gives floats lie along its last axis", product_fails),
    Rule("per-channel-activation", "error", "the data of a convolution has one scale", per_channel_activation),
)
WARNINGS = (
    Rule("no-int8-kernel", "warning", "Q/DQ stand around operators that have an INT8 kernel", no_int8_kernel),
    Rule("float-output", "warning", "what a quantized convolution makes is quantized at once", float_output),
    Rule("float-weights", "warning", "a convolution that is to stay in float has no Q/DQ on both sides", float_weights),
    Rule("bias-scale", "warning", "the scale of an INT32 bias is that of data times weights", bias_scale),
    Rule("gemm-form", "warning", "a quantized Gemm has zero points, and an INT32 bias if it gives floats", gemm_form),
    Rule("residual-float", "warning", "both inputs of an addition are quantized, or none", residual_float),
    Rule("product-axis", "warning", "scales of a product's weights lie along output channels (the last axis)", product_axis),
    Rule("signed-activation", "warning", "activations behind Relu are unsigned, or end at their zero point", signed_activation),
)
