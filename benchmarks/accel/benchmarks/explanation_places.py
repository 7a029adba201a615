"""Layers of two profiles, put side by side by the ONNX nodes they were made from.

Two runtimes, or two files, join nodes into layers differently: one runs a convolution and the addition behind it as one layer,
the other as two. What is compared is the smallest set of nodes that no layer of either side reaches across, so that the times
of all places add up to the times of all layers.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from accel.contracts import LayerRun

OF_NO_NODE = "(made by the runtime)"


@dataclass(frozen=True)
class Took:
    """What one side ran at a place: precisions and kinds of its layers, longest first. ``ms``: None where none was timed."""

    ms: float | None
    precisions: tuple[str, ...]
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Place:
    """``nodes``: in the order of the file, none for what the runtime added; ``title``: one of them, of the longest layer that
    multiplies and adds."""

    title: str
    nodes: tuple[str, ...]
    before: Took | None
    after: Took | None

    @property
    def change_ms(self) -> float | None:
        """Above 0: slower than before. None where a side is missing or was not timed."""
        if self.before is None or self.after is None or self.before.ms is None or self.after.ms is None:
            return None
        return self.after.ms - self.before.ms


def places(
    before: Sequence[LayerRun] | None,
    after: Sequence[LayerRun],
    *,
    without: Collection[str],
    order: Sequence[str],
    weighted: Collection[str] = (),
) -> tuple[Place, ...]:
    """``without``: nodes that join nothing (Q/DQ); ``order``: all nodes of the file; ``weighted``: those that multiply and add.

    Those that changed most come first, or, where there is no ``before``, those that took longest.
    """
    parents: dict[str, str] = {}
    sides = (before or (), after)
    for layer in (*sides[0], *sides[1]):
        nodes = _nodes(layer, without)
        for node in nodes:
            _join_(parents, nodes[0], node)
    groups: dict[str, tuple[list[LayerRun], list[LayerRun]]] = {}
    for index, layers in enumerate(sides):
        for layer in layers:
            nodes = _nodes(layer, without)
            groups.setdefault(_root(parents, nodes[0]) if nodes else "", ([], []))[index].append(layer)
    place_of = {node: index for index, node in enumerate(order)}
    found = []
    for key, (first, last) in groups.items():
        members = {node for layer in (*first, *last) for node in _nodes(layer, without)}
        ordered = tuple(sorted(members, key=lambda node: (place_of.get(node, len(order)), node)))
        title = _title(last or first, without, weighted) if key else OF_NO_NODE
        found.append(Place(title, ordered, None if before is None else _took(first), _took(last)))
    return tuple(sorted(found, key=_weight, reverse=True))


def _nodes(layer: LayerRun, without: Collection[str]) -> list[str]:
    return [node for node in layer.nodes if node not in without]


def _root(parents: dict[str, str], node: str) -> str:
    while (parent := parents.setdefault(node, node)) != node:
        parents[node] = parents[parent]
        node = parent
    return node


def _join_(parents: dict[str, str], one: str, other: str) -> None:
    parents[_root(parents, other)] = _root(parents, one)


def _title(layers: Sequence[LayerRun], without: Collection[str], weighted: Collection[str]) -> str:
    ranked = sorted(layers, key=lambda layer: -(layer.ms or 0.0))
    nodes = [node for layer in ranked for node in _nodes(layer, without)]
    return next((node for node in nodes if node in weighted), nodes[0])


def _took(layers: Sequence[LayerRun]) -> Took | None:
    if not layers:
        return None
    ranked = sorted(layers, key=lambda layer: -(layer.ms or 0.0))
    timed = [layer.ms for layer in layers if layer.ms is not None]
    return Took(
        ms=sum(timed) if timed else None,
        precisions=tuple(dict.fromkeys(layer.precision for layer in ranked)),
        kinds=tuple(dict.fromkeys(layer.kind for layer in ranked)),
    )


def _weight(place: Place) -> float:
    change = place.change_ms
    if change is not None:
        return abs(change)
    return max((took.ms or 0.0) for took in (place.before, place.after) if took is not None)
