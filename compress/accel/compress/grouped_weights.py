"""Integers in groups as ONNX files have them: MatMulNBits of ONNX Runtime's, and DequantizeLinear in blocks (opset 21)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from accel.compress.onnx_writing import drop_unused_initializers_, unique
from accel.compress.product_weights import products_from_gemms_
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


def store_in_blocks_(model: onnx.ModelProto, found: Mapping[str, Grouped], bits: int) -> list[str]:
    """Each float matrix of the file that holds what integers of ``found`` stand for becomes these integers behind a
    DequantizeLinear in blocks (opset 21), in place. Gives the keys of those that the file does not hold.

    ONNX Runtime makes MatMulNBits of it and a MatMul when it loads the file, OpenVINO keeps the weights compressed. Symmetric
    integers are written as signed, without zero points.
    """
    graph = model.graph
    products_from_gemms_(model)
    digests = {key: _digest(grouped.restored(len(grouped.integers))) for key, grouped in found.items()}
    by_value = {digest: found[key] for key, digest in digests.items()}
    _turn_around_(graph, by_value)
    drop_unused_initializers_(model)
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {each.name for each in graph.initializer}
    nodes, tensors, done = [], [], set()
    for matrix in graph.initializer:
        digest = _digest(onnx.numpy_helper.to_array(matrix)) if _is_matrix(matrix) else ""
        if digest not in by_value:
            tensors.append(matrix)
            continue
        done.add(digest)
        parts = _block_tensors(matrix.name, by_value[digest], bits, taken)
        tensors.extend(parts)
        made = onnx.helper.make_node(
            "DequantizeLinear",
            [part.name for part in parts],
            [matrix.name],
            name=f"{matrix.name}/DequantizeLinear",
            axis=0,
            block_size=by_value[digest].size,
        )
        nodes.append(made)
    nodes.extend(graph.node)
    for field, values in ((graph.initializer, tensors), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    return [key for key, digest in digests.items() if digest not in done]


def _is_matrix(tensor: onnx.TensorProto) -> bool:
    return len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT


def _digest(matrix: NDArray[Any]) -> str:
    return f"{matrix.shape} {hashlib.sha256(np.ascontiguousarray(matrix).tobytes()).hexdigest()}"


def _turn_around_(graph: onnx.GraphProto, wanted: Collection[str]) -> None:
    """A matrix of ``wanted`` that a Transpose turns at run time is stored the other way round: the exporter does so itself for
    matrices of up to a million values only."""
    values = {each.name: each for each in graph.initializer if _is_matrix(each)}
    kept = []
    for node in graph.node:
        matrix = values.get(node.input[0]) if node.op_type == "Transpose" else None
        turned = None if matrix is None else np.ascontiguousarray(onnx.numpy_helper.to_array(matrix).T)
        if turned is not None and _digest(turned) in wanted:
            graph.initializer.append(onnx.numpy_helper.from_array(turned, node.output[0]))
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)


def _block_tensors(name: str, grouped: Grouped, bits: int, taken: set[str]) -> list[onnx.TensorProto]:
    """Integers, scales and, unless all are half of 2**bits, zero points; their names are added to ``taken``."""
    half = 2 ** (bits - 1)
    symmetric = bool((grouped.zeros == half).all())
    shift = half if symmetric else 0
    kind = onnx.TensorProto.DataType.Value(f"{'' if symmetric else 'U'}INT{bits}")
    whole = {"integers": grouped.integers} | ({} if symmetric else {"zeros": grouped.zeros})
    made = {
        what: onnx.TensorProto(data_type=kind, dims=array.shape, raw_data=_content(array.astype(np.int16) - shift, bits))
        for what, array in whole.items()
    }
    scales = np.ascontiguousarray(grouped.scales, np.float32)
    made["scales"] = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=scales.shape, raw_data=scales.tobytes())
    for what, tensor in made.items():
        tensor.name = unique(f"{name}_{what}", taken)
        taken.add(tensor.name)
    return [made[what] for what in ("integers", "scales", "zeros") if what in made]


def _refill(tensor: onnx.TensorProto, array: NDArray[np.generic]) -> None:
    assert tuple(tensor.dims) == array.shape
    if tensor.data_type == onnx.TensorProto.FLOAT:
        content = np.asarray(array, np.float32).tobytes()
    else:
        content = _content(np.asarray(array, np.int16), 4)
    name, kind = tensor.name, tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.raw_data = name, kind, content
    tensor.dims.extend(array.shape)


def _content(integers: NDArray[np.int16], bits: int) -> bytes:
    """As ``raw_data`` has them: two's complement, the first of two of four bits in the lower half of a byte."""
    flat = (integers & (2**bits - 1)).astype(np.uint8).reshape(-1)
    return (_packed(np.pad(flat, (0, len(flat) % 2))) if bits == 4 else flat).tobytes()


def _packed(integers: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two of the last axis, which is even, to a byte; the first in its lower half."""
    return np.asarray(integers[..., ::2] | (integers[..., 1::2] << 4), np.uint8)
