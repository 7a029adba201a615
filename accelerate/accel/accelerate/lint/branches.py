"""The bodies of If and Loop: which of them a builder reads, and names that two of them use for different values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from accel.onnx_graph import graphs
from accel.onnx_tensors import is_external


def live(graph: Any, outer: Mapping[str, Any] | None = None) -> Iterator[Any]:
    """As ``onnx_graph.graphs``, without the branch of an If that its condition, a constant of the file, never takes: TensorRT's
    parser does not look at it (tried on TensorRT-RTX 1.7.1; a condition that must be computed first is not taken for one).

    ``outer``: constants of the graphs around this one, by name.
    """
    known = dict(outer or {})
    known.update({tensor.name: tensor for tensor in graph.initializer})
    for node in graph.node:
        value = next((entry.t for entry in node.attribute if entry.name == "value"), None)
        if node.op_type == "Constant" and node.output and value is not None:
            known[node.output[0]] = value
    yield graph
    for node in graph.node:
        dead = _dead_branch(node, known)
        for attribute in node.attribute:
            if attribute.name == dead:
                continue
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from live(inner, known)


def _dead_branch(node: Any, known: Mapping[str, Any]) -> str:
    import onnx

    tensor = known.get(node.input[0]) if node.op_type == "If" and node.input else None
    if tensor is None or tensor.data_type != onnx.TensorProto.BOOL or is_external(tensor):
        return ""
    try:
        value = onnx.numpy_helper.to_array(tensor)
    except (ValueError, TypeError):
        return ""
    if value.size != 1:
        return ""
    return "else_branch" if value.reshape(-1)[0] else "then_branch"


def name_apart_(graph: Any) -> None:
    """Give each value a name of its own, in place: ONNX lets two branches use one name for values of different types. Names of
    the outermost graph stay."""
    if sum(1 for _ in graphs(graph)) > 1:
        _name_apart_(graph, {}, set())


def _name_apart_(graph: Any, outer: Mapping[str, str], taken: set[str]) -> None:
    own = [value.name for value in (*graph.input, *graph.initializer)]
    own += [sparse.values.name for sparse in graph.sparse_initializer]
    own += [name for node in graph.node for name in node.output if name]
    names = dict(outer)
    for name in dict.fromkeys(own):
        names[name], count = name, 1
        while names[name] in taken:
            names[name], count = f"{name}_{count}", count + 1
        taken.add(names[name])
    changed = any(name != new for name, new in names.items())
    for value in (*graph.input, *graph.output, *graph.initializer, *graph.value_info) if changed else ():
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer if changed else ():
        sparse.values.name = names[sparse.values.name]
    for node in graph.node:
        if changed:
            node.input[:] = [names.get(name, name) for name in node.input]
            node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _name_apart_(inner, names, taken)
