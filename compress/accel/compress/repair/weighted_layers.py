"""The layers of a Q/DQ graph whose stored weights can be written anew, and the writing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import from_array, to_array

from accel.compress.quantized_graph import WEIGHTED

Floats = NDArray[np.float32]
_INT32 = np.iinfo(np.int32)
_ROOM = 2.0**30
"""Steps that a bias may take when a weight's scale is chosen: half of INT32, so that correcting it later does not overflow."""


@dataclass(frozen=True)
class Convolution:
    """Of two dimensions. ``pads``: top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class WeightedLayer:
    """A node as ``(groups, outputs, inputs)``. ``upright``: its matrix is stored (outputs, inputs)."""

    name: str
    groups: int
    outputs: int
    inputs: int
    upright: bool
    convolution: Convolution | None

    def rows(self, stored: NDArray[Any]) -> NDArray[Any]:
        """(groups, outputs, inputs) of a weight as the file has it."""
        upright = stored if self.upright else stored.T
        return np.ascontiguousarray(upright).reshape(self.groups, self.outputs, self.inputs)

    def stored(self, rows: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """The reverse of :meth:`rows`."""
        return rows.reshape(shape) if self.upright else np.ascontiguousarray(rows.reshape(shape[::-1]).T)


class QuantizedWeights:
    """The weights and biases of ``model``, Q/DQ as a quantizer wrote it, changed in place; ``source``: the network before."""

    def __init__(self, model: onnx.ModelProto, source: onnx.ModelProto) -> None:
        self._model = model
        self._nodes = {node.name: node for node in model.graph.node}
        self._makers = {value: node for node in model.graph.node for value in node.output}
        self._stored = {tensor.name: index for index, tensor in enumerate(model.graph.initializer)}
        self._readers = Counter(value for node in model.graph.node for value in node.input)
        self._source = {node.name: node for node in source.graph.node}
        self._floats = {tensor.name: tensor for tensor in source.graph.initializer}
        self.layers = tuple(layer for node in source.graph.node if (layer := self._layer(node)) is not None)
        """Those with quantized weights of their own, in the order of the graph."""
        known = {layer.name for layer in self.layers}
        self.others = tuple(node.name for node in model.graph.node if node.name not in known and self._stored_weight(node))
        """Nodes whose stored weights are quantized too, and stay as the quantizer wrote them."""

    def weights(self, layer: WeightedLayer) -> Floats:
        """(groups, outputs, inputs), before they were quantized."""
        found: Floats = layer.rows(self._float(self._source[layer.name].input[1]))
        return found

    def value(self, layer: WeightedLayer) -> str:
        """What the quantized layer reads."""
        return str(self._nodes[layer.name].input[0])

    def output(self, layer: WeightedLayer) -> str:
        """What the quantized layer gives."""
        return str(self._nodes[layer.name].output[0])

    def bias(self, layer: WeightedLayer) -> Floats | None:
        """(groups * outputs,), before it was quantized; None where the layer has none that is its own."""
        before, node = self._source[layer.name], self._nodes[layer.name]
        if len(before.input) < 3 or before.input[2] not in self._floats or len(node.input) < 3:
            return None
        maker = self._makers.get(node.input[2])
        own = self._readers[node.input[2]] == 1 and (maker is None or self._readers[maker.input[0]] == 1)
        bias = self._float(before.input[2]).reshape(-1)
        return bias if own and len(bias) == layer.groups * layer.outputs else None

    def set_weights_(
        self, layer: WeightedLayer, integers: NDArray[Any], scales: NDArray[Any], bias: NDArray[Any] | None = None
    ) -> None:
        """``integers`` (groups, outputs, inputs), ``scales`` (groups, outputs, 1). ``bias`` (groups * outputs,) of the layer:
        where INT32 steps of ``scales`` do not hold it, as where a channel's weights are nearly zero, they become wider."""
        if bias is not None:
            integers, scales = self._with_room(layer, integers, scales, bias)
        maker = self._makers[self._nodes[layer.name].input[1]]
        shape = tuple(self._model.graph.initializer[self._stored[maker.input[0]]].dims)
        self._put(maker.input[0], layer.stored(integers, shape).astype(np.int8))
        self._put(maker.input[1], scales.reshape(-1).astype(np.float32))
        self._put(maker.input[2], np.zeros(scales.size, np.int8))
        del maker.attribute[:]
        maker.attribute.append(onnx.helper.make_attribute("axis", 0 if layer.upright else 1))

    def set_bias_(self, layer: WeightedLayer, bias: NDArray[Any]) -> None:
        """``bias`` (groups * outputs,), as the file stores biases: in INT32 steps of both scales' product, or in float32."""
        node = self._nodes[layer.name]
        maker = self._makers.get(node.input[2])
        if maker is None:
            self._put(node.input[2], bias.astype(np.float32))
            return
        data, weight = (self._makers[node.input[index]] for index in (0, 1))
        scale = self._constant(weight.input[1])  # one for each output, or one for all
        steps = np.asarray(self._constant(data.input[1]).reshape(()) * scale.astype(np.float64))
        self._put(maker.input[0], np.clip(np.rint(bias / steps), _INT32.min, _INT32.max).astype(np.int32))
        self._put(maker.input[1], steps.astype(np.float32))
        if len(maker.input) > 2 and maker.input[2]:
            self._put(maker.input[2], np.zeros(steps.shape, np.int32))
        del maker.attribute[:]
        if steps.ndim:
            maker.attribute.append(onnx.helper.make_attribute("axis", 0))

    def _with_room(
        self, layer: WeightedLayer, integers: NDArray[Any], scales: NDArray[Any], bias: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        node = self._nodes[layer.name]
        data = self._makers.get(node.input[0])
        if node.input[2] not in self._makers or data is None:  # it stays in float32
            return integers, scales
        least = np.abs(bias, dtype=np.float64) / (_ROOM * float(self._constant(data.input[1]).reshape(())))
        wider = np.maximum(scales, least.reshape(scales.shape)).astype(np.float32)
        return np.rint(integers * (scales / wider)), wider

    def _constant(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = to_array(self._model.graph.initializer[self._stored[name]])
        return found

    def _float(self, name: str) -> Floats:
        return np.asarray(to_array(self._floats[name]), np.float32)

    def _put(self, name: str, value: NDArray[Any]) -> None:
        self._model.graph.initializer[self._stored[name]].CopyFrom(from_array(value, name))

    def _stored_weight(self, node: onnx.NodeProto) -> bool:
        maker = self._makers.get(node.input[1]) if node.op_type in WEIGHTED and len(node.input) > 1 else None
        return maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in self._stored

    def _layer(self, node: onnx.NodeProto) -> WeightedLayer | None:
        twin = self._nodes.get(node.name)
        if twin is None or len(node.input) < 2 or node.input[1] not in self._floats:
            return None
        maker = self._makers.get(twin.input[1])
        if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) < 3:
            return None
        own = self._readers[twin.input[1]] == 1 and all(
            name in self._stored and self._readers[name] == 1 for name in maker.input
        )
        return layer_of(node, tuple(self._floats[node.input[1]].dims)) if own else None


def layer_of(node: onnx.NodeProto, shape: tuple[int, ...]) -> WeightedLayer | None:
    """``node`` with a weight of ``shape`` as a layer; None for any other, such as a convolution of another dimension."""
    values: Mapping[str, Any] = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Conv":
        if len(shape) != 4 or values.get("auto_pad", b"NOTSET") != b"NOTSET":
            return None
        groups = int(values.get("group", 1))
        how = Convolution(
            (shape[2], shape[3]),
            tuple(values.get("strides", (1, 1))),
            tuple(values.get("dilations", (1, 1))),
            tuple(values.get("pads", (0, 0, 0, 0))),
        )
        return WeightedLayer(node.name, groups, shape[0] // groups, shape[1] * shape[2] * shape[3], True, how)
    if len(shape) != 2:
        return None
    if node.op_type == "MatMul":
        return WeightedLayer(node.name, 1, shape[1], shape[0], False, None)
    plain = all(values.get(name, 1.0) == 1.0 for name in ("alpha", "beta")) and not values.get("transA", 0)
    if node.op_type != "Gemm" or not plain:
        return None
    upright = bool(values.get("transB", 0))
    outputs, inputs = shape if upright else shape[::-1]
    return WeightedLayer(node.name, 1, outputs, inputs, upright, None)
