"""Counts read from OpenVINO's graphs: what an IR quantizes, and what a compiled model runs. Does not import OpenVINO."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from accel.accelerate.precision import Counts

# As a model has them before compilation (docs.openvino.ai, operation sets)...
_WRAPPABLE = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData", "MatMul"})
_TRANSPARENT = frozenset({"Multiply", "Subtract", "Convert", "Reshape", "Transpose", "Squeeze", "Unsqueeze"})
_LOW = frozenset({"i8", "u8", "i4", "u4"})
# ... and as the plugins name what they run (CPU: Type.cpp; GPU: the same words).
_HEAVY = frozenset({"convolution", "groupconvolution", "deconvolution", "fullyconnected", "matmul", "gemm", "innerproduct"})
_NOT_RUN = frozenset({"const", "constant", "input", "parameter", "output", "result"})
_CONVERSIONS = frozenset({"reorder", "convert", "fakequantize", "quantize"})
_FLOATS: Mapping[str, str] = {"f32": "fp32", "fp32": "fp32", "f16": "fp16", "fp16": "fp16", "bf16": "bf16", "f64": "fp64"}


def quantized_in(model: Any) -> int:
    """How many convolutions and matrix products of an ``openvino.Model`` read data and weights from eight bits or fewer."""
    return sum(
        node.get_type_name() in _WRAPPABLE and all(_quantized(node.input_value(index)) for index in (0, 1))
        for node in model.get_ordered_ops()
    )


def _quantized(value: Any) -> bool:
    """Whether a value is a dequantized one: behind FakeQuantize, or behind a conversion from a low-precision type."""
    while True:
        node = value.get_node()
        if node.get_type_name() == "FakeQuantize" or value.get_element_type().to_string() in _LOW:
            return True
        if node.get_type_name() not in _TRANSPARENT:
            return False
        value = node.input_value(0)


def executed_in(runtime_model: Any) -> Counts:
    """Counts of ``compiled_model.get_runtime_model()``."""
    operators: Counter[str] = Counter()
    heavy: Counter[str] = Counter()
    other: Counter[str] = Counter()
    int8 = 0
    for node in runtime_model.get_ordered_ops():
        kind, precision = _told(node, "layerType"), _told(node, "runtimePrecision").lower()
        lower = kind.lower()
        if lower in _NOT_RUN:
            continue
        operators[kind] += 1
        if lower in _HEAVY and precision in _LOW:
            int8 += 1
        elif precision in _FLOATS and lower not in _CONVERSIONS:
            (heavy if lower in _HEAVY else other)[_FLOATS[precision]] += 1
    return Counts(operators, int8, heavy or other)


def _told(node: Any, key: str) -> str:
    """One entry of a node's runtime information, as text."""
    entry = node.get_rt_info()[key]
    return str(entry.astype(str) if hasattr(entry, "astype") else entry)
