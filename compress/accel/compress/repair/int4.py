"""Weights of four bits stored as INT4 (opset 21), and run as INT8.

A Cast to INT8 stands between the stored tensor and its DequantizeLinear. ONNX Runtime 1.32 and OpenVINO 2026.4 fold it when
they load the file, and find the INT8 pattern that they have kernels for. Without it both turn INT4 weights into floats at run
time: ResNet-20 was two and a half times slower than FP32 then, with all convolutions in floating point.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array

from accel.compress.onnx_writing import unique
from accel.compress.quantized_graph import WEIGHTED

_INT4 = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4)
_IR_VERSION = 10  # the first that has the type


def store_in_int4_(model: onnx.ModelProto) -> int:
    """Store each INT8 weight of a layer whose values are in [-8, 7] in half of the bytes, in place; gives how many."""
    graph = model.graph
    places = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    readers = Counter(name for node in graph.node for name in node.input)
    makers = {value: node for node in graph.node for value in node.output}
    values = {name for node in graph.node for name in (*node.input, *node.output)}
    names = {node.name for node in graph.node}
    casts: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        maker = makers.get(node.input[1]) if node.op_type in WEIGHTED and len(node.input) > 1 else None
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in places:
            continue
        stored = graph.initializer[places[maker.input[0]]]
        if stored.data_type != onnx.TensorProto.INT8 or readers[stored.name] > 1:
            continue
        integers = to_array(stored)
        if integers.min(initial=0) < -8 or integers.max(initial=0) > 7:
            continue
        wide, name = unique(f"{stored.name}_in_int8", values), unique(f"{node.name}/weight_to_int8", names)
        values.add(wide)
        names.add(name)
        stored.CopyFrom(from_array(np.asarray(integers).astype(_INT4), stored.name))
        casts[wide] = onnx.helper.make_node("Cast", [stored.name], [wide], name=name, to=onnx.TensorProto.INT8)
        maker.input[0] = wide
    ordered: list[onnx.NodeProto] = []
    for node in graph.node:
        ordered += [casts[value] for value in node.input if value in casts]
        ordered.append(node)
    del graph.node[:]
    graph.node.extend(ordered)
    if casts:
        model.ir_version = max(model.ir_version, _IR_VERSION)
    return len(casts)
