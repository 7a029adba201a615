"""Which nodes stay in floating point, as NNCF spells it, resolved here so that every engine leaves the same ones alone."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, ConfigDict
from pydantic.dataclasses import dataclass

from accel.errors import PassFault

if TYPE_CHECKING:
    import onnx


def _regular_expression(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error
    return text


RegularExpression = Annotated[str, AfterValidator(_regular_expression)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Subgraph:
    """Every node on a path from one of ``inputs`` to one of ``outputs``, both included (exact node names)."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class IgnoredScope:
    """``names`` are exact node names; ``patterns`` regular expressions that match a whole name; ``types`` ONNX operator types.

    With ``validate`` an item that matches nothing is an error.
    """

    names: tuple[str, ...] = ()
    patterns: tuple[RegularExpression, ...] = ()
    types: tuple[str, ...] = ()
    subgraphs: tuple[Subgraph, ...] = ()
    validate: bool = True


def resolve(scope: IgnoredScope, graph: onnx.GraphProto) -> frozenset[str]:
    """The names of the nodes of ``graph`` that ``scope`` covers; PassFault names every item that covers none.

    Node names must be there and unique (``onnx_writing.name_all_nodes_``).
    """
    names = [node.name for node in graph.node]
    types = {node.op_type for node in graph.node}
    found: set[str] = set()
    unmatched: list[str] = []
    for name in scope.names:
        hits = {name} & set(names)
        found |= hits
        unmatched += [] if hits else [f"names: {name!r}{_did_you_mean(name, names)}"]
    for pattern in scope.patterns:
        hits = {name for name in names if re.fullmatch(pattern, name)}
        found |= hits
        unmatched += [] if hits else [f"patterns: {pattern!r} (must match a whole name{_example(names)})"]
    for kind in scope.types:
        found |= {node.name for node in graph.node if node.op_type == kind}
        unmatched += [] if kind in types else [f"types: {kind!r}{_did_you_mean(kind, types)}"]
    for number, subgraph in enumerate(scope.subgraphs):
        ends = (*subgraph.inputs, *subgraph.outputs)
        lost = [f"subgraphs[{number}]: {end!r}{_did_you_mean(end, names)}" for end in ends if end not in names]
        hits = _between(subgraph, graph)
        found |= hits
        if not hits and not lost:
            lost = [f"subgraphs[{number}]: no path leads from {list(subgraph.inputs)} to {list(subgraph.outputs)}"]
        unmatched += lost
    if scope.validate and unmatched:
        raise PassFault(
            "ignored_scope matches nothing in the model: "
            + "; ".join(unmatched)
            + ". `accel inspect` lists the names; validate: false allows it"
        )
    return frozenset(found)


def _between(subgraph: Subgraph, graph: onnx.GraphProto) -> set[str]:
    producer = {value: node for node in graph.node for value in node.output}
    after: set[str] = set(subgraph.inputs)
    before_edges: dict[str, set[str]] = {}
    for node in graph.node:  # ONNX nodes are in topological order
        parents = {producer[value].name for value in node.input if value in producer}
        before_edges[node.name] = parents
        if parents & after:
            after.add(node.name)
    before: set[str] = set(subgraph.outputs)
    for node in reversed(graph.node):
        if node.name in before:
            before |= before_edges[node.name]
    reached = after & before & before_edges.keys()
    return reached if reached & set(subgraph.inputs) and reached & set(subgraph.outputs) else set()


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _example(names: list[str]) -> str:
    return f", such as {names[0]!r}" if names else ""
