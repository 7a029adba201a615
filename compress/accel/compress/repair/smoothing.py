"""SmoothQuant: what is large in a few channels of an activation is moved into the weights that read it.

Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", ICML 2023. The network
computes the same. A normalization that only such layers read takes the division into its own weights; anywhere else a
multiplication is put in, which stays in floating point and reads the value before it is rounded. So do normalizations: ONNX
Runtime's quantizer would round their weights with one scale for all, which the large channels take, and has no INT8 kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx.numpy_helper import from_array, to_array

from accel.compress.onnx_writing import unique
from accel.compress.quantized_graph import read_by
from accel.compress.repair.weighted_layers import Floats, layer_of

NORMALIZATIONS = ("LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization", "RMSNormalization")
_LEAST = 1e-5


def readers_of(graph: onnx.GraphProto, ignored: Collection[str] = ()) -> dict[str, list[onnx.NodeProto]]:
    """Each activation to the linear layers with a stored matrix of their own that read it."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    used = Counter(name for node in graph.node for name in read_by(node))
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        own = len(node.input) > 1 and node.input[1] in weights and used[node.input[1]] == 1 and node.name not in ignored
        layer = layer_of(node, tuple(weights[node.input[1]].dims)) if own else None
        if layer is not None and layer.convolution is None and node.input[0] not in weights:
            found.setdefault(node.input[0], []).append(node)
    return found


def smooth_(
    graph: onnx.GraphProto, readers: Mapping[str, Sequence[onnx.NodeProto]], highest: Mapping[str, Floats], alpha: float
) -> tuple[frozenset[str], tuple[str, ...]]:
    """Smooth each activation of ``readers`` in place. Gives the names of the nodes that must stay in float32, and notes.

    ``highest``: activation to the largest magnitude of each channel (width,) on calibration data.
    """
    places = {tensor.name: index for index, tensor in enumerate(graph.initializer)}
    used = Counter(name for node in graph.node for name in read_by(node))
    used.update(output.name for output in graph.output)
    makers = {value: node for node in graph.node for value in node.output}
    names = {node.name for node in graph.node}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(places)
    added: set[str] = set()
    before, after = [1.0], [1.0]

    def stored(name: str) -> Floats:
        return np.asarray(to_array(graph.initializer[places[name]]), np.float32)

    def put(name: str, value: Floats) -> None:
        graph.initializer[places[name]].CopyFrom(from_array(value.astype(np.float32), name))

    for value, nodes in readers.items():
        layers = [layer_of(node, tuple(graph.initializer[places[node.input[1]]].dims)) for node in nodes]
        rows = [layer.rows(stored(node.input[1])) for layer, node in zip(layers, nodes, strict=True) if layer is not None]
        largest = np.max([np.abs(each).max(axis=(0, 1)) for each in rows], axis=0)
        reach = highest[value]
        alive = (reach > _LEAST) & (largest > _LEAST)
        ratio = np.where(alive, reach, 1.0) ** alpha / np.where(alive, largest, 1.0) ** (1 - alpha)
        scales = np.where(alive, ratio, 1.0).astype(np.float32)
        for layer, node, each in zip(layers, nodes, rows, strict=True):
            assert layer is not None
            put(node.input[1], layer.stored(each * scales, tuple(graph.initializer[places[node.input[1]]].dims)))
        before.append(_spread(reach[alive]))
        after.append(_spread((reach / scales)[alive]))
        maker = makers.get(value)
        weights = list(maker.input[1:]) if maker is not None and maker.op_type == "LayerNormalization" else []
        if weights and used[value] == len(nodes) and all(name in places and used[name] == 1 for name in weights):
            for name in weights:
                put(name, stored(name) / scales)
            continue
        factor, smoothed = unique(f"{value}_smoothing", taken), unique(f"{value}_smoothed", taken)
        taken |= {factor, smoothed}
        graph.initializer.append(from_array((1 / scales).astype(np.float32), factor))
        places[factor] = len(graph.initializer) - 1
        name = unique(f"{nodes[0].name}/smooth", names)
        names.add(name)
        added.add(name)
        graph.node.append(onnx.helper.make_node("Mul", [value, factor], [smoothed], name=name))
        for node in nodes:
            node.input[0] = smoothed
    if not readers:
        return frozenset(), ("warning: smooth_quant: there is no linear layer with a stored matrix",)
    floating = {node.name for node in graph.node if node.op_type in NORMALIZATIONS}
    told = (
        f"smooth_quant: {len(readers)} activations smoothed, {len(added)} of them by a multiplication; the largest channel was"
        f" up to {max(before):.3g}x the median, now {max(after):.3g}x"
    )
    return frozenset(added | floating), (told,)


def read_unrounded_(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Have the nodes ``names`` read values before their Q/DQ pairs, in place, and drop the pairs that nothing reads then."""
    graph = model.graph
    makers = {value: node for node in graph.node for value in node.output}
    for node in graph.node:
        last = makers.get(node.input[0]) if node.name in names else None
        first = makers.get(last.input[0]) if last is not None and last.op_type == "DequantizeLinear" else None
        if first is not None and first.op_type == "QuantizeLinear":
            node.input[0] = first.input[0]
    outputs = {output.name for output in graph.output}
    while True:
        read = {value for node in graph.node for value in read_by(node)} | outputs
        kept = [node for node in graph.node if read & set(node.output)]
        if len(kept) == len(graph.node):
            return
        del graph.node[:]
        graph.node.extend(kept)


def _spread(ranges: Floats) -> float:
    return float(ranges.max() / np.median(ranges)) if ranges.size else 1.0
