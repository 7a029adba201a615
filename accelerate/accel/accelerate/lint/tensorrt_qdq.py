"""What TensorRT's parser asks of QuantizeLinear and DequantizeLinear.

Every error here was tried on the parser of TensorRT-RTX 1.7.1: it refuses the file, or reads other numbers than ONNX means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from accel.accelerate.lint.graph import LintGraph, label, source
from accel.accelerate.lint.qdq import Quantizer, quantizers
from accel.accelerate.lint.rules import Problem, Rule

_SYMMETRIC = (
    "quantize for a target with `backend: tensorrt`, whose profile is signed and symmetric (onnxruntime.quantization:"
    " activation_type=QInt8, weight_type=QInt8, ActivationSymmetric=True, WeightSymmetric=True)"
)
_SMALLEST_NORMAL = {"FLOAT": 2.0**-126, "FLOAT16": 2.0**-14, "BFLOAT16": 2.0**-126}
_INTEGERS = frozenset({"INT8", "UINT8", "INT16", "UINT16", "INT32", "INT4", "UINT4"})
_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16"})


def unsigned_activation(graph: LintGraph) -> Iterator[Problem]:
    """A zero point of UINT8 0, or none where ONNX's default is UINT8: the parser makes it INT8, which ends at 127. Where
    a quantizer has dropped a Relu because UINT8 ends at 0, its effect is gone too."""
    for each in quantizers(graph):
        if each.quantizes and each.stored == "UINT8" and not _shifted(each):
            default = "" if source(each.node, 2) else " (the default without a zero point)"
            message = (
                f"quantizes to UINT8{default}; the parser reads INT8: values above 127 steps are cut off, those below 0 are not"
            )
            yield Problem(label(each.node), message, _SYMMETRIC)


def unsigned_data(graph: LintGraph) -> Iterator[Problem]:
    """Only a QuantizeLinear may make what a DequantizeLinear reads as UINT8: weights and inputs of that type are refused."""
    for each in quantizers(graph):
        if not each.quantizes and each.stored == "UINT8" and graph.behind(each.data) is None:
            what = "weights" if each.on_constant else "an input"
            yield Problem(label(each.node), f"reads {what} of type UINT8, which the parser refuses", _SYMMETRIC)


def zero_point(graph: LintGraph) -> Iterator[Problem]:
    """A pair is named once, by its QuantizeLinear."""
    for each in quantizers(graph):
        before = None if each.quantizes else graph.behind(each.data)
        if _shifted(each) and (before is None or before.op_type != "QuantizeLinear"):
            assert each.zero is not None
            first = int(each.zero.reshape(-1)[each.zero.reshape(-1).nonzero()[0][0]])
            what = "weights" if each.on_constant else "activation"
            message = f"the zero point of its {what} is {first} ({each.stored}): asymmetric, and only 0 is accepted"
            yield Problem(label(each.node), message, _SYMMETRIC)


def zero_point_length(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if each.scale is not None and each.zero is not None and each.scale.size != each.zero.size:
            message = f"has {each.scale.size} scales and {each.zero.size} zero points"
            yield Problem(label(each.node), message, "give as many zero points as scales, or leave the zero points out")


def scale_value(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if each.scale is None or graph.element_type(source(each.node, 1)) not in _FLOATS:
            continue
        numbers = each.scale.astype("float64").reshape(-1)
        wrong = numbers[~(numbers > 0)]
        if wrong.size:
            message = f"{wrong.size} of its {numbers.size} scales cannot be: the first is {wrong[0]:g}, and a scale is above 0"
            yield Problem(label(each.node), message, _scale_way(each))


def scale_range(graph: LintGraph) -> Iterator[Problem]:
    """Infinite, or below the smallest normal number of its type, where a scale keeps only some of its bits."""
    for each in quantizers(graph):
        kind = graph.element_type(source(each.node, 1))
        if each.scale is None or kind not in _SMALLEST_NORMAL:
            continue
        numbers = each.scale.astype("float64").reshape(-1)
        limit = _SMALLEST_NORMAL[kind]
        odd = numbers[((numbers > 0) & (numbers < limit)) | (numbers == math.inf)]
        if odd.size:
            why = "infinite" if odd[0] == math.inf else f"below {limit:.3g}, where {kind} has no full precision left"
            message = f"{odd.size} of its {numbers.size} scales are not usable: the first, {odd[0]:g}, is {why}"
            way = "keep scales in FLOAT and cast after them" if kind == "FLOAT16" else _scale_way(each)
            yield Problem(label(each.node), message, way)


def scale_shape(graph: LintGraph) -> Iterator[Problem]:
    """As many scales as the tensor has slices along the axis; blocked scales divide the axis into whole blocks."""
    for each in quantizers(graph):
        shape = graph.shape(each.data)
        if shape is None or each.scale is None or not each.many:
            continue
        axis = each.axis + len(shape) if each.axis < 0 else each.axis
        scales = tuple(each.scale.shape)
        if not 0 <= axis < len(shape):
            message = f"its axis {each.axis} is none of the {len(shape)} axes of {each.data}"
        elif each.block or len(scales) == len(shape) > 1:
            if _blocks_fit(shape, scales, axis):
                continue
            message = f"its blocks of scales, {list(scales)}, do not divide {each.data}, {list(shape)}, along axis {axis}"
        elif isinstance(shape[axis], int) and shape[axis] != each.scale.size:
            message = f"has {each.scale.size} scales along axis {axis} of {each.data}, which is {shape[axis]} long there"
        else:
            continue
        yield Problem(label(each.node), message, "give one scale for each slice along `axis`, the axis of output channels")


def int32_bias(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if not each.quantizes and each.stored == "INT32":
            yield Problem(
                label(each.node),
                "dequantizes INT32, as ONNX Runtime writes a bias; TensorRT dequantizes 8 and 4 bits only",
                "keep the bias in float: quantize for a target with `backend: tensorrt`"
                " (onnxruntime.quantization: QuantizeBias=False)",
            )


def quantized_integers(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        kind = graph.element_type(each.data)
        if each.quantizes and kind.startswith(("INT", "UINT")):
            yield Problem(label(each.node), f"quantizes {kind}; TensorRT quantizes floats only", "cast to FLOAT before it")


def _shifted(each: Quantizer) -> bool:
    return each.zero is not None and each.stored in _INTEGERS and bool(each.zero.any())


def _scale_way(each: Quantizer) -> str:
    if each.on_constant:
        return "give a channel of zeros a small positive scale; NaN: check the weights with `accel inspect`"
    return "calibrate on data in which the value varies; NaN: check weights and data for NaN with `accel inspect`"


def _blocks_fit(shape: tuple[int | str, ...], scales: tuple[int, ...], axis: int) -> bool:
    if len(scales) != len(shape):
        return False
    for index, (size, count) in enumerate(zip(shape, scales, strict=True)):
        if isinstance(size, int) and (size % count if index == axis and count else size != count):
            return False
    return True


RULES = (
    Rule("unsigned-activation", "error", "activations are quantized to INT8; UINT8 is read as INT8", unsigned_activation),
    Rule("unsigned-data", "error", "no DequantizeLinear reads UINT8 weights or inputs", unsigned_data),
    Rule("zero-point", "error", "every zero point is 0 (symmetric quantization)", zero_point),
    Rule("zero-point-length", "error", "as many zero points as scales", zero_point_length),
    Rule("scale-value", "error", "scales are above 0 and not NaN", scale_value),
    Rule("scale-range", "warning", "scales are finite and have the full precision of their type", scale_range),
    Rule("scale-shape", "error", "one scale for the tensor, each slice along an axis, or whole blocks", scale_shape),
    Rule("int32-bias", "error", "no bias in INT32 behind DequantizeLinear", int32_bias),
    Rule("quantized-integers", "error", "QuantizeLinear reads floats", quantized_integers),
)
