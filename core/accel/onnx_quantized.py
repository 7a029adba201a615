"""How each operator of an ONNX file is quantized in the file, and which Q/DQ stand around it. Reads the graph only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel import onnx_file
from accel.onnx_graph import INTEGER_OPERATORS, WEIGHTED_OPERATORS, constant_tensors, label, quantized_inputs

CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Cast"})
"""Operators that change how numbers are written, and nothing else."""
_NO_WORK = frozenset({"Constant", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Shape", "Dropout"})
_CLAMPS = frozenset({"Relu", "Clip", "LeakyRelu", "HardSwish", "Sigmoid", "BatchNormalization"})


@dataclass(frozen=True)
class Operator:
    """One operator that computes. ``weighted``: it multiplies and adds (Conv, ConvTranspose, Gemm, MatMul, integer forms).

    ``data``, ``weights``: whether it reads them from Q/DQ; of others than weighted ones both say whether all that varies is.
    ``output``: whether all that read it quantize it, perhaps behind an activation.
    ``around``: names of the QuantizeLinear and DequantizeLinear right before and behind it.
    """

    name: str
    kind: str
    weighted: bool
    data: bool
    weights: bool
    output: bool
    around: tuple[str, ...]

    @property
    def quantized(self) -> bool:
        """Whether the file means it to run on integers."""
        return self.data and self.weights and (self.weighted or self.output)


def operators(path: Path) -> tuple[Operator, ...]:
    """Those of the outermost graph, in the order of the file. Raises as ``onnx_file.parse``."""
    return operators_in(onnx_file.parse(path).graph)


def kinds(path: Path) -> dict[str, str]:
    """Every node of the outermost graph, in the order of the file, to its operator type."""
    return {label(node): str(node.op_type) for node in onnx_file.parse(path).graph.node}


def operators_in(graph: Any) -> tuple[Operator, ...]:
    """As :func:`operators`, of a GraphProto."""
    makers = {output: node for node in graph.node for output in node.output if output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    constants = constant_tensors(graph)
    return tuple(
        _operator(node, makers, readers, constants)
        for node in graph.node
        if node.op_type not in CONVERSIONS and node.op_type not in _NO_WORK
    )


def _operator(
    node: Any, makers: Mapping[str, Any], readers: Mapping[str, Sequence[Any]], constants: Mapping[str, Any]
) -> Operator:
    before = [makers[name] for name in node.input if name in makers]
    behind = [reader for name in node.output for reader in readers.get(name, ())]
    if len(behind) == 1 and behind[0].op_type in _CLAMPS:
        after = [reader for name in behind[0].output for reader in readers.get(name, ())]
    else:
        after = behind
    if node.op_type in WEIGHTED_OPERATORS:
        data, weights = (found is not None for found in quantized_inputs(node, makers, constants))
    else:
        varying = [name for name in node.input if name and name not in constants]
        data = bool(varying) and all(name in makers and makers[name].op_type == "DequantizeLinear" for name in varying)
        weights = data
    around = [each for each in before if each.op_type == "DequantizeLinear"]
    around += [each for each in after if each.op_type == "QuantizeLinear"]
    return Operator(
        name=label(node),
        kind=str(node.op_type),
        weighted=node.op_type in WEIGHTED_OPERATORS,
        data=data,
        weights=weights,
        output=node.op_type in INTEGER_OPERATORS or (bool(after) and all(each.op_type == "QuantizeLinear" for each in after)),
        around=tuple(dict.fromkeys(label(each) for each in around)),
    )
