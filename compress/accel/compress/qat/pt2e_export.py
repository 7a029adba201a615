"""From a module prepared for quantization-aware training to the ONNX graph that deploys: integer biases and readable names.

``pt2e.converted`` makes the integers and ``torch_to_onnx`` the graph. What is left is what torchao cannot say: a bias in INT32,
in units of input scale times weight scale, without which ONNX Runtime keeps a Gemm in floating point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from accel.compress.module_names import rename_values_
from accel.compress.onnx_writing import drop_unused_initializers_, unique
from accel.compress.quantized_graph import WEIGHTED

_INT32 = 2**31 - 1


def finish_(model: onnx.ModelProto, *, integer_bias: bool) -> None:
    """Write biases as INT32 where the profile wants that, and call integers and scales like their tensors, in place."""
    _transpose_weights_(model)
    _own_zero_points_(model)
    if integer_bias:
        for layer in list(_layers(model)):
            _quantize_bias_(model, layer)
    drop_unused_initializers_(model)
    _name_(model)


def _own_zero_points_(model: onnx.ModelProto) -> None:
    """Drop the zero points of a Conv's weights, which are 0, the default, and give other weights each its own, in place.

    torch's exporter writes equal ones once, and OpenVINO 2026.4 runs layers that share one in floating point. (A Gemm without a
    zero point stays in floating point in ONNX Runtime 1.32.)
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {value: node for node in model.graph.node for value in node.input}
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in weights or len(node.input) < 3:
            continue
        if node.output[0] in readers and readers[node.output[0]].op_type == "Conv":
            del node.input[2]
        else:
            zeros = numpy_helper.to_array(weights[node.input[2]])
            node.input[2] = _add(model, f"{node.input[0]}_zero_point", zeros)


def _transpose_weights_(model: onnx.ModelProto) -> None:
    """Do the Transpose between a DequantizeLinear and a MatMul on the integers, in place: no optimizer does."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    maker = {value: node for node in model.graph.node for value in node.output}
    reads = Counter(value for node in model.graph.node for value in node.input)
    done: list[onnx.NodeProto] = []
    for node in model.graph.node:
        source = maker.get(node.input[0]) if node.op_type == "Transpose" else None
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] not in weights or reads[node.input[0]] > 1:
            continue
        integers = numpy_helper.to_array(weights[source.input[0]])
        permutation = next(
            (list(entry.ints) for entry in node.attribute if entry.name == "perm"), [*range(integers.ndim)][::-1]
        )
        source.input[0] = _add(model, source.input[0], integers.transpose(permutation))
        for entry in source.attribute:
            if entry.name == "axis":
                entry.i = permutation.index(entry.i)
        source.output[0] = node.output[0]
        done.append(node)
    for node in done:
        model.graph.node.remove(node)


class _Layer:
    """A Conv, ConvTranspose or Gemm with its DequantizeLinear nodes."""

    def __init__(self, node: onnx.NodeProto, data: onnx.NodeProto, weight: onnx.NodeProto) -> None:
        self.node = node
        self.data = data
        self.weight = weight


def _layers(model: onnx.ModelProto) -> Iterator[_Layer]:
    maker = {value: node for node in model.graph.node for value in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm") and len(node.input) > 2 and node.input[2]:
            data, weight = maker.get(node.input[0]), maker.get(node.input[1])
            if data is not None and weight is not None and data.op_type == weight.op_type == "DequantizeLinear":
                yield _Layer(node, data, weight)


def _quantize_bias_(model: onnx.ModelProto, layer: _Layer) -> None:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    place = layer.node.input[2]
    names = layer.data.input[1], layer.weight.input[1], layer.weight.input[0]
    if any(name not in weights for name in (place, *names)):
        return
    bias = numpy_helper.to_array(weights[place])
    data_scale, weight_scale, integers = (numpy_helper.to_array(weights[name]) for name in names)
    if bias.dtype != np.float32 or data_scale.size != 1:
        return
    least = np.abs(bias.astype(np.float64)) / (0.99 * _INT32 * float(data_scale.reshape(())))
    if np.any(least > weight_scale):
        # The bias is too large for its unit, and so the weights tiny beside it: a coarser scale for them loses nothing.
        wider = np.maximum(weight_scale, least if weight_scale.size > 1 else least.max()).astype(np.float32)
        axis = next((entry.i for entry in layer.weight.attribute if entry.name == "axis"), 1)
        shape = [-1 if index == axis and wider.size > 1 else 1 for index in range(integers.ndim)]
        integers = np.rint(integers * (weight_scale / wider).reshape(shape)).astype(integers.dtype)
        layer.weight.input[0] = _add(model, layer.weight.input[0], integers)
        layer.weight.input[1] = _add(model, layer.weight.input[1], wider)
        weight_scale = wider
    unit = (data_scale.reshape(()) * weight_scale).astype(np.float32)
    values = np.rint(bias.astype(np.float64) / unit).astype(np.int32)
    taken = {value for node in model.graph.node for value in node.output}
    output = unique(f"{place}_dequantized", taken)
    node = onnx.helper.make_node(
        "DequantizeLinear",
        [_add(model, f"{place}_quantized", values), _add(model, f"{place}_scale", unit)],
        [output],
        name=f"{place}_DequantizeLinear",
        **({"axis": 0} if unit.size > 1 else {}),
    )
    position = next(index for index, one in enumerate(model.graph.node) if one is layer.node or one.name == layer.node.name)
    model.graph.node.insert(position, node)
    layer.node.input[2] = output


def _add(model: onnx.ModelProto, name: str, value: NDArray[np.generic]) -> str:
    found = unique(name, {tensor.name for tensor in model.graph.initializer})
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), found))
    return found


def _name_(model: onnx.ModelProto) -> None:
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    readers: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, node)
    renamed: dict[str, str] = {}
    tensors: dict[str, str] = {value.name: value.name for value in graph.input}
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            tensors[node.output[0]] = node.input[0]
        elif node.op_type == "DequantizeLinear" and node.input[0] in weights:
            tensors[node.input[0]] = _tensor(node, readers.get(node.output[0]))
    taken = {value.name for value in (*graph.input, *graph.output)}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        source = node.input[0]
        tensor = source if node.op_type == "QuantizeLinear" else tensors.get(source, source)
        node.name = unique(f"{tensor}_{node.op_type}", taken)
        taken.add(node.name)
        if node.op_type == "QuantizeLinear":
            renamed.setdefault(node.output[0], f"{tensor}_quantized")
        else:
            if source in weights:
                renamed.setdefault(source, f"{tensor}_quantized")
            renamed.setdefault(node.output[0], f"{tensor}_dequantized")
        for slot, suffix in ((1, "scale"), (2, "zero_point")):
            if len(node.input) > slot and node.input[slot] in weights:
                renamed.setdefault(node.input[slot], f"{tensor}_{suffix}")
    ends = {value.name for value in (*graph.input, *graph.output)}
    rename_values_(model, _distinct({old: new for old, new in renamed.items() if old not in ends}, _values(model)))


def _tensor(node: onnx.NodeProto, reader: onnx.NodeProto | None) -> str:
    """What a constant behind ``node`` is called: ``stem.weight`` for what ``stem/Conv`` multiplies with."""
    source: str = node.input[0]
    if source.endswith("_quantized"):
        return source.removesuffix("_quantized")
    if reader is None:
        return source
    path = reader.name.rpartition("/")[0] or reader.name
    return f"{path}.weight" if reader.op_type in WEIGHTED and node.output[0] in reader.input[1:2] else f"{reader.name}.constant"


def _values(model: onnx.ModelProto) -> Iterable[str]:
    yield from (tensor.name for tensor in model.graph.initializer)
    yield from (value.name for value in model.graph.input)
    yield from (value for node in model.graph.node for value in node.output)


def _distinct(renamed: Mapping[str, str], values: Iterable[str]) -> dict[str, str]:
    taken = {value for value in values if value not in renamed}
    found: dict[str, str] = {}
    for old, new in renamed.items():
        found[old] = unique(new, taken)
        taken.add(found[old])
    return found
