"""Where Q/DQ pairs should stand so that TensorRT fuses them into INT8 kernels: its precision plan.

A file with these findings is read and gives the right numbers. It is slower or larger than it need be.
Source: TensorRT's documentation, "Explicit Quantization": Q/DQ processing and placement recommendations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accel.accelerate.lint.graph import LintGraph, integer, integers, label, made, source
from accel.accelerate.lint.qdq import CONVOLUTIONS, WEIGHTED, Quantizer, Weighted, dequantized, quantizer, quantizers, weighted
from accel.accelerate.lint.rules import Problem, Rule

_FUSED_BEHIND = frozenset({"BatchNormalization", "Relu", "Clip", "LeakyRelu"})
_PLAN = "quantize for a target with `backend: tensorrt`"
_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})


def per_channel_activation(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if not each.on_constant and each.quantizes and each.many and not each.block and each.stored == "INT8":
            assert each.scale is not None
            message = f"gives an activation {each.scale.size} scales; INT8 kernels take one for a whole activation"
            yield Problem(
                label(each.node), message, "one scale for each activation (per tensor); weights may have one a channel"
            )


def weight_axis(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        weight = each.weight
        if weight is None or weight.scale is None or weight.scale.ndim != 1 or not weight.many or weight.block:
            continue
        axis, wanted = _axis_seen(graph, each, weight), _output_axis(graph, each.node)
        if axis is not None and wanted is not None and axis != wanted:
            message = (
                f"the scales of its weights lie along axis {axis}; output channels are axis {wanted} of a {each.node.op_type}"
            )
            yield Problem(label(each.node), message, f"quantize the weights with axis={wanted}, or with one scale")


def computed_weights(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        if each.node.op_type in CONVOLUTIONS and each.weight is not None and not each.constant:
            message = "its quantized weights are computed while it runs: they are quantized again in every inference"
            yield Problem(label(each.node), message, "make the weights an initializer (constant folding: a `simplify` pass)")


def data_only(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        if each.data is not None and each.weight is None:
            message = "its data is quantized and its weights are not: no INT8 kernel, and the rounding stays"
            way = f"quantize its weights too ({_PLAN}), or add it to `ignored_scope`"
            yield Problem(label(each.node), message, way)


def weights_only(graph: LintGraph) -> Iterator[Problem]:
    """A convolution. INT8 weights alone help a matrix product on RTX; 4 and 8 bit floats have rules of their own."""
    for each in weighted(graph):
        if each.node.op_type in CONVOLUTIONS and each.weight is not None and each.data is None:
            yield _unquantized_data(each)


def weights_only_product(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        product = each.node.op_type in ("MatMul", "Gemm")
        if product and each.data is None and each.weight is not None and each.weight.stored == "INT8" and not each.weight.block:
            yield _unquantized_data(each)


def quantize_alone(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if not each.quantizes:
            continue
        integers_of = made(each.node)
        others = [node for node in graph.ahead(integers_of) if node.op_type != "DequantizeLinear"]
        if others and not each.on_constant:
            message = f"its integers go to {label(others[0])} ({others[0].op_type}) without a DequantizeLinear"
            yield Problem(label(each.node), message, "put a DequantizeLinear before every operator that computes")
        elif integers_of in graph.outputs:
            yield Problem(label(each.node), "an output of the model stays quantized", "add a DequantizeLinear, if not meant")


def dequantize_alone(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if each.quantizes or each.on_constant:
            continue
        before = graph.behind(each.data)
        if before is None or before.op_type != "QuantizeLinear":
            what = "an input of the model" if before is None else f"{label(before)} ({before.op_type})"
            message = f"dequantizes {what}, which no QuantizeLinear made"
            yield Problem(label(each.node), message, "add the QuantizeLinear, if integers are not meant to come in there")


def scale_mismatch(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        before = None if each.quantizes else graph.behind(each.data)
        if before is None or before.op_type != "QuantizeLinear" or each.scale is None:
            continue
        first = quantizer(graph, before).scale
        if first is None or not first.size == each.scale.size == 1:
            continue
        one, other = float(first.reshape(-1)[0]), float(each.scale.reshape(-1)[0])
        if one != other:
            message = f"dequantizes with {other:g} what {label(before)} quantized with {one:g}"
            yield Problem(label(each.node), message, "give both nodes of a pair the same scale")


def scale_type(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        data, scale = graph.element_type(each.data), graph.element_type(source(each.node, 1))
        if each.quantizes and {data, scale} <= _FLOATS and data != scale:
            message = (
                f"its scale is {scale} and its data {data}: the DequantizeLinear behind it makes {scale}, and so does the rest"
            )
            way = f"cast the scales to {data}, or give the DequantizeLinear `output_dtype` {data} (opset 23)"
            if not _declares_type(graph, each, data):
                yield Problem(label(each.node), message, way)


def duplicate_pair(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        before = graph.maker(each.data)
        if each.quantizes and before is not None and before.op_type == "DequantizeLinear":
            first = quantizer(graph, before).scale
            same = first is not None and each.scale is not None and first.tolist() == each.scale.tolist()
            effect = "does nothing" if same else "rounds a second time"
            message = f"quantizes what {label(before)} has just dequantized: the second pair {effect} and may split a fusion"
            yield Problem(label(each.node), message, "remove one of the two pairs")


def residual_float(graph: LintGraph) -> Iterator[Problem]:
    """An Add that could be fused into the INT8 convolution in front of it, if its other input were INT8."""
    quantized = {made(each.node) for each in weighted(graph) if each.quantized and each.node.op_type in CONVOLUTIONS}
    for node in graph.nodes:
        if node.op_type != "Add" or len(node.input) != 2:
            continue
        first, second = node.input
        if graph.is_constant(first) or graph.is_constant(second):
            continue
        for value, other in ((first, second), (second, first)):
            before = graph.maker(value)
            if before is not None and before.op_type == "BatchNormalization":
                before = graph.maker(source(before, 0))
            alone = len(graph.readers.get(value, ())) == 1
            if before is not None and made(before) in quantized and alone and dequantized(graph, other) is None:
                message = (
                    f"{label(before)} is quantized, the other input, {other}, is not: the addition is not fused into it in INT8"
                )
                way = "quantize the other input too (a Q/DQ pair on the skip connection), if the accuracy allows"
                yield Problem(label(node), message, way)
                break


def pair_in_fusion(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        before = graph.maker(each.data) if each.quantizes else None
        if before is None or before.op_type not in WEIGHTED:
            continue
        floats = [name for node in graph.readers.get(made(each.node), ()) for name in node.output]
        after = [node for name in floats for node in graph.readers.get(name, ())]
        if len(after) == 1 and after[0].op_type in _FUSED_BEHIND:
            message = (
                f"stands between {label(before)} and {label(after[0])} ({after[0].op_type}), which one kernel would compute"
            )
            yield Problem(label(each.node), message, f"move the pair behind {after[0].op_type}, or remove it")


def int8_on_rtx(graph: LintGraph) -> Iterator[Problem]:
    for each in weighted(graph):
        data = each.data
        if each.quantized and data is not None and data.stored in ("INT8", "UINT8"):
            yield Problem(
                label(each.node),
                f"a {each.node.op_type} in INT8: NVIDIA lists INT8 on RTX for the weights of matrix products alone, so it"
                " probably computes in float, and no speed-up is to be expected",
                "measure it against FP16 (`- type: cast, dtype: fp16`); with TensorRT (`library: tensorrt`) INT8 has kernels",
            )


def _unquantized_data(each: Weighted) -> Problem:
    return Problem(
        label(each.node),
        "its weights are quantized and its data is not: it computes in float, from weights that are dequantized first",
        f"quantize its data too ({_PLAN}), or leave its weights in float",
    )


def _declares_type(graph: LintGraph, each: Quantizer, kind: str) -> bool:
    import onnx

    after = [node for node in graph.ahead(made(each.node)) if node.op_type == "DequantizeLinear"]
    wanted = onnx.TensorProto.DataType.Value(kind)
    return bool(after) and all(integer(node, "output_dtype") == wanted for node in after)


def _axis_seen(graph: LintGraph, each: Weighted, weight: Quantizer) -> int | None:
    """The axis of the scales in the tensor that the operator reads; None where what is between hides it."""
    rank = len(graph.shape(weight.data) or ())
    if not rank:
        return None
    axis = weight.axis + rank if weight.axis < 0 else weight.axis
    between: list[Any] = []
    node = graph.maker(source(each.node, 1))
    while node is not None and node is not weight.node:
        between.append(node)
        node = graph.maker(source(node, 0))
    for node in reversed(between):
        order = integers(node, "perm") or list(range(rank))[::-1]
        if node.op_type == "Transpose" and axis in order:
            axis = order.index(axis)
        elif node.op_type != "Identity":
            return None
    return axis


def _output_axis(graph: LintGraph, node: Any) -> int | None:
    if node.op_type in CONVOLUTIONS:
        return CONVOLUTIONS.index(node.op_type)
    if node.op_type == "Gemm":
        return 0 if integer(node, "transB") else 1
    rank = len(graph.shape(source(node, 1)) or ())
    return rank - 1 if rank else None


RULES = (
    Rule("per-channel-activation", "warning", "an activation has one scale", per_channel_activation),
    Rule(
        "weight-axis",
        "warning",
        "scales of weights lie along output channels: Conv 0, ConvTranspose 1, products last",
        weight_axis,
    ),
    Rule("computed-weights", "warning", "quantized weights of convolutions are constant", computed_weights),
    Rule("data-only", "warning", "an operator with quantized data has quantized weights", data_only),
    Rule("weights-only", "warning", "a convolution with quantized weights has quantized data", weights_only),
    Rule("quantize-alone", "warning", "behind every QuantizeLinear is a DequantizeLinear", quantize_alone),
    Rule("dequantize-alone", "warning", "before every DequantizeLinear of an activation is a QuantizeLinear", dequantize_alone),
    Rule("scale-mismatch", "warning", "the two nodes of a pair have one scale", scale_mismatch),
    Rule("scale-type", "warning", "a scale has the type of its data", scale_type),
    Rule("duplicate-pair", "warning", "no pair directly behind another", duplicate_pair),
    Rule(
        "residual-float", "warning", "the skip input of an addition behind a quantized convolution is quantized", residual_float
    ),
    Rule("pair-in-fusion", "warning", "no pair between a Conv and its BatchNormalization or activation", pair_in_fusion),
)
TENSORRT_ONLY = (
    Rule("weights-only-product", "warning", "a matrix product with INT8 weights has quantized data", weights_only_product),
)
RTX_ONLY = (Rule("int8-on-rtx", "warning", "no speed-up is expected from INT8 activations on RTX", int8_on_rtx),)
