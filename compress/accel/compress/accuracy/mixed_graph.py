"""A quantized file of which some layers stay in floating point, made of the float graph and of what the quantizer wrote.

Reading a rounded value is what harms a layer, so a layer owns the Q/DQ pairs of its inputs and the quantized form of its
weights and bias, not the pair of its output, which belongs to those that read it. A layer in floating point reads what the
float graph has it read: the tensor before its pair, its own float weights. (``nodes_to_exclude`` of onnxruntime.quantization
is weaker: such a node reads the rounded tensor all the same where a neighbour is quantized.)

A candidate is the float graph with the pairs put in for the layers that are in INT8: so a node that the quantizer took away,
because rounding does its work (a Relu before an unsigned pair), is there again wherever its reader is not rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx
from onnx.numpy_helper import to_array

from accel.compress.accuracy.transplant import Transplant, absorb_, makers
from accel.compress.quantized_graph import WEIGHTED, sort_nodes_, tidy_
from accel.errors import PassFault

ABSORBED = ("Relu", "Clip")
"""What a quantizer may take away: an unsigned pair clips by itself."""

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")
_QDQ = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Layer:
    """A node that can be in INT8 or not: one with weights, or with several activations as inputs (an Add of two branches)."""

    name: str
    type: str


class MixedGraph:
    """``source`` and ``quantized`` are the same network before and after a quantizer; neither is changed.

    Raises PassFault where the quantizer did more than put Q/DQ in and take Relu or Clip out: what it changed in the float
    network (SmoothQuant's scales) is not known here.
    """

    def __init__(self, source: onnx.ModelProto, quantized: onnx.ModelProto) -> None:
        self._source = source
        self._quantized = quantized
        self._makers = makers(quantized.graph)
        self._weights = {weight.name: weight for weight in quantized.graph.initializer}
        self._source_weights = {weight.name: weight for weight in source.graph.initializer}
        self._source_makers = makers(source.graph)
        twins = {node.name: node for node in quantized.graph.node if node.op_type not in _QDQ}
        self._require_same_nodes(twins)
        self._absorbed = [node.name for node in source.graph.node if node.op_type in ABSORBED and node.name not in twins]
        self._pairs: dict[str, dict[int, list[onnx.NodeProto]]] = {}
        """Node to input to the Q/DQ nodes that it is read through."""
        self._constants: dict[str, dict[int, list[onnx.NodeProto] | str]] = {}
        """Node to input to the nodes that make its weights, or to a constant that replaces the float graph's."""
        for node in source.graph.node:
            if node.name in twins:
                self._compare(node, twins[node.name])
        self._outputs = self._output_pairs()
        self._above = self._layers_above()
        self.layers = tuple(Layer(node.name, node.op_type) for node in source.graph.node if node.name in self._above)

    def quantizes(self, kept: Collection[str]) -> bool:
        """Whether any node with weights is in INT8 when the layers ``kept`` are not: else nothing was gained."""
        return any(
            layer.type in WEIGHTED and layer.name not in kept and self._has_quantized_weights(layer.name)
            for layer in self.layers
        )

    def with_float(self, kept: Collection[str]) -> onnx.ModelProto:
        """The network with the layers ``kept`` in floating point, and what leads to them from the layers before."""
        floating = set(kept).union(*(self._above[name] for name in kept))
        model = onnx.ModelProto()
        model.CopyFrom(self._source)
        made = Transplant(model, self._weights)
        for value, (maker, chain) in self._outputs.items():
            if maker not in floating:
                made.behind_(value, chain)
        for node in model.graph.node:
            if node.name in floating:
                continue
            for index, chain in self._pairs.get(node.name, {}).items():
                node.input[index] = made.copied(chain, node.input[index])
            for index, constant in self._constants.get(node.name, {}).items():
                node.input[index] = made.weight(constant) if isinstance(constant, str) else made.copied(constant)
        made.finish_()
        absorb_(model, self._absorbed)
        sort_nodes_(model)
        tidy_(model, self._source)
        return model

    # -- what the quantizer did -----------------------------------------------------------------------------------------

    def _require_same_nodes(self, twins: Mapping[str, onnx.NodeProto]) -> None:
        known = {node.name: node for node in self._source.graph.node}
        for name, node in twins.items():
            if node.op_type == "Constant":
                continue
            mine = known.get(name)
            if mine is None or mine.op_type != node.op_type or len(mine.input) != len(node.input):
                raise PassFault(
                    f"accuracy_control: the quantizer changed the network itself (node {name!r}, {node.op_type}), so that"
                    " single layers cannot be put back; switch off what does that, or leave accuracy_control out"
                )
        for name, node in known.items():
            if name not in twins and node.op_type not in (*ABSORBED, "Constant"):
                raise PassFault(
                    f"accuracy_control: the quantizer took the node {name!r} ({node.op_type}) away, so that single layers"
                    " cannot be put back; leave accuracy_control out"
                )
        versions = [
            {entry.domain: entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")}
            for model in (self._source, self._quantized)
        ]
        if versions[0] != versions[1]:
            raise PassFault(
                f"accuracy_control: the quantizer changed the opset ({versions[0]} to {versions[1]}); export the model with"
                " that one"
            )

    def _compare(self, node: onnx.NodeProto, twin: onnx.NodeProto) -> None:
        for index, (mine, theirs) in enumerate(zip(node.input, twin.input, strict=True)):
            chain = self._chain(theirs)
            if chain:
                start = chain[0].input[0] if chain[0].input else ""
                constant = chain[0].op_type == "Constant" or start in self._weights
                if constant:
                    self._constants.setdefault(node.name, {})[index] = chain
                else:
                    self._pairs.setdefault(node.name, {})[index] = chain
            elif self._replaced(mine, theirs):
                self._constants.setdefault(node.name, {})[index] = theirs

    def _replaced(self, mine: str, theirs: str) -> bool:
        """Whether a stored tensor has other values now: a bias that the quantizer corrected."""
        if theirs not in self._weights or mine not in self._source_weights:
            return False
        return bool(to_array(self._weights[theirs]).tobytes() != to_array(self._source_weights[mine]).tobytes())

    def _chain(self, value: str) -> list[onnx.NodeProto]:
        """The Q/DQ nodes that make ``value`` of a float tensor or a stored one, in order; empty where none does."""
        chain: list[onnx.NodeProto] = []
        while (maker := self._makers.get(value)) is not None and (
            maker.op_type in _QDQ or (chain and maker.op_type == "Constant")
        ):
            chain.insert(0, maker)
            if not maker.input:
                break
            value = maker.input[0]
        return chain

    def _output_pairs(self) -> dict[str, tuple[str, list[onnx.NodeProto]]]:
        """Graph output to the node that makes it and the Q/DQ behind that."""
        found = {}
        for output in self._source.graph.output:
            chain, maker = self._chain(output.name), self._source_makers.get(output.name)
            if chain and maker is not None:
                found[output.name] = (maker.name, chain)
        return found

    # -- layers ---------------------------------------------------------------------------------------------------------

    def _layers_above(self) -> dict[str, frozenset[str]]:
        """Each layer to the nodes between it and the layers before it: pooling, reshaping, activations. They go with it.

        A node that is read through Q/DQ and leads to no layer is one itself.
        """
        quantized = [node for node in self._source.graph.node if node.name in self._pairs or node.name in self._constants]
        layers = [node for node in quantized if self._is_layer(node)]
        barriers = {node.name for node in layers} | {node.name for node in self._source.graph.node if node.op_type in WEIGHTED}
        above = {node.name: self._between(node, barriers) for node in layers}
        covered = set(above).union(*above.values())
        above |= {node.name: frozenset() for node in quantized if node.name not in covered}
        return above

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        if node.op_type in WEIGHTED or len(self._activations(node)) > 1:
            return True
        return node.op_type not in _ARITHMETIC and self._has_quantized_weights(node.name)

    def _has_quantized_weights(self, name: str) -> bool:
        return any(not isinstance(constant, str) for constant in self._constants.get(name, {}).values())

    def _activations(self, node: onnx.NodeProto) -> list[str]:
        return [value for value in node.input if value and not self._is_constant(value)]

    def _is_constant(self, value: str) -> bool:
        maker = self._source_makers.get(value)
        return value in self._source_weights or (maker is not None and maker.op_type == "Constant")

    def _between(self, layer: onnx.NodeProto, barriers: Collection[str]) -> frozenset[str]:
        found: set[str] = set()
        pending = list(self._activations(layer))
        while pending:
            maker = self._source_makers.get(pending.pop())
            if maker is not None and maker.name not in barriers and maker.name not in found:
                found.add(maker.name)
                pending += self._activations(maker)
        return frozenset(found)
