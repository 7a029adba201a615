"""A smaller file for the same graph: equal constants stored once, and short names for what nobody calls by name.

On a small INT8 network names are most of what is not weights: of ResNet-20's Q/DQ file, a tenth.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import count, product

import onnx

from accel.onnx_graph import graphs

_DIGITS = string.digits + string.ascii_letters
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def shorten_(model: onnx.ModelProto) -> None:
    """Merge equal initializers and shorten names, in place. What is computed stays the same.

    Inputs, outputs and operators keep their names; Q/DQ nodes lose theirs, tensors inside the graph get short ones. A graph
    with subgraphs, whose names cross their borders, only has its equal constants merged.
    """
    merge_equal_(model.graph)
    if sum(1 for _ in graphs(model.graph)) > 1 or model.functions:
        return
    graph = model.graph
    kept = {value.name for value in (*graph.input, *graph.output)} | {""}
    short = _names(kept)
    names: dict[str, str] = {}

    def renamed(name: str) -> str:
        if name in kept:
            return name
        if name not in names:
            names[name] = next(short)
        return names[name]

    for node in graph.node:  # in the order of the graph: the same file each time
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        if node.op_type in _QDQ:
            node.ClearField("name")
    for weight in graph.initializer:
        weight.name = renamed(weight.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = renamed(sparse.values.name)
    del graph.value_info[:]
    del graph.quantization_annotation[:]


def merge_equal_(graph: onnx.GraphProto) -> None:
    """Store initializers of the same type, shape and bytes once, in place.

    Those that are outputs stay, and so do scales and zero points of weights: layers that share one run in float in OpenVINO
    (2026.4, found by its executed graph).
    """
    fixed = {value.name for value in (*graph.output, *graph.input)} | _of_weights(graph)
    inside = {name for inner in list(graphs(graph))[1:] for node in inner.node for name in node.input}
    first: dict[bytes, str] = {}
    twins: dict[str, str] = {}
    kept = []
    for weight in graph.initializer:
        content = onnx.TensorProto()
        content.CopyFrom(weight)
        content.ClearField("name")
        key = content.SerializeToString(deterministic=True)
        if weight.name in fixed or weight.name in inside or weight.external_data:
            kept.append(weight)
        elif key in first:
            twins[weight.name] = first[key]
        else:
            first[key] = weight.name
            kept.append(weight)
    if not twins:
        return
    copies = [onnx.TensorProto.FromString(weight.SerializeToString()) for weight in kept]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    for node in graph.node:
        node.input[:] = [twins.get(name, name) for name in node.input]
    values = [value for value in graph.value_info if value.name not in twins]
    del graph.value_info[:]
    graph.value_info.extend(values)


def _of_weights(graph: onnx.GraphProto) -> set[str]:
    constants = {weight.name for weight in graph.initializer}
    return {
        name
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in constants
        for name in node.input[1:]
    }


def _names(taken: set[str]) -> Iterator[str]:
    """All words over the digits and letters, the shortest first, but for those that are ``taken``."""
    for length in count(1):
        for word in product(_DIGITS, repeat=length):
            name = "".join(word)
            if name not in taken:
                yield name
