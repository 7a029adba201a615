"""A smaller file for the same graph: equal constants stored once, no attribute that says what holds anyway, a bias in the form
that takes fewer bytes, and short names for what nobody calls by name.

On a small INT8 network these are most of what is not weights: of ResNet-20's Q/DQ file, a sixth.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from itertools import count, product

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from accel.onnx_graph import graphs

_DIGITS = string.digits + string.ascii_letters
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def shorten_(model: onnx.ModelProto) -> None:
    """Merge equal initializers, drop what says nothing and shorten names, in place. What is computed stays the same.

    Inputs, outputs and operators keep their names; Q/DQ nodes lose theirs, tensors inside the graph get short ones. A graph
    with subgraphs or functions, where names cross borders, keeps its names.
    """
    merge_equal_(model.graph)
    drop_defaults_(model)
    float_biases_(model.graph)
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
    order = {name: place for place, name in enumerate(names.values())}
    in_order = sorted(graph.initializer, key=lambda weight: (order.get(weight.name, -1), weight.name))
    copies = [onnx.TensorProto.FromString(weight.SerializeToString()) for weight in in_order]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    for sparse in graph.sparse_initializer:
        sparse.values.name = renamed(sparse.values.name)
    del graph.value_info[:]
    del graph.quantization_annotation[:]


def drop_defaults_(model: onnx.ModelProto) -> None:
    """Drop attributes that are at their default: the schema's, the one that a convolution's weights imply, or an axis of Q/DQ
    with a single scale, which no one reads. In place."""
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    for graph in graphs(model.graph):
        dims = {weight.name: list(weight.dims) for weight in graph.initializer}
        quantized = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in dims]
        dims |= {node.output[0]: dims[node.input[0]] for node in quantized}
        for node in graph.node:
            if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset):
                continue
            schema = onnx.defs.get_schema(node.op_type, opset)
            kept = [held for held in node.attribute if not _says_nothing(node, held, schema, dims)]
            if len(kept) < len(node.attribute):
                copies = [onnx.AttributeProto.FromString(held.SerializeToString()) for held in kept]
                del node.attribute[:]
                node.attribute.extend(copies)


def _says_nothing(
    node: onnx.NodeProto, held: onnx.AttributeProto, schema: onnx.defs.OpSchema, dims: dict[str, list[int]]
) -> bool:
    if held.ref_attr_name or held.name not in schema.attributes:
        return False
    value = helper.get_attribute_value(held)
    default = schema.attributes[held.name].default_value
    if default.type and default.type == held.type and helper.get_attribute_value(default) == value:
        return True
    if node.op_type == "Conv" and node.input[1] in dims:
        if held.name == "kernel_shape":
            return list(value) == dims[node.input[1]][2:]
        return held.name in ("strides", "dilations") and set(value) == {1}
    return node.op_type in _QDQ and held.name == "axis" and dims.get(node.input[1]) == []


def float_biases_(graph: onnx.GraphProto) -> None:
    """Store the bias of a quantized Conv as the float32 it stands for: four bytes a channel, and a node, less. In place.

    ONNX Runtime (since 1.21) and OpenVINO make the same INT32 of it as they load the file, from the scales of data and weights.
    ONNX Runtime does not for a Gemm, and needs float32 scales (in float16 it gets them wrong, 1.32).
    """
    constants = {weight.name: weight for weight in graph.initializer}
    outputs = {value.name for value in graph.output}
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
    for node in graph.node:
        for index, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, index))
    for node in list(graph.node):
        if node.op_type != "DequantizeLinear" or not {*node.input[:2]} <= constants.keys() or node.output[0] in outputs:
            continue
        bias, scale = (constants[name] for name in node.input[:2])
        is_bias = all(reader.op_type == "Conv" and index == 2 for reader, index in readers.get(node.output[0], ()))
        kinds = (bias.data_type, scale.data_type)
        zero = constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        shifted = (len(node.input) > 2 and node.input[2] and zero is None) or (
            zero is not None and numpy_helper.to_array(zero).any()
        )
        if not is_bias or kinds != (TensorProto.INT32, TensorProto.FLOAT) or shifted or len(bias.dims) != 1:
            continue
        made_float = all(held.name != "output_dtype" or held.i in (0, TensorProto.FLOAT) for held in node.attribute)
        if not made_float or list(scale.dims) not in ([], [1], list(bias.dims)):  # blocks of scales
            continue
        value = numpy_helper.to_array(bias).astype(np.float32) * numpy_helper.to_array(scale)
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), node.output[0]))
        graph.node.remove(node)
    read = {name for inner in graphs(graph) for node in inner.node for name in node.input}
    read |= {value.name for inner in graphs(graph) for value in inner.output}
    unread = [weight for weight in graph.initializer if weight.name in constants and weight.name not in read]
    for weight in unread:
        graph.initializer.remove(weight)


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
