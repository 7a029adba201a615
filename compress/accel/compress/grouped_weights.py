"""Integers in groups as ONNX files have them: MatMulNBits of ONNX Runtime's, and DequantizeLinear in blocks (opset 21)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from accel.compress.onnx_writing import unique
from accel.compress.weight_rounding import Grouped

CONTRIB = "com.microsoft"
ACCURACY_LEVEL = 4
"""Activations are rounded to INT8, each group by itself, and multiplied so: the kernels that are fast."""


def multiply_in_bits_(model: onnx.ModelProto, found: Mapping[str, Grouped], bits: int) -> None:
    """Each MatMul that ``found`` names becomes a MatMulNBits of the same name, in place.

    As docs/ContribOperators.md of ONNX Runtime has it: weights (outputs, groups, bytes of a group), the first of two in the
    lower half of a byte; scales and zero points for each output by group, zero points of four bits two to a byte too.
    """
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {each.name for each in graph.initializer}
    sizes = {each.name: tuple(each.dims) for each in graph.initializer}
    for node in graph.node:
        rounded = found.get(node.name)
        if node.op_type != "MatMul" or rounded is None:
            continue
        inputs, outputs = sizes[node.input[1]]
        groups = len(rounded.scales)
        integers = rounded.integers.T.reshape(outputs, groups, rounded.size)
        parts = {
            "weights": _packed(integers) if bits == 4 else integers,
            "scales": np.ascontiguousarray(rounded.scales.T),
        }
        if (rounded.zeros != 2 ** (bits - 1)).any():  # what it takes where none are given
            zeros = rounded.zeros.T
            if bits == 4:
                zeros = _packed(np.pad(zeros, ((0, 0), (0, groups % 2))))
            parts["zeros"] = np.ascontiguousarray(zeros)
        names = []
        for kind, array in parts.items():
            names.append(unique(f"{node.input[1]}_{kind}", taken))
            taken.add(names[-1])
            graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array), names[-1]))
        made = onnx.helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            list(node.output),
            name=node.name,
            domain=CONTRIB,
            K=inputs,
            N=outputs,
            bits=bits,
            block_size=rounded.size,
            accuracy_level=ACCURACY_LEVEL,
        )
        node.CopyFrom(made)
    if all(entry.domain != CONTRIB for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))


def refill_blocks_(model: onnx.ModelProto, found: Mapping[str, Grouped]) -> list[str]:
    """Other integers, scales and zero points for each MatMul that ``found`` names and whose matrix stands in four bits behind a
    DequantizeLinear in blocks of that size, in place. Gives the names of those that were refilled."""
    values = {each.name: each for each in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == "DequantizeLinear"}
    done = []
    for node in model.graph.node:
        rounded = found.get(node.name)
        maker = makers.get(node.input[1]) if node.op_type == "MatMul" and len(node.input) > 1 else None
        if rounded is None or maker is None:
            continue
        block = next((int(attribute.i) for attribute in maker.attribute if attribute.name == "block_size"), 0)
        kind = values[maker.input[0]].data_type
        if block != rounded.size or kind not in (onnx.TensorProto.UINT4, onnx.TensorProto.INT4):
            continue
        shift = 8 if kind == onnx.TensorProto.INT4 else 0
        inputs = values[maker.input[0]].dims[0]
        _refill(values[maker.input[0]], rounded.integers[:inputs].astype(np.int16) - shift)
        _refill(values[maker.input[1]], rounded.scales)
        if len(maker.input) > 2:
            _refill(values[maker.input[2]], rounded.zeros.astype(np.int16) - shift)
        done.append(node.name)
    return done


def _refill(tensor: onnx.TensorProto, array: NDArray[np.generic]) -> None:
    assert tuple(tensor.dims) == array.shape
    if tensor.data_type == onnx.TensorProto.FLOAT:
        content = np.asarray(array, np.float32).tobytes()
    else:
        flat = (np.asarray(array, np.int16) & 0xF).astype(np.uint8).reshape(-1)
        content = _packed(np.pad(flat, (0, len(flat) % 2))).tobytes()
    name, kind = tensor.name, tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.raw_data = name, kind, content
    tensor.dims.extend(array.shape)


def _packed(integers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two of the last axis, which is even, to a byte; the first in its lower half."""
    return np.asarray(integers[..., ::2] | (integers[..., 1::2] << 4), np.uint8)
