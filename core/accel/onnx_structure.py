"""Whether an ONNX graph holds together: every operator known, every name made before it is read, no cycle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accel.errors import ModelFault

# Domains outside the standard whose operators runtimes bring themselves. onnx has no schemas for them.
_RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc", "org.openvinotoolkit", "trt"})


def require_sound(proto: Any, name: str) -> None:
    """ModelFault naming the node for an unknown operator or domain, a cycle, or a name that nothing makes.

    The onnx checker passes an unknown operator of a foreign domain, and reports a cycle as an order that is wrong.
    """
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opsets.setdefault("", opsets.get("ai.onnx", 0))
    functions = {(function.domain, function.name) for function in proto.functions}
    _require_graph(proto.graph, set(), opsets, functions, name)
    for function in proto.functions:
        inner = {entry.domain: entry.version for entry in function.opset_import} or opsets
        for node in function.node:
            _require_operator(node, inner, functions, f"{name}: function {function.name}")


def require_text(proto: Any, name: str) -> None:
    """ModelFault where a name is not text: protobuf hands such bytes through, and nothing after expects them."""
    try:
        _require_text(proto.graph, name)
        own = [proto.producer_name, proto.producer_version, *(entry.domain for entry in proto.opset_import)]
        if not all(isinstance(each, str) for each in own):
            raise ModelFault(f"{name}: a name in its header is not text; the file is damaged")
    except UnicodeDecodeError:
        raise ModelFault(f"{name}: a name in it is not text; the file is damaged") from None


def _require_text(graph: Any, name: str) -> None:
    named = (*graph.input, *graph.output, *graph.value_info, *graph.initializer)
    if not all(isinstance(each.name, str) for each in named):
        raise ModelFault(f"{name}: the name of a tensor is not text; the file is damaged")
    for value in (*graph.input, *graph.output, *graph.value_info):
        if not all(isinstance(dim.dim_param, str) for dim in value.type.tensor_type.shape.dim):
            raise ModelFault(f"{name}: the name of an axis of {value.name!r} is not text; the file is damaged")
    for node in graph.node:
        if not all(isinstance(each, str) for each in (node.op_type, node.domain, node.name, *node.input, *node.output)):
            raise ModelFault(f"{name}: {label(node)} has a name that is not text; the file is damaged")
        for attribute in node.attribute:
            if not isinstance(attribute.name, str):
                raise ModelFault(f"{name}: {label(node)} has an attribute whose name is not text; the file is damaged")
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _require_text(inner, name)


def label(node: Any) -> str:
    """What to call a node in a message: its name and type, or its first output where it has no name."""
    named = node.name or (f"making {node.output[0]}" if node.output else "without a name")
    return f"node {named!r} ({node.op_type})"


def _require_graph(graph: Any, outer: set[str], opsets: Mapping[str, int], functions: set[tuple[str, str]], name: str) -> None:
    known = outer | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    known |= {sparse.values.name for sparse in graph.sparse_initializer} | {""}
    makers = {output: node for node in graph.node for output in node.output if output}
    for node in graph.node:
        _require_operator(node, opsets, functions, name)
        for source in node.input:
            if source in known:
                continue
            if source not in makers:
                raise ModelFault(f"{name}: {label(node)} reads {source!r}, which nothing makes; the graph is damaged")
            cycle = _cycle(node, makers, known)
            if cycle:
                raise ModelFault(f"{name}: the graph has a cycle through {' -> '.join(label(each) for each in cycle)}")
            raise ModelFault(f"{name}: {label(node)} reads {source!r} before {label(makers[source])} makes it; sort the graph")
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _require_graph(inner, known, opsets, functions, name)
        known.update(node.output)
    for value in graph.output:
        if value.name not in known:
            raise ModelFault(f"{name}: output {value.name!r} is made by no node; the graph is damaged")


def _cycle(start: Any, makers: Mapping[str, Any], known: set[str]) -> list[Any]:
    """Nodes from ``start`` back to itself over what they read, or nothing."""
    first = start.output[0] if start.output else ""
    trail: dict[str, list[Any]] = {first: [start]}
    pending = [first]
    while pending:
        current = pending.pop()
        for source in makers[current].input if current in makers else ():
            if source in known or source not in makers:
                continue
            maker = makers[source]
            if maker is start or list(maker.output) == list(start.output):
                return [*trail[current], start]
            key = maker.output[0]
            if key not in trail:
                trail[key] = [*trail[current], maker]
                pending.append(key)
    return []


def _require_operator(node: Any, opsets: Mapping[str, int], functions: set[tuple[str, str]], name: str) -> None:
    import onnx

    domain = "" if node.domain == "ai.onnx" else node.domain
    if (node.domain, node.op_type) in functions or (domain, node.op_type) in functions:
        return
    if domain not in opsets:
        raise ModelFault(f"{name}: {label(node)} is of domain {domain!r}, which the file does not declare")
    if domain in _RUNTIME_DOMAINS:
        return
    if not onnx.defs.has(node.op_type, opsets[domain], domain):
        if onnx.defs.has(node.op_type, domain):
            raise ModelFault(f"{name}: {label(node)} does not exist in opset {opsets[domain]}; export with another opset")
        place = f"domain {domain!r}" if domain else "ONNX"
        raise ModelFault(f"{name}: {label(node)} is not an operator of {place}; no runtime here can run it")
    schema = onnx.defs.get_schema(node.op_type, opsets[domain], domain)
    if not (schema.min_input <= len(node.input) <= schema.max_input and schema.min_output <= len(node.output)):
        raise ModelFault(
            f"{name}: {label(node)} has {len(node.input)} inputs and {len(node.output)} outputs; the graph is damaged"
        )
