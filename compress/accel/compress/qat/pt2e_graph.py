"""The network as a graph of torch operators: captured, brought into the form that quantization needs, switched between modes.

No torchao here. The graph is what ``torch.export`` gives in evaluation mode: parameters keep their names, and each node notes
the module it comes from.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node

from accel.compress.quiet_library import quiet
from accel.compress.torch_capture import export_fault

CONVOLUTIONS = {"aten.conv1d": 2, "aten.conv2d": 2, "aten.conv3d": 2}
TRANSPOSED = {"aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d"}
BATCH_NORM = "aten.batch_norm"
_NO_MODULE = "_empty_nn_module_stack"
"""How torch.export calls the module of an operator that it does not know the module of."""
_GROUPS_OF_TRANSPOSED = 6
_TRAINING_ARGUMENT = {BATCH_NORM: 5, "aten.dropout": 2, "aten.feature_dropout": 2, "aten.alpha_dropout": 2}
"""Place of the argument that says whether the module trains."""
_IN_PLACE: Mapping[Any, Any] = {
    torch.ops.aten.relu_.default: torch.ops.aten.relu.default,
    torch.ops.aten.hardtanh_.default: torch.ops.aten.hardtanh.default,
    torch.ops.aten.clamp_.default: torch.ops.aten.clamp.default,
    torch.ops.aten.hardswish_.default: torch.ops.aten.hardswish.default,
    torch.ops.aten.hardsigmoid_.default: torch.ops.aten.hardsigmoid.default,
    torch.ops.aten.silu_.default: torch.ops.aten.silu.default,
    torch.ops.aten.sigmoid_.default: torch.ops.aten.sigmoid.default,
    torch.ops.aten.leaky_relu_.default: torch.ops.aten.leaky_relu.default,
    torch.ops.aten.elu_.default: torch.ops.aten.elu.default,
    torch.ops.aten.dropout_.default: torch.ops.aten.dropout.default,
    torch.ops.aten.add_.Tensor: torch.ops.aten.add.Tensor,
    torch.ops.aten.sub_.Tensor: torch.ops.aten.sub.Tensor,
    torch.ops.aten.mul_.Tensor: torch.ops.aten.mul.Tensor,
    torch.ops.aten.div_.Tensor: torch.ops.aten.div.Tensor,
}


def operator_of(node: Node) -> str:
    """``aten.conv2d`` for a call of ``aten.conv2d.default``; the node's kind where it is no torch operator."""
    if node.op != "call_function":
        return node.op
    if isinstance(node.target, torch._ops.OpOverload):
        return ".".join(str(node.target).split(".")[:2])
    return getattr(node.target, "__name__", str(node.target))


def module_path(node: Node) -> str:
    """Path of the module in whose forward ``node`` was called; empty for the network's own."""
    stack = node.meta.get("nn_module_stack") or {}
    path = str(list(stack.values())[-1][0]) if stack else ""
    return "" if path.startswith(_NO_MODULE) else path


def attribute(graph: nn.Module, node: Any) -> Any:
    """The parameter or buffer that a ``get_attr`` node reads; None for None."""
    return None if node is None else operator.attrgetter(str(node.target))(graph)


def set_attribute_(graph: nn.Module, name: str, value: torch.Tensor) -> None:
    """Put a tensor where ``name`` says, as a parameter or buffer like the one it replaces; a parameter where there was none."""
    owner, _, leaf = name.rpartition(".")
    part = graph.get_submodule(owner)
    if leaf in part._buffers:
        part._buffers[leaf] = value
    else:
        part.register_parameter(leaf, nn.Parameter(value, requires_grad=value.is_floating_point()))


def captured(net: nn.Module, example: Sequence[torch.Tensor], shapes: Any, *, what: str) -> GraphModule:
    """The graph of ``net`` in evaluation mode. ``shapes``: torch.export's ``dynamic_shapes``. ``net`` is not changed.

    Raises PassFault naming the module that torch.export cannot follow.
    """
    flags = [(part, part.training) for part in net.modules()]
    net.eval()
    try:
        with quiet(), torch.no_grad():
            program = torch.export.export(net, tuple(example), dynamic_shapes=shapes)
            graph = program.module(check_guards=False)
    except Exception as error:  # torch.export raises whatever the user's forward, dynamo and fx raise
        raise export_fault(error, net, what) from error
    finally:
        for part, flag in flags:
            part.training = flag
    assert isinstance(graph, GraphModule)
    _own_state_(graph, net)
    _without_in_place_(graph)
    _without_compounds_(graph)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _own_state_(graph: GraphModule, net: nn.Module) -> None:
    """Copies of the tensors: torch.export shares those of ``net``. What was frozen stays frozen."""
    copies: dict[int, nn.Parameter | torch.Tensor] = {}
    frozen = {name for name, value in net.named_parameters(remove_duplicate=False) if not value.requires_grad}
    for path, part in graph.named_modules(remove_duplicate=False):
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                full = f"{path}.{name}" if path else name
                copy = copies.setdefault(
                    id(parameter), nn.Parameter(parameter.detach().clone(), requires_grad=full not in frozen)
                )
                assert isinstance(copy, nn.Parameter)
                part._parameters[name] = copy
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = copies.setdefault(id(buffer), buffer.detach().clone())


def _without_in_place_(graph: GraphModule) -> None:
    """``relu_(x)`` becomes ``relu(x)``, and who reads ``x`` later reads the result: fake quantization makes copies, in which
    a write would be lost."""
    order = {node: index for index, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        if node.op == "call_function" and node.target in _IN_PLACE:
            node.target = _IN_PLACE[node.target]
            written = node.args[0]
            later = [user for user in written.users if order[user] > order[node]]
            for user in later:
                user.replace_input_with(written, node)


def _without_compounds_(graph: GraphModule) -> None:
    """Write out what hides a product that can run in INT8: attention as two matmuls, SiLU as sigmoid and product."""
    for node in list(graph.graph.nodes):
        if operator_of(node) == "aten.scaled_dot_product_attention":
            _write_out_(graph, node, _attention(node))
        elif operator_of(node) == "aten.silu":
            _write_out_(
                graph, node, lambda call, x: call(torch.ops.aten.mul.Tensor, x, call(torch.ops.aten.sigmoid.default, x))
            )


Call = Callable[..., Node]


def _write_out_(graph: GraphModule, node: Node, body: Callable[..., Node] | None) -> None:
    if body is None:
        return
    fake = node.meta["val"]

    def call(target: Any, *args: Any) -> Node:
        made = graph.graph.call_function(target, args)
        made.meta = {key: value for key, value in node.meta.items() if key in ("nn_module_stack", "stack_trace")}
        with fake.fake_mode:
            values = [arg.meta["val"] if isinstance(arg, Node) else arg for arg in args]
            made.meta["val"] = target(*values)
        return made

    with graph.graph.inserting_before(node):
        node.replace_all_uses_with(body(call, *[arg for arg in node.args if isinstance(arg, Node)]))
    graph.graph.erase_node(node)


def _silu(call: Call, x: Node) -> Node:
    return call(torch.ops.aten.mul.Tensor, x, call(torch.ops.aten.sigmoid.default, x))


def _attention(node: Node) -> Callable[..., Node] | None:
    """softmax(q k^T scale + mask) v, as in torch's documentation of the operator; None where a form is not covered."""
    given = dict(zip(("query", "key", "value", "attn_mask", "dropout_p", "is_causal"), node.args, strict=False))
    given.update(node.kwargs)
    mask = given.get("attn_mask")
    covered = not given.get("is_causal") and not given.get("enable_gqa") and not given.get("dropout_p")
    boolean = isinstance(mask, Node) and mask.meta["val"].dtype is torch.bool
    if not covered or boolean:
        return None
    query = node.args[0]
    assert isinstance(query, Node)
    scale = given.get("scale") or 1 / math.sqrt(query.meta["val"].shape[-1])

    def body(call: Call, query: Node, key: Node, value: Node, *_: Node) -> Node:
        aten = torch.ops.aten
        logits = call(aten.matmul.default, call(aten.mul.Tensor, query, scale), call(aten.transpose.int, key, -2, -1))
        if isinstance(mask, Node):
            logits = call(aten.add.Tensor, logits, mask)
        return call(aten.matmul.default, call(aten.softmax.int, logits, -1), value)

    return body


def set_training_(graph: GraphModule, training: bool, *, batch_norm: bool) -> None:
    """Put batch norms (where ``batch_norm``) and dropouts into training mode, or all into evaluation mode.

    An exported graph has the mode written into its operators. torchao's own way (``move_exported_model_to_train``) finds them
    by pattern and leaves a batch norm that its pattern does not fit as it was.
    """
    changed = False
    for node in graph.graph.nodes:
        place = _TRAINING_ARGUMENT.get(operator_of(node))
        if place is None:
            continue
        wanted = training and (batch_norm or operator_of(node) != BATCH_NORM)
        if operator_of(node) == BATCH_NORM and node.args[3] is None:
            wanted = True  # a norm without running statistics always takes the batch's
        if node.args[place] != wanted:
            node.update_arg(place, wanted)
            changed = True
    if changed:
        graph.recompile()


def channel_axis(node: Node) -> int:
    """The axis of a weight whose slices each get a scale: the output channels."""
    return 1 if operator_of(node) in TRANSPOSED or operator_of(node) == "aten.matmul" else 0


def batch_norm_after(node: Node) -> Node | None:
    """The batch norm that alone reads the output of this convolution or linear layer, and can be folded into it."""
    if len(node.users) != 1:
        return None
    norm = next(iter(node.users))
    if operator_of(norm) != BATCH_NORM or norm.args[0] is not node or norm.args[3] is None or norm.args[4] is None:
        return None
    if operator_of(node) == "aten.linear" and node.meta["val"].dim() != 2:
        return None
    return norm


def groups_of_transposed(node: Node) -> int:
    """The groups of a transposed convolution."""
    groups = node.args[_GROUPS_OF_TRANSPOSED] if len(node.args) > _GROUPS_OF_TRANSPOSED else 1
    assert isinstance(groups, int)
    return groups
