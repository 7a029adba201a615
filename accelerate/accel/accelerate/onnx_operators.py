"""Counts read from ONNX graphs: the operators a file quantizes, and those that ONNX Runtime's optimized graph runs in INT8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from accel.accelerate.precision import Counts
from accel.onnx_file import parse
from accel.onnx_graph import graphs, quantization

# Conv, Gemm and the like, and what ONNX Runtime fuses them into (its contrib operators: docs/ContribOperators.md, NCHWc: MLAS).
_FLOAT = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedGemm", "FusedMatMul", "NhwcConv", "NhwcFusedConv"}
)
INT8_OPERATORS = frozenset(
    {
        "QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm", "ConvInteger", "ConvTransposeInteger",
        "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
    }
)  # fmt: skip
_FLOATS: Mapping[int, str] = {
    onnx.TensorProto.FLOAT: "fp32",
    onnx.TensorProto.FLOAT16: "fp16",
    onnx.TensorProto.BFLOAT16: "bf16",
    onnx.TensorProto.DOUBLE: "fp64",
}
_CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})


def quantized_operators(path: Path) -> int:
    """How many Conv, ConvTranspose, Gemm and MatMul of the file at ``path`` read data and weights through DequantizeLinear.

    Operators that the file already has in an INT8 form (QLinearConv, MatMulInteger) count too.
    """
    return quantization(parse(path)).quantized


def packed_weights(path: Path) -> tuple[str, ...]:
    """A note on the products of the file whose weights alone are integers: they count neither as quantized nor as float."""
    found = quantization(parse(path))
    if not found.weight_only:
        return ()
    kinds = f" ({', '.join(found.weight_dtypes)})" if not found.quantized else ""
    return (f"{found.weight_only} operators read weights stored as integers{kinds}, unpacked as they are multiplied",)


def executed_operators(path: Path) -> Counts:
    """Counts of the graph that ONNX Runtime wrote to ``path`` after its optimizations."""
    model = parse(path)
    operators: Counter[str] = Counter()
    heavy: Counter[str] = Counter()
    other: Counter[str] = Counter()
    for graph in graphs(model.graph):
        types = _types(graph)
        for node in graph.node:
            operators[node.op_type] += 1
            precision = _precision(node, types)
            if precision is not None and node.op_type in _FLOAT:
                heavy[precision] += 1
            elif precision is not None and node.op_type not in _CONVERSIONS | INT8_OPERATORS:
                other[precision] += 1
    int8 = sum(count for name, count in operators.items() if name in INT8_OPERATORS)
    return Counts(operators, int8, heavy or other)


def _types(graph: Any) -> dict[str, int]:
    types = {info.name: info.type.tensor_type.elem_type for info in (*graph.input, *graph.value_info, *graph.output)}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    return types


def _precision(node: Any, types: Mapping[str, int]) -> str | None:
    """The float precision of what a node makes, or, where the graph does not say, of what it reads."""
    for name in (*node.output, *node.input):
        code = types.get(name, onnx.TensorProto.UNDEFINED)
        if code != onnx.TensorProto.UNDEFINED:
            return _FLOATS.get(code)
    return None
