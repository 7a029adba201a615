"""Names for the nodes and values of an exported graph: ``<module path>/<operator>``, one name everywhere."""

from __future__ import annotations

import ast
from collections.abc import Collection, Mapping, Sequence

import onnx
from torch import nn

from accel.compress.onnx_writing import unique
from accel.onnx_graph import graphs

SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules a node comes from: ``['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d']``."""


def name_by_module_(model: onnx.ModelProto, module: nn.Module, paths: Collection[str] = ()) -> None:
    """Rename every node to ``layer1.0.conv1/Conv`` and every value between nodes like the node that makes it, in place.

    A node takes the module that owns its weight (a convolution fused with its batch norm is the convolution's), else the
    module it was called in; a node outside every submodule is called by its operator. Repeats get ``_1``, ``_2``... Must run
    before the exporter's metadata is stripped. ``paths``: of modules that ``module`` was captured from and does not hold.
    """
    owners = _owners(module)
    modules = {name for name, _ in module.named_modules()}.union(paths)
    taken: set[str] = set()
    for graph in graphs(model.graph):
        weights = {weight.name for weight in graph.initializer}
        for node in graph.node:
            path = _path(node, weights, owners, modules)
            node.name = unique(f"{path}/{node.op_type}" if path else node.op_type, taken)
            taken.add(node.name)
    _name_fused_biases_(model)
    _name_values_(model)


def name_ends_(model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the graph's inputs and outputs these names, in their order and in place; no names leave the exporter's.

    A value or weight that has one of the names makes room. (Told the names itself, torch's exporter writes one name twice where
    an operator inside is called like an output, and the file does not load.)
    """
    renamed: dict[str, str] = {}
    for values, names in ((model.graph.input, inputs), (model.graph.output, outputs)):
        for value, name in zip(values, names or [value.name for value in values], strict=True):
            renamed[value.name] = name
    taken = set(renamed.values())
    others = {value for graph in graphs(model.graph) for node in graph.node for value in node.output if value}
    others |= {weight.name for graph in graphs(model.graph) for weight in graph.initializer}
    taken |= others
    for value in sorted((others & set(renamed.values())) - renamed.keys()):
        renamed[value] = unique(value, taken)
        taken.add(renamed[value])
    rename_values_(model, renamed)


def _owners(module: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """Parameter or buffer name to every module that holds it: two for tied weights."""
    holders: dict[int, list[str]] = {}
    names: dict[str, int] = {}
    for name, tensor in [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]:
        holders.setdefault(id(tensor), []).append(name.rpartition(".")[0])
        names[name] = id(tensor)
    return {name: tuple(holders[key]) for name, key in names.items()}


def _path(node: onnx.NodeProto, weights: set[str], owners: Mapping[str, tuple[str, ...]], modules: set[str]) -> str:
    called_in = _scope(node, modules)
    for value in node.input[1:]:  # the first input is the data; an embedding's table is the exception
        if value in weights and value in owners:
            return called_in if called_in in owners[value] else owners[value][0]
    return called_in


def _scope(node: onnx.NodeProto, modules: set[str]) -> str:
    for entry in node.metadata_props:
        if entry.key == SCOPES:
            scopes = ast.literal_eval(entry.value)
            return next((scope for scope in reversed(scopes) if scope in modules), "")
    return ""


def _name_fused_biases_(model: onnx.ModelProto) -> None:
    """The bias that a convolution gets from its batch norm: ``conv1.weight_bias`` to ``conv1.bias``, where that is free."""
    taken = {weight.name for graph in graphs(model.graph) for weight in graph.initializer}
    renamed: dict[str, str] = {}
    for weight in model.graph.initializer:
        name = weight.name.removesuffix(".weight_bias") + ".bias"
        if weight.name.endswith(".weight_bias") and name not in taken:
            renamed[weight.name] = name
            taken.add(name)
    rename_values_(model, renamed)


def _name_values_(model: onnx.ModelProto) -> None:
    fixed = {value.name for graph in graphs(model.graph) for value in (*graph.input, *graph.output)}
    fixed |= {weight.name for graph in graphs(model.graph) for weight in graph.initializer}
    taken = set(fixed)
    renamed: dict[str, str] = {}
    for graph in graphs(model.graph):
        for node in graph.node:
            for index, value in enumerate(node.output):
                if value and value not in fixed:
                    renamed[value] = unique(f"{node.name}.{index}" if index else node.name, taken)
                    taken.add(renamed[value])
    rename_values_(model, renamed)


def rename_values_(model: onnx.ModelProto, renamed: Mapping[str, str]) -> None:
    """Rename at once every value, weight, input and output in ``renamed``, in place."""
    for graph in graphs(model.graph):
        for node in graph.node:
            node.input[:] = [renamed.get(value, value) for value in node.input]
            node.output[:] = [renamed.get(value, value) for value in node.output]
        for entry in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
            entry.name = renamed.get(entry.name, entry.name)
