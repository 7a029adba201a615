"""Cross-layer equalization: channels between two layers get ranges that suit one scale, and the network computes the same.

Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.1. A channel is
divided by ``s`` where it is made and multiplied where it is read, which Relu and pooling between let through. A clip at a bound
(ReLU6) does not: there a channel is equalized only if it stays clear of the bound on calibration data, before and after.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.numpy_helper import from_array, to_array

from accel.compress.repair.weighted_layers import Floats, WeightedLayer, layer_of

CLEAR = 0.9
"""Of a clip's bound: a channel that comes nearer on calibration data is left as it is."""

_LETS_THROUGH = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity", "Dropout")
_ROUNDS = 20
_DONE = 0.01  # where no channel is scaled by more than this share, nothing is left to do


@dataclass(frozen=True)
class Pair:
    """Two layers, the second of which alone reads what the first makes. ``bound``: of the clip between them, None without."""

    first: WeightedLayer
    second: WeightedLayer
    output: str
    bound: float | None


def pairs_of(graph: onnx.GraphProto, ignored: Collection[str] = ()) -> list[Pair]:
    """Those of ``graph`` that can be equalized, in its order."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {output.name for output in graph.output}

    def layer(node: onnx.NodeProto) -> WeightedLayer | None:
        own = [name for name in node.input[1:] if name]
        if not own or node.name in ignored or any(name not in weights or len(readers[name]) > 1 for name in own):
            return None
        return layer_of(node, tuple(weights[own[0]].dims))

    found = []
    for node in graph.node:
        first = layer(node)
        if first is None:
            continue
        value, bound, pooled, flat = node.output[0], None, False, first.convolution is None
        while len(readers.get(value, ())) == 1 and value not in outputs:
            reader = readers[value][0]
            if reader.op_type == "Clip":
                low, high = _limits(reader, weights)
                if low != 0 or high is None:
                    break
                bound = high if bound is None else min(bound, high)
            elif reader.op_type == "Flatten" and pooled and not flat:
                flat = True
            elif reader.op_type not in _LETS_THROUGH or (flat and "Pool" in reader.op_type):  # flat: it pools over channels
                second = layer(reader)
                reads = second is not None and reader.input[0] == value and flat == (second.convolution is None)
                if second is not None and reads and first.groups * first.outputs == _channels(second):
                    found.append(Pair(first, second, node.output[0], bound))
                break
            pooled = pooled or reader.op_type == "GlobalAveragePool"
            value = reader.output[0]
    return found


def equalize_(graph: onnx.GraphProto, pairs: Sequence[Pair], highest: Mapping[str, Floats]) -> tuple[str, ...]:
    """Scale the weights and biases of ``pairs`` in place until their ranges agree, and say what was done.

    ``highest``: for each pair with a bound, its ``output`` to the largest value (channels,) that calibration data give.
    """
    nodes = {node.name: node for node in graph.node}
    places = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    values = {
        name: np.asarray(to_array(graph.initializer[places[name]]), np.float32).copy()
        for pair in pairs
        for layer in (pair.first, pair.second)
        for name in nodes[layer.name].input[1:]
        if name
    }
    total = {pair.output: np.ones(_channels(pair.second), np.float32) for pair in pairs}
    before = [_spread(pair, values, nodes) for pair in pairs]
    for _ in range(_ROUNDS):
        largest = 0.0
        for pair in pairs:
            scales = _scales(pair, values, nodes)
            scales = np.maximum(scales, np.median(scales) * _of_largest_bias(pair, values, nodes))
            if pair.bound is not None:
                now = highest[pair.output] / total[pair.output]
                clear = now < CLEAR * pair.bound
                scales = np.where(clear, np.maximum(scales, now / (CLEAR * pair.bound)), 1.0).astype(np.float32)
            _apply_(pair, scales, values, nodes)
            total[pair.output] *= scales
            largest = max(largest, float(np.abs(np.log(scales)).max(initial=0.0)))
        if largest < _DONE:
            break
    for name, value in values.items():
        graph.initializer[places[name]].CopyFrom(from_array(value, name))
    if not pairs:
        return ("warning: cross_layer_equalization: no layer is read by a single other one through Relu or pooling alone",)
    after = [_spread(pair, values, nodes) for pair in pairs]
    notes = [
        (
            f"cross_layer_equalization: {len(pairs)} pairs of layers; the ranges of one channel differed by up to"
            f" {max(before):.3g}x, now {max(after):.3g}x"
        )
    ]
    held = [pair for pair in pairs if pair.bound is not None and (highest[pair.output] >= CLEAR * pair.bound).any()]
    if held:
        notes.append(
            f"cross_layer_equalization: in {len(held)} of them channels that reach the bound of a clip stay as they were"
        )
    return tuple(notes)


def _limits(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> tuple[float | None, float | None]:
    """Of a Clip whose limits are stored."""
    found: list[float | None] = [None, None]
    for attribute in node.attribute:  # before opset 11
        if attribute.name in ("min", "max"):
            found[attribute.name == "max"] = float(attribute.f)
    for index, name in enumerate(node.input[1:3]):
        if name in weights:
            found[index] = float(to_array(weights[name]).reshape(()))
    return found[0], found[1]


def _channels(layer: WeightedLayer) -> int:
    """How many channels it reads."""
    kernel = 1 if layer.convolution is None else layer.convolution.kernel[0] * layer.convolution.kernel[1]
    return layer.groups * layer.inputs // kernel


Nodes = Mapping[str, onnx.NodeProto]
Values = dict[str, Floats]


def _made(layer: WeightedLayer, values: Values, nodes: Nodes) -> Floats:
    """(channels,): the largest weight that makes each channel."""
    rows = layer.rows(values[nodes[layer.name].input[1]])
    return np.asarray(np.abs(rows).max(axis=-1).reshape(-1), np.float32)


def _by_channel(layer: WeightedLayer, values: Values, nodes: Nodes) -> Floats:
    """(groups, outputs, channels of a group, kernel)"""
    rows: NDArray[Any] = layer.rows(values[nodes[layer.name].input[1]])
    found: Floats = rows.reshape(layer.groups, layer.outputs, _channels(layer) // layer.groups, -1)
    return found


def _read(layer: WeightedLayer, values: Values, nodes: Nodes) -> Floats:
    """(channels,): the largest weight that reads each channel."""
    return np.asarray(np.abs(_by_channel(layer, values, nodes)).max(axis=(1, 3)).reshape(-1), np.float32)


def _scales(pair: Pair, values: Values, nodes: Nodes) -> Floats:
    made, read = _made(pair.first, values, nodes), _read(pair.second, values, nodes)
    alive = (made > 0) & (read > 0)
    return np.sqrt(np.where(alive, made, 1.0) / np.where(alive, read, 1.0)).astype(np.float32)


def _of_largest_bias(pair: Pair, values: Values, nodes: Nodes) -> Floats:
    """(channels,): each bias as a share of the largest; beside the layer's usual scale, what a channel is divided by at least.

    A channel whose weights are nearly zero gives its bias and little else (training switches batch norms off so). The ranges of
    weights alone would have its bias grow a thousand times, and this constant would take all levels of the activation.
    """
    names = [name for name in nodes[pair.first.name].input[2:3] if name]
    sizes = np.abs(values[names[0]]).reshape(-1) if names else np.zeros(1, np.float32)
    largest = float(sizes.max(initial=0.0))
    return np.broadcast_to(sizes / (largest if largest > 0 else 1.0), (_channels(pair.second),))


def _spread(pair: Pair, values: Values, nodes: Nodes) -> float:
    """How many times larger a channel's weights are on one side than on the other, at most, beside the layers' own ratio."""
    logs = 2 * np.log(_scales(pair, values, nodes))
    return float(np.exp(np.abs(logs - np.median(logs)).max(initial=0.0)))


def _apply_(pair: Pair, scales: Floats, values: Values, nodes: Nodes) -> None:
    first, second = nodes[pair.first.name], nodes[pair.second.name]
    shape = values[first.input[1]].shape
    rows = pair.first.rows(values[first.input[1]]) / scales.reshape(pair.first.groups, pair.first.outputs, 1)
    values[first.input[1]] = pair.first.stored(rows, shape)
    if len(first.input) > 2 and first.input[2]:
        values[first.input[2]] = (values[first.input[2]] / scales).astype(np.float32)
    shape = values[second.input[1]].shape
    wide = _by_channel(pair.second, values, nodes) * scales.reshape(pair.second.groups, 1, -1, 1)
    values[second.input[1]] = pair.second.stored(wide, shape)
