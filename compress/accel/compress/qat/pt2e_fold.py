"""Batch norms folded into the layers before them, in a graph with fake quantizers or without."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from accel.compress.qat.pt2e_annotation import LAYERS
from accel.compress.qat.pt2e_graph import attribute, batch_norm_after, channel_axis, operator_of, set_attribute_


def fold_batch_norms_(graph: GraphModule) -> None:
    """Fold each batch norm that follows a convolution or linear layer into it, in place, with its running statistics.

    The scales of a fake-quantized weight take the size of the factors, so that its integers stay, up to their sign. A weight or
    bias that another layer reads too is copied first.
    """
    for layer in list(graph.graph.nodes):
        norm = batch_norm_after(layer) if operator_of(layer) in LAYERS else None
        if norm is None:
            continue
        reading = layer.args[1]
        source = reading.args[0] if reading.op == "call_module" else reading
        if source.op != "get_attr":
            continue
        with torch.no_grad():
            weight, bias, factor = _folded(graph, layer, attribute(graph, source), norm)
        alone = len(source.users) == len(reading.users) == 1
        new_source = _constant_(graph, layer, source.target, weight, replace=alone)
        new_weight = new_source if reading is source else _quantizer_(graph, layer, reading, new_source, factor)
        given = layer.args[2] if len(layer.args) > 2 else None
        owner = source.target.rpartition(".")[0]
        name = given.target if given is not None else f"{owner}.bias" if owner else "bias"
        new_bias = _constant_(graph, layer, name, bias, replace=given is not None and len(given.users) == 1)
        layer.args = (layer.args[0], new_weight, new_bias, *layer.args[3:])
        norm.replace_all_uses_with(layer)
        graph.graph.erase_node(norm)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _folded(graph: nn.Module, layer: Node, weight: Tensor, norm: Node) -> tuple[Tensor, Tensor, Tensor]:
    """The layer's weight and bias with the batch norm inside, and the factor of each output channel.

    y = gamma (x - mean) / sqrt(var + eps) + beta (Ioffe, Szegedy 2015), with the running statistics.
    """
    gamma, beta, mean, variance = (attribute(graph, node) for node in norm.args[1:5])
    epsilon = norm.args[7]
    assert isinstance(epsilon, float)
    factor = torch.rsqrt(variance.double() + epsilon)
    if gamma is not None:
        factor = factor * gamma.double()
    shape = [1] * weight.dim()
    shape[channel_axis(layer)] = -1
    bias = attribute(graph, layer.args[2] if len(layer.args) > 2 else None)
    shifted = -mean.double() if bias is None else bias.double() - mean.double()
    offset = shifted * factor + (0 if beta is None else beta.double())
    return (weight.double() * factor.reshape(shape)).float(), offset.float(), factor.float()


def _constant_(graph: GraphModule, layer: Node, name: str, value: Tensor, *, replace: bool) -> Node:
    """A node that reads ``value``, which is kept as ``name``, or beside it where that is not to be replaced."""
    if not replace:
        name = _free(graph, name)
    set_attribute_(graph, name, value)
    with graph.graph.inserting_before(layer):
        return graph.graph.get_attr(name)


def _quantizer_(graph: GraphModule, layer: Node, reading: Node, source: Node, factor: Tensor) -> Node:
    """A call of the layer's own fake quantizer on its folded weight."""
    target = str(reading.target)
    calls = sum(node.op == "call_module" and node.target == target for node in graph.graph.nodes)
    if calls > 1 or len(reading.users) > 1:
        target = _free(graph, target)
        graph.add_submodule(target, copy.deepcopy(graph.get_submodule(str(reading.target))))
    part: Any = graph.get_submodule(target)
    part.scale.mul_(factor.abs())
    with graph.graph.inserting_before(layer):
        made = graph.graph.call_module(target, (source,))
    made.meta = dict(reading.meta)
    return made


def _free(graph: nn.Module, name: str) -> str:
    """``name``, or with a number behind it where something is there already."""
    owner, _, leaf = name.rpartition(".")
    part = graph.get_submodule(owner)
    number, found = 0, leaf
    while getattr(part, found, None) is not None:
        number += 1
        found = f"{leaf}_{number}"
    return f"{owner}.{found}" if owner else found
