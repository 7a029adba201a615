"""The layers whose weights alone are quantized, found in an ONNX graph: products with a constant, and embedding tables."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray

from accel.compress.onnx_writing import unique
from accel.errors import PassFault
from accel.onnx_graph import graphs

LEAST_ROWS = 16
"""A table of fewer rows stays as it is: BERT's two token types are not worth two nodes."""

_SHOWN = 3


@dataclass
class Tally:
    """What became of each layer: ``done`` to ``kind`` of storage, and what was ``left`` in floating point, by reason."""

    done: dict[str, list[str]] = field(default_factory=dict)
    left: dict[str, list[str]] = field(default_factory=dict)

    def notes(self) -> tuple[str, ...]:
        """One line for each kind and reason: how many, and the first names of what was left."""
        lines = [f"quantized: {len(names)} {kind}" for kind, names in self.done.items()]
        for reason, names in self.left.items():
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"{', '.join(names[:_SHOWN])}{more} kept in floating point: {reason}")
        return tuple(lines)

    def put(self, where: dict[str, list[str]], what: str, name: str) -> None:
        """Add ``name`` under ``what`` of ``done`` or ``left``."""
        where.setdefault(what, []).append(name)


def products_from_gemms_(model: onnx.ModelProto) -> None:
    """Each Gemm with a constant matrix becomes a MatMul of the same name and an Add, in place: what integers are made for.

    Left alone: one that scales or transposes its input, and one inside an If or Loop.
    """
    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(weights)
    turned: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        values = {attribute.name: attribute for attribute in node.attribute}
        plain = all(name not in values or values[name].f == 1.0 for name in ("alpha", "beta"))
        upright = "transA" not in values or values["transA"].i == 0
        if node.op_type != "Gemm" or node.input[1] not in weights or not plain or not upright:
            nodes.append(node)
            continue
        matrix = node.input[1]
        if "transB" in values and values["transB"].i:
            if matrix not in turned:
                turned[matrix] = unique(f"{matrix}_transposed", taken)
                taken.add(turned[matrix])
                array = onnx.numpy_helper.to_array(weights[matrix])
                graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(array.T), turned[matrix]))
            matrix = turned[matrix]
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        output = node.output[0]
        between = output if bias is None else unique(f"{output}_product", taken)
        taken.add(between)
        nodes.append(onnx.helper.make_node("MatMul", [node.input[0], matrix], [between], name=node.name))
        if bias is not None:
            nodes.append(onnx.helper.make_node("Add", [between, bias], [output], name=f"{node.name}/bias"))
    del graph.node[:]
    graph.node.extend(nodes)


def constant_products(model: onnx.ModelProto, ignored: Collection[str], tally: Tally) -> list[str]:
    """Names of the MatMul nodes whose second input is a float matrix of the file, but for those in ``ignored``.

    What else has weights and stays in floating point goes into ``tally.left``.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    found = []
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type in ("Conv", "ConvTranspose"):
                tally.put(tally.left, "a convolution; approach static quantizes it", node.name)
            elif node.op_type in ("MatMul", "Gemm"):
                reason = _unfit(node, weights, ignored, graph is model.graph)
                if reason is None:
                    found.append(node.name)
                else:
                    tally.put(tally.left, reason, node.name)
    return found


def _unfit(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto], ignored: Collection[str], top: bool) -> str | None:
    if node.name in ignored:
        return "in ignored_scope"
    if not top:
        return "inside an If or Loop"
    if node.op_type == "Gemm":
        return "a Gemm that scales or transposes its input, or whose matrix is computed"
    weight = weights.get(node.input[1])
    if weight is None:
        return "both inputs are computed" if node.input[0] not in weights else "its constant stands first"
    if len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT:
        return "its constant is no float32 matrix"
    return None


def require_any(products: Collection[str], found: Collection[str]) -> None:
    """PassFault where there is neither a product nor a table to quantize."""
    if not products and not found:
        raise PassFault(
            "quantize changed nothing: there is no product with a constant float32 matrix and no embedding table outside"
            " ignored_scope; for convolutions set approach: static"
        )


def tables(model: onnx.ModelProto, ignored: Collection[str], tally: Tally) -> dict[str, list[onnx.NodeProto]]:
    """Each embedding table (a float matrix that only Gathers along its rows read) to these Gathers.

    None of fewer rows than LEAST_ROWS, and none that one in ``ignored`` reads.
    """
    weights = {weight.name: weight for weight in model.graph.initializer}
    readers: dict[str, list[tuple[onnx.NodeProto, bool]]] = {}
    for graph in graphs(model.graph):
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name in weights:
                    rowwise = node.op_type == "Gather" and place == 0 and graph is model.graph and not _axis(node)
                    readers.setdefault(name, []).append((node, rowwise))
    outputs = {output.name for output in model.graph.output}
    found: dict[str, list[onnx.NodeProto]] = {}
    for name, reading in readers.items():
        weight = weights[name]
        gathers = [node for node, rowwise in reading if rowwise]
        if not gathers or len(weight.dims) != 2 or weight.data_type != onnx.TensorProto.FLOAT or weight.dims[0] < LEAST_ROWS:
            continue
        if any(node.name in ignored for node in gathers):
            tally.put(tally.left, "in ignored_scope", gathers[0].name)
        elif len(gathers) < len(reading) or name in outputs:
            tally.put(tally.left, "its table is read by another operator too", gathers[0].name)
        else:
            found[name] = gathers
    return found


def _axis(node: onnx.NodeProto) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == "axis"), 0)


def tables_by_row_(model: onnx.ModelProto, found: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Store each table in INT8 with one scale for each row, in place: rows and scales are gathered, then multiplied.

    In operators of ONNX alone, so that every runtime reads it, and only the rows that are asked for become floats.
    """
    graph = model.graph
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {each.name for each in graph.initializer}
    replaced: dict[int, list[onnx.NodeProto]] = {}
    for table, gathers in found.items():
        array = onnx.numpy_helper.to_array(next(each for each in graph.initializer if each.name == table))
        integers, scales = rows_in_int8(np.asarray(array, np.float32))
        names = [unique(f"{table}_{kind}", taken) for kind in ("int8", "scale")]
        taken.update(names)
        for name, value in zip(names, (integers, scales), strict=True):
            graph.initializer.append(onnx.numpy_helper.from_array(value, name))
        for node in gathers:
            made = [unique(f"{node.output[0]}_{kind}", taken) for kind in ("rows", "floats", "scales")]
            taken.update(made)
            replaced[id(node)] = [
                onnx.helper.make_node("Gather", [names[0], node.input[1]], [made[0]], name=node.name, axis=0),
                onnx.helper.make_node("Cast", [made[0]], [made[1]], name=f"{node.name}/cast", to=onnx.TensorProto.FLOAT),
                onnx.helper.make_node("Gather", [names[1], node.input[1]], [made[2]], name=f"{node.name}/scale", axis=0),
                onnx.helper.make_node("Mul", [made[1], made[2]], [node.output[0]], name=f"{node.name}/dequantize"),
            ]
    nodes = [part for node in graph.node for part in _copied(replaced.get(id(node), [node]))]
    del graph.node[:]
    graph.node.extend(nodes)
    kept = [each for each in graph.initializer if each.name not in found]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _copied(nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Clearing a repeated field takes its elements along."""
    result = []
    for node in nodes:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        result.append(copy)
    return result


def rows_in_int8(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(rows, width) as integers in [-127, 127] and (rows, 1) scales; a row of zeros, or next to it, has scale 1."""
    scales = np.abs(table).max(axis=1, keepdims=True) / 127.0
    scales = np.where(scales < np.finfo(np.float32).tiny, 1.0, scales).astype(np.float32)
    return np.clip(np.rint(table / scales), -127, 127).astype(np.int8), scales
