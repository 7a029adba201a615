"""Which types a strongly typed TensorRT network has, read before the build and held against what was asked.

In such a network the types are the graph's: Q/DQ pairs and casts. The builder may not change them, so this is the promise; what
a GPU then runs is told by the engine inspector (``profile``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.accelerate.engines.names import few, nodes_in
from accel.accelerate.engines.reach import reached
from accel.engine_file import TypedLayers
from accel.errors import BackendFault
from accel.model import Target

HEAVY = {"CONVOLUTION": "Conv", "DECONVOLUTION": "ConvTranspose", "MATRIX_MULTIPLY": "MatMul"}
"""Layers whose work is multiply-adds, to the ONNX operator they are called by; MatMul stands for Gemm too."""

_TYPES = {"FLOAT": "fp32", "HALF": "fp16", "BF16": "bf16", "FP8": "fp8", "FP4": "fp4"}
_FLOATS = ("fp32", "fp16", "bf16")
# What keeps the values and changes only their place or float type: Q/DQ is seen through it, as in accel.onnx_graph.
_THROUGH = frozenset({"SHUFFLE", "IDENTITY", "CAST", "SLICE", "GATHER", "SQUEEZE", "UNSQUEEZE"})


@dataclass(frozen=True)
class TypedLayer:
    """One layer. ``kind``: TensorRT's word (``CONVOLUTION``); ``nodes``: of the ONNX file; types: ``fp32``, ``int8``."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class TypedOperator:
    """A layer of multiply-adds, called by its ONNX node.

    ``data`` and ``weights``: the type behind the dequantization that feeds it (``int8``, ``fp8``), else its own float type.
    ``computes``: the float type of what it gives.
    """

    name: str
    kind: str
    data: str
    weights: str
    computes: str

    @property
    def quantized(self) -> bool:
        """Both sides come from Q/DQ."""
        return self.data not in _FLOATS and self.weights not in _FLOATS

    @property
    def weight_only(self) -> bool:
        """The weights alone do."""
        return self.data in _FLOATS and self.weights not in _FLOATS


@dataclass(frozen=True)
class TypedNetwork:
    """Every layer, the operators among them, and the float operators that lie between quantized ones (``islands``)."""

    layers: tuple[TypedLayer, ...]
    operators: tuple[TypedOperator, ...]
    islands: tuple[str, ...]

    @property
    def quantized(self) -> tuple[TypedOperator, ...]:
        """Operators with Q/DQ on data and weights."""
        return tuple(each for each in self.operators if each.quantized)

    @property
    def floats(self) -> Mapping[str, int]:
        """Of the other operators, float type to number."""
        return dict(sorted(Counter(each.computes for each in self.operators if not each.quantized).items()))

    def summary(self, quantized_operators: int) -> TypedLayers:
        """For the manifest; ``quantized_operators``: as many as the ONNX file has."""
        kinds = Counter(each.data for each in self.quantized)
        return TypedLayers(
            quantized_operators=quantized_operators,
            int8_typed=kinds["int8"],
            fp8_typed=kinds["fp8"],
            float_types=dict(self.floats),
            operators={each.name: each.data if each.quantized else each.computes for each in self.operators},
        )


def typed_network(network: Any) -> TypedNetwork:
    """Read an ``INetworkDefinition`` of either library, parsed with strong typing.

    Where several layers come from one node, or from nodes of one name, all but the first go by the name of the layer.
    """
    graph = _Graph([network.get_layer(index) for index in range(network.num_layers)])
    operators: dict[str, TypedOperator] = {}
    quantized: list[int] = []
    floating: dict[int, str] = {}
    for index, layer in enumerate(graph.layers):
        if layer.kind not in HEAVY:
            continue
        node = next(iter(layer.nodes), layer.name)
        operator = _operator(graph, index, layer.name if node in operators else node)
        operators[operator.name] = operator
        if operator.quantized:
            quantized.append(index)
        else:
            floating[index] = operator.name
    between = reached(quantized, graph.readers) & reached(quantized, graph.makers)
    islands = tuple(dict.fromkeys(name for index, name in floating.items() if index in between))
    return TypedNetwork(tuple(graph.layers), tuple(operators.values()), islands)


def held_against(typed: TypedNetwork, path: Path, target: Target) -> tuple[str, ...]:
    """Notes on the types, for the report.

    Raises BackendFault where the network has fewer quantized operators than the ONNX file at ``path``, or nothing in the float
    type that ``target`` asks for.
    """
    from accel.onnx_file import parse
    from accel.onnx_graph import quantization

    asked = quantization(parse(path))
    if len(typed.quantized) < asked.quantized:
        known = {*asked.floating, *(f"node_of_{name}" for name in asked.floating)}  # as the parser calls unnamed ones
        lost = [each.name for each in typed.operators if not each.quantized and each.name not in known]
        raise BackendFault(
            f"{path.name}: {asked.quantized} operators have Q/DQ on data and weights, and in TensorRT's network only"
            f" {len(typed.quantized)}; lost: {few(lost) or 'unknown'}. Put QuantizeLinear and DequantizeLinear directly before"
            " both inputs of each, symmetric and signed: quantize for the target tensorrt"
        )
    _require_float_type(typed, path, target)
    return tuple(_notes(typed, target))


def _require_float_type(typed: TypedNetwork, path: Path, target: Target) -> None:
    wanted = target.precision
    if wanted not in _FLOATS or wanted == "fp32":
        return
    found = {each.computes for each in typed.operators}
    if not typed.operators:  # nothing to multiply: any layer that computes
        found = {kind for layer in typed.layers if layer.kind != "CONSTANT" for kind in layer.outputs if kind in _FLOATS}
    if found and wanted not in found:
        raise BackendFault(
            f"target {target.name}: precision {wanted} was asked for, and {path.name} is wholly in {', '.join(sorted(found))}."
            f" TensorRT takes the types from the graph: put `- type: cast, dtype: {wanted}` into the passes"
        )


def _notes(typed: TypedNetwork, target: Target) -> Iterable[str]:
    kinds = Counter((HEAVY[each.kind], each.data) for each in typed.quantized)
    parts = [f"{count} {kind} in {data}" for (kind, data), count in sorted(kinds.items())]
    weights = Counter(each.weights for each in typed.operators if each.weight_only)
    parts += [f"{count} with weights alone in {kind}" for kind, count in sorted(weights.items())]
    parts += [f"{count} in {kind}" for kind, count in typed.floats.items()]
    if parts:
        yield f"types of the network's operators: {', '.join(parts)}"
    others = [each for each in typed.operators if each.computes != target.precision]
    if others:
        found = ", ".join(sorted({each.computes for each in others}))
        yield (
            f"the target says {target.precision}; by the graph {len(others)} of {len(typed.operators)} operators compute or"
            f" give {found}: {few([each.name for each in others])}"
        )
    if typed.islands:
        yield (
            f"in float between quantized operators: {few(typed.islands)}; each costs a conversion on both sides:"
            " quantize them too, or leave their neighbours in float"
        )


class _Graph:
    """The layers of a network and which feeds which, by the names of the tensors between them."""

    def __init__(self, found: Sequence[Any]) -> None:
        self.layers: list[TypedLayer] = []
        self.sources: list[tuple[str, ...]] = []
        self.by_tensor: dict[str, int] = {}
        self.makers: list[list[int]] = []
        self.readers: list[list[int]] = [[] for _ in found]
        for index, layer in enumerate(found):
            inputs = [layer.get_input(k) for k in range(layer.num_inputs)]
            outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
            read = [tensor for tensor in inputs if tensor is not None]
            made = [tensor for tensor in outputs if tensor is not None]
            types = tuple(_type(tensor.dtype) for tensor in read), tuple(_type(tensor.dtype) for tensor in made)
            kind = str(layer.type).rpartition(".")[2]
            self.layers.append(TypedLayer(str(layer.name), kind, nodes_in(str(layer.metadata or "")), *types))
            self.sources.append(tuple(str(tensor.name) for tensor in read))
            self.by_tensor |= {str(tensor.name): index for tensor in made}
        for index, names in enumerate(self.sources):
            feeding = [self.by_tensor[name] for name in names if name in self.by_tensor]
            self.makers.append(feeding)
            for maker in feeding:
                self.readers[maker].append(index)

    def behind(self, index: int, side: int) -> str | None:
        """The type that input ``side`` of a layer was dequantized from; None where it was not."""
        names = self.sources[index]
        place = self.by_tensor.get(names[side]) if side < len(names) else None
        seen: set[int] = set()
        while place is not None and place not in seen and self.layers[place].kind in _THROUGH:
            seen.add(place)
            first = self.sources[place][0] if self.sources[place] else ""
            place = self.by_tensor.get(first)
        if place is None or self.layers[place].kind != "DEQUANTIZE":
            return None
        return self.layers[place].inputs[0]


def _operator(graph: _Graph, index: int, name: str) -> TypedOperator:
    layer = graph.layers[index]
    own = layer.outputs[0] if layer.outputs else "fp32"
    data, weights = (graph.behind(index, side) or own for side in (0, 1))
    return TypedOperator(name, layer.kind, data, weights, own)


def _type(dtype: Any) -> str:
    name = str(dtype).rpartition(".")[2]
    return _TYPES.get(name, name.lower())
