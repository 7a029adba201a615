"""Words of other tools that are taken, each with a note: where the key they stand for exists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accel.recipe.document import Document
from accel.recipe.fields import items, keys, words
from accel.recipe.tree import Entries, Items, Location, Node, Scalar, dotted, shown

# Where a key may stand for one of several, the first that exists at that place is meant.
KEYS: Mapping[str, tuple[Location, ...]] = {
    "tolerable_loss": (("max_drop",),),
    "subset_size": (("num_samples",), ("calibration", "num_samples")),
    "max_iter": (("max_iterations",),),
    "nodes_to_exclude": (("names",), ("ignored_scope", "names")),
    "op_types_to_exclude": (("types",), ("ignored_scope", "types")),
    "flops": (("macs",),),
}
WORDS: Mapping[str, str] = {"kl": "entropy", "vpu": "npu"}


def canonical(document: Document, node: Node, annotations: Sequence[Any], location: Location = ()) -> tuple[Node, list[str]]:
    """The tree with every alias replaced, and a note for each. ``annotations``: what may stand at ``location``."""
    if isinstance(node, Entries):
        return _mapping(document, node, annotations, location)
    if isinstance(node, Items):
        pairs = [canonical(document, item, items(annotations), (*location, index)) for index, item in enumerate(node.items)]
        notes = [note for _, found in pairs for note in found]
        return (Items(tuple(item for item, _ in pairs), node.place), notes) if notes else (node, [])
    if isinstance(node.value, str) and node.value in WORDS:
        meant, allowed = WORDS[node.value], words(annotations)
        if meant in allowed and node.value not in allowed:
            return Scalar(meant, node.place), [f"{dotted(location)}: took {node.value!r} for {meant!r}"]
    return node, []


def _mapping(document: Document, node: Entries, annotations: Sequence[Any], location: Location) -> tuple[Node, list[str]]:
    known = keys(annotations)
    notes: list[str] = []
    result = node
    for alias in KEYS.keys() & node.entries.keys() - known.keys():
        target = next((path for path in KEYS[alias] if _exists(known, path)), None)
        if target is None:
            continue
        place, value = node.entries[alias]
        changed = _moved(result.without(alias), target, place, value)
        if changed is None:
            document.report(place, f"{dotted((*location, alias))}: stands for {dotted(target)}, which is given too; keep one")
            result = result.without(alias)
        else:
            result = changed
            notes.append(f"{dotted(location)}: took {shown(alias)} for {dotted(target)!r}".removeprefix(": "))
    for key in list(result.entries):
        if key in known:
            value, more = canonical(document, result.entries[key][1], known[key], (*location, key))
            if more:
                result = result.having(key, value)
                notes += more
    return result, notes


def _exists(known: Mapping[str, list[Any]], path: Location) -> bool:
    for part in path[:-1]:
        known = keys(known.get(str(part), []))
    return path[-1] in known


def _moved(node: Entries, path: Location, place: Any, value: Node) -> Entries | None:
    """``node`` with ``value`` at ``path``; None if something is there, or in the way."""
    key = str(path[0])
    inside = node.get(key)
    if len(path) == 1:
        return None if inside is not None else Entries({**node.entries, key: (place, value)}, node.place)
    inside = Entries({}, value.place) if inside is None else inside
    changed = _moved(inside, path[1:], place, value) if isinstance(inside, Entries) else None
    return None if changed is None else node.having(key, changed, place)
