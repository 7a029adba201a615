"""What is in an OpenVINO IR: the same facts as ``onnx_graph`` gives for an ONNX file, read from the ``.xml`` alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from accel import ir_file
from accel.onnx_graph import GraphSummary, Macs, Quantization

# Operator to how many leading axes of its weight are not input channels or kernel: [O, I, k...], [groups, O, I, k...].
_CONVOLUTIONS = {"Convolution": 1, "GroupConvolution": 2}
_TRANSPOSED = {"ConvolutionBackpropData": 1, "GroupConvolutionBackpropData": 2}
_WEIGHTED = frozenset({*_CONVOLUTIONS, *_TRANSPOSED, "MatMul"})
_NOT_OPERATORS = frozenset({"Const", "Parameter", "Result"})
_FLOATS = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "f64": "float64"}
_SMALL = frozenset({"i8", "u8", "i4", "u4", "i2", "u2", "nf4", "f8e4m3", "f8e5m2"})
_DECOMPRESSION = frozenset({"Convert", "Subtract", "Multiply", "Reshape", "Transpose", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class _Graph:
    layers: dict[str, Element]
    sources: dict[tuple[str, str], str]  # (layer, input port) to the layer that feeds it

    def behind(self, layer: Element, index: int) -> Element | None:
        ports = layer.findall("input/port")
        if index >= len(ports):
            return None
        source = self.sources.get((layer.get("id", ""), ports[index].get("id", "")))
        return self.layers.get(source) if source is not None else None


def summary(path: Path) -> GraphSummary:
    """Everything about one IR. An axis 0 of unknown size counts as 1; ``opset`` is the IR version."""
    root = ir_file.layers(path)
    graph = _Graph(
        {layer.get("id", ""): layer for layer in root.iterfind("layers/layer")},
        {
            (edge.get("to-layer", ""), edge.get("to-port", "")): edge.get("from-layer", "")
            for edge in root.iterfind("edges/edge")
        },
    )
    layers = list(graph.layers.values())
    operators = Counter(layer.get("type", "") for layer in layers if layer.get("type") not in _NOT_OPERATORS)
    floats: Counter[str] = Counter()
    parameters = 0
    for layer in layers:
        kind, shape = _constant(layer)
        if not shape or (kind not in _FLOATS and kind not in _SMALL):
            continue
        parameters += math.prod(shape)
        if kind in _FLOATS:
            floats[_FLOATS[kind]] += math.prod(shape)
    version = root.find("rt_info/info[@name='OpenVINO Runtime']")
    if version is None:
        version = root.find("rt_info/Runtime_version")
    return GraphSummary(
        parameters=parameters,
        macs=_macs(layers),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        quantization=_quantization(graph, layers),
        float_dtypes=dict(floats),
        opset=int(root.get("version", "0")),
        ir_version=int(root.get("version", "0")),
        producer=f"OpenVINO {version.get('value', '') if version is not None else ''}".strip(),
    )


def _constant(layer: Element) -> tuple[str, tuple[int, ...]]:
    data = layer.find("data")
    if layer.get("type") != "Const" or data is None:
        return "", ()
    return data.get("element_type", ""), tuple(int(size) for size in data.get("shape", "").split(",") if size.strip())


def _dims(port: Element | None) -> list[int] | None:
    """The sizes, an unknown axis 0 as 1; None if another axis is unknown."""
    if port is None:
        return None
    sizes = [int(dim.text or "-1") for dim in port.iterfind("dim")]
    sizes = [1 if index == 0 and size < 0 else size for index, size in enumerate(sizes)]
    return None if any(size < 0 for size in sizes) else sizes


def _macs(layers: list[Element]) -> Macs:
    by_node: dict[str, int] = {}
    unknown = []
    for layer in layers:
        kind = layer.get("type", "")
        if kind not in _WEIGHTED:
            continue
        ports = layer.findall("input/port")
        source, weight = (_dims(port) for port in ports[:2])
        result = _dims(layer.find("output/port"))
        name = layer.get("name", "")
        if source is None or weight is None or result is None:
            unknown.append(name)
        elif kind in _CONVOLUTIONS:
            by_node[name] = math.prod(result) * math.prod(weight[_CONVOLUTIONS[kind] :])
        elif kind in _TRANSPOSED:
            by_node[name] = math.prod(source) * math.prod(weight[_TRANSPOSED[kind] :])
        else:
            data = layer.find("data")
            transposed = data is not None and data.get("transpose_a") == "true" and len(source) > 1
            by_node[name] = math.prod(result) * source[-2 if transposed else -1]
    return Macs(by_node, tuple(unknown))


def _quantization(graph: _Graph, layers: list[Element]) -> Quantization:
    weighted = [layer for layer in layers if layer.get("type") in _WEIGHTED]
    floating: list[str] = []
    kinds: set[str] = set()
    quantized = weight_only = 0
    for layer in weighted:
        kind = _weight_kind(graph, layer)
        if kind is not None:
            kinds.add(kind)
        if kind is not None and _is_fake_quantized(graph, layer):
            quantized += 1
        elif kind is not None:
            weight_only += 1
        else:
            floating.append(layer.get("name", ""))
    names = {"i8": "int8", "u8": "uint8", "i4": "int4", "u4": "uint4"}
    return Quantization(
        weighted=len(weighted),
        quantized=quantized,
        weight_only=weight_only,
        floating=tuple(floating),
        activation_dtypes=("uint8 or int8",) if quantized else (),
        weight_dtypes=tuple(sorted(names.get(kind, kind) for kind in kinds)),
        activations_symmetric=None,  # an IR has ranges here, not zero points
        weights_symmetric=None,
        per_channel=None,
    )


def _weight_kind(graph: _Graph, layer: Element) -> str | None:
    """Element type of an integer constant behind input 1, or of its FakeQuantize; None for float weights."""
    found = graph.behind(layer, 1)
    while found is not None and found.get("type") in _DECOMPRESSION:
        found = graph.behind(found, 0)
    if found is None:
        return None
    if found.get("type") == "FakeQuantize":
        return "i8"
    kind = _constant(found)[0]
    return kind if kind in _SMALL else None


def _is_fake_quantized(graph: _Graph, layer: Element) -> bool:
    found = graph.behind(layer, 0)
    while found is not None and found.get("type") in _DECOMPRESSION:
        found = graph.behind(found, 0)
    return found is not None and found.get("type") == "FakeQuantize"
