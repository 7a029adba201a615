"""Where a network is quantized: which values get a scale, which of them share one, and which weights.

No torchao here: the result is a plan over the nodes of a graph, which ``pt2e.py`` hands to torchao. A *value* is the output
of a node. All rules are about values, as in ONNX Runtime's static quantizer: who reads a quantized value reads it quantized.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.fx import Graph, Node

from accel.compress.qat.pt2e_graph import (
    CONVOLUTIONS,
    TRANSPOSED,
    batch_norm_after,
    channel_axis,
    groups_of_transposed,
    module_path,
    operator_of,
)
from accel.contracts import QuantizationProfile

LAYERS = {*CONVOLUTIONS, *TRANSPOSED, "aten.linear"}
"""Operators with a weight of their own: ``(x, weight, bias)``."""
FLOATING = {
    "aten.lstm",
    "aten.gru",
    "aten.rnn_tanh",
    "aten.rnn_relu",
    "aten.einsum",
    "aten.bilinear",
    "aten.addmm",
    "aten.baddbmm",
    "aten.scaled_dot_product_attention",
    "aten.embedding_bag",
}
"""They multiply, but are left in floating point, each with a note."""
PRODUCTS = {"aten.matmul", "aten.bmm"}
JOINTS = {"aten.add", "aten.mul"}
"""Elementwise operators with an INT8 version, run in INT8 where a multiplication in INT8 follows."""
NORMS = {"aten.layer_norm", "aten.rms_norm", "aten.group_norm", "aten.instance_norm"}
"""Sums that one of these reads, as in the residual stream of a transformer, stay in floating point, with all that they are
summed up from: the norm computes in it anyway, and the stream's few large channels leave 256 levels little for the others."""
CLIPS = {"aten.relu", "aten.relu6", "aten.hardtanh", "aten.clamp"}
"""The scale and zero point behind them say the same, so that runtimes drop them: quantize after, not before."""
SHAPES = {
    "aten.flatten",
    "aten.view",
    "aten.reshape",
    "aten.unflatten",
    "aten.transpose",
    "aten.permute",
    "aten.squeeze",
    "aten.unsqueeze",
    "aten.slice",
    "aten.select",
    "aten.contiguous",
    "aten.dropout",
    "aten.max_pool1d",
    "aten.max_pool2d",
    "aten.max_pool3d",
    "aten.upsample_nearest2d",
    "aten.pixel_shuffle",
    "aten.channel_shuffle",
    "aten.constant_pad_nd",
    "aten.pad",
}
"""They move values or pick some: the output lies on the input's grid and shares it."""
SPLITS = {"aten.chunk", "aten.split", "aten.split_with_sizes", "aten.unbind"}
AVERAGES = {
    "aten.avg_pool1d",
    "aten.avg_pool2d",
    "aten.adaptive_avg_pool1d",
    "aten.adaptive_avg_pool2d",
    "aten.mean",
    "aten.upsample_bilinear2d",
}
"""Quantized in and out; the output is narrower than the input and gets a grid of its own."""
CONCAT = "aten.cat"
"""Its inputs keep grids of their own: a shared one may reach below 0, and then no ReLU before it could be fused."""


@dataclass(frozen=True)
class Weight:
    """``layer`` reads ``source``; each slice along ``axis`` has a scale, or None: one scale for all."""

    layer: Node
    source: Node
    axis: int | None


@dataclass
class Plan:
    """``shared``: quantized value to the value, itself or an earlier one, whose scale it takes."""

    shared: dict[Node, Node] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    products: int = 0


def plan(graph: Graph, profile: QuantizationProfile, ignored: Callable[[str], bool]) -> Plan:
    """What to quantize in the dialect ``profile``. ``ignored``: whether the module at a path stays in floating point."""
    return _Planner(graph, profile, ignored).run()


class _Planner:
    def __init__(self, graph: Graph, profile: QuantizationProfile, ignored: Callable[[str], bool]) -> None:
        self.graph = graph
        self.profile = profile
        self.ignored = ignored
        self.everywhere = not (profile.activation == "int8" and profile.activation_symmetric)
        self.weighted: dict[Node, list[Node]] = {}
        self.leading: dict[Node, bool] = {}
        self.streams = _Groups()
        self.normed: set[Node] = set()
        self.result = Plan()

    def run(self) -> Plan:
        for node in self.graph.nodes:
            self._weigh(node)
        self._find_streams()
        joined = [node for node in self.graph.nodes if self._joined(node)]
        quantized = {value for values in self.weighted.values() for value in values}
        quantized |= {value for node in joined for value in self._operands(node)}
        groups = _Groups()
        for node in self.graph.nodes:
            if self.everywhere:
                self._follow(node, quantized, groups, set(joined))
        for node in self.graph.nodes:
            if node in quantized:
                self.result.shared[node] = groups.first(node)
        return self.result

    def _weigh(self, node: Node) -> None:
        """Note what ``node`` multiplies, if it can do that in INT8; else why not."""
        kind = operator_of(node)
        path = module_path(node)
        where = f"{path or node.name} ({kind.removeprefix('aten.')})"
        if kind in FLOATING:
            self.result.left.append(f"{where} kept in floating point: this pass has no INT8 form of it")
        if kind not in LAYERS | PRODUCTS:
            return
        if self.ignored(path):
            self.result.left.append(f"{where} kept in floating point: in ignored_scope")
        elif kind in LAYERS:
            source, value = node.args[1], node.args[0]
            assert isinstance(source, Node) and isinstance(value, Node)
            if source.op != "get_attr":
                self.result.left.append(f"{where} kept in floating point: its weight is computed")
            elif kind in TRANSPOSED and groups_of_transposed(node) != 1:
                self.result.left.append(f"{where} kept in floating point: a transposed convolution with groups")
            else:
                self._add_weight(node, source)
                self.weighted[node] = [value]
        else:
            operands = [value for value in node.args[:2] if isinstance(value, Node)]
            if operands[1].op == "get_attr" and operands[1].meta["val"].dim() == 2:
                self._add_weight(node, operands.pop())
            if all(_is_float(value) for value in operands):
                self.weighted[node] = operands
                self.result.products += 1

    def _add_weight(self, node: Node, source: Node) -> None:
        axis = channel_axis(node) if self.profile.weight_granularity == "per_channel" else None
        self.result.weights.append(Weight(node, source, axis))

    def _find_streams(self) -> None:
        """Group the sums that are added to each other, and note the groups that a norm reads."""
        sums = [node for node in self.graph.nodes if operator_of(node) == "aten.add"]
        for node in sums:
            for value in map(_moved_from, self._operands(node)):
                if operator_of(value) == "aten.add":
                    self.streams.join(node, value)
        read = {_moved_from(node.args[0]) for node in self.graph.nodes if operator_of(node) in NORMS}
        self.normed = {self.streams.first(node) for node in sums if node in read}

    def _joined(self, node: Node) -> bool:
        """Whether ``node`` adds, multiplies or concatenates in INT8."""
        kind = operator_of(node)
        if kind == "aten.add" and not self.profile.quantize_residual_add:
            return False
        if kind != "aten.add" and not self.everywhere:
            return False
        if (kind not in JOINTS and kind != CONCAT) or self.streams.first(node) in self.normed:
            return False
        operands = self._operands(node)
        scaled = kind == "aten.mul" and any(value.op == "get_attr" for value in operands)
        enough = len(operands) >= 2 and all(map(_is_float, operands)) and not scaled
        return enough and self._leads(node) and not self.ignored(module_path(node))

    def _operands(self, node: Node) -> list[Node]:
        given = node.args[0] if operator_of(node) == CONCAT else node.args[:2]
        return [value for value in given if isinstance(value, Node)] if isinstance(given, (list, tuple)) else []

    def _leads(self, node: Node) -> bool:
        """Whether a multiplication in INT8 reads this value, through operators that stay in INT8."""
        if node not in self.leading:
            self.leading[node] = False
            self.leading[node] = any(self._takes(user, node) for user in node.users)
        return self.leading[node]

    def _takes(self, user: Node, node: Node) -> bool:
        if user in self.weighted:
            return node in self.weighted[user]
        through = {*JOINTS, *CLIPS, *SHAPES, *SPLITS, *AVERAGES, CONCAT, "aten.batch_norm"}
        return (operator_of(user) in through or user.target is operator.getitem) and self._leads(user)

    def _follow(self, node: Node, quantized: set[Node], groups: _Groups, joined: set[Node]) -> None:
        """Decide about the output of ``node``, whose inputs are decided: graphs are in order of execution."""
        kind = operator_of(node)
        if node in self.weighted or node in joined:
            end = _end_of(node)
            # ONNX Runtime has no INT8 convolution with a float output, but a Gemm and a MatMul with one.
            if kind in CONVOLUTIONS or kind in TRANSPOSED or self._leads(end):
                quantized.add(end)
            return
        source = node.args[0] if node.args and isinstance(node.args[0], Node) else None
        if source is not None and node.target is operator.getitem and operator_of(source) in SPLITS:
            source = source.args[0] if isinstance(source.args[0], Node) else None
        elif kind not in SHAPES | AVERAGES:
            return
        if source in quantized and source is not None and _is_float(node) and self._leads(node):
            quantized.add(node)
            if kind not in AVERAGES:
                groups.join(node, source)


def _end_of(node: Node) -> Node:
    """The value to quantize after ``node``: behind its batch norm and clip, where nothing else reads what is between."""
    end = batch_norm_after(node) if operator_of(node) in LAYERS else None
    end = end or node
    if len(end.users) == 1:
        user = next(iter(end.users))
        if operator_of(user) in CLIPS and user.args[0] is end:
            return user
    return end


def _moved_from(node: Node) -> Node:
    """The value that ``node`` only clips, moves or picks from."""
    while operator_of(node) in CLIPS | SHAPES and isinstance(node.args[0], Node):
        node = node.args[0]
    return node


def _is_float(node: Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and value.dtype is torch.float32


class _Groups:
    """Values that share a scale; each group is called after its first member in order of joining."""

    def __init__(self) -> None:
        self._parents: dict[Node, Node] = {}

    def first(self, node: Node) -> Node:
        while node in self._parents:
            node = self._parents[node]
        return node

    def join(self, one: Node, other: Node) -> None:
        roots = {self.first(one), self.first(other)}
        if len(roots) == 2:
            early = min(roots)  # nodes compare by their place in the graph
            self._parents[(roots - {early}).pop()] = early
