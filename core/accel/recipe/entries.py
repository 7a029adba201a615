"""The items of ``passes``: which pass each one is, and whether its settings suit it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accel.errors import UsageError
from accel.recipe import faults
from accel.recipe.document import Document
from accel.recipe.fields import suggestion
from accel.recipe.passes import (
    OWN_KEYS,
    PassEntry,
    Refused,
    accept,
    candidates,
    default_approach,
    default_engine,
    engines_of,
    filled,
    leaves,
    leaves_of,
    load,
    preferred_engine,
)
from accel.recipe.tree import Entries, Items, Node, Scalar, described, find, plain, word


def classes(node: Node) -> list[type[Any]]:
    """The pass classes that an entry may mean, whatever else may be wrong with it."""
    found = []
    for leaf in leaves_of(str(word(node, "type")), None, word(node, "engine")):
        try:
            found.append(load(leaf))
        except UsageError:
            continue  # reported with the entry
    return found


def read_entries(document: Document, backends: Sequence[str]) -> list[PassEntry | None]:
    """The pass entries; None where one is wrong by itself, which is reported."""
    node = find(document.root, ("passes",))
    if node is None:
        return []
    if not isinstance(node, Items):
        document.report_at(("passes",), f"found {described(node)}, allowed: a list")
        return []
    return [_entry(document, item, index, backends) for index, item in enumerate(node.items)]


def _entry(document: Document, node: Node, index: int, backends: Sequence[str]) -> PassEntry | None:
    here = ("passes", index)
    if not isinstance(node, Entries):
        document.report_at(here, f"found {described(node)}, allowed: a mapping with a `type`")
        return None
    known = list(dict.fromkeys(leaf.type for leaf in leaves()))
    type_ = word(node, "type")
    if type_ is None or type_ not in known:
        found = f"found {described(node.get('type'))}" if "type" in node.entries else "the key 'type' is missing"
        near = suggestion(type_, known) if type_ else ""
        document.report_at((*here, "type"), f"{found}; the passes are {', '.join(known)}{near}")
        return None
    chosen: dict[str, str | None] = {}
    for key in ("approach", "engine"):
        if key == "approach":
            allowed = list(dict.fromkeys(leaf.approach for leaf in leaves_of(type_) if leaf.approach is not None))
            chosen[key] = default_approach(type_)
        else:
            allowed = engines_of(type_, chosen["approach"])
            chosen[key] = default_engine(type_, chosen["approach"])
        if key not in node.entries:
            if key == "approach" and allowed and chosen[key] is None:
                document.report_at(here, f"the key {key!r} is missing; allowed: {', '.join(allowed)}")
                return None
            continue
        named = word(node, key)
        if named not in allowed:
            listed = ", ".join(allowed) or f"{type_} has none, leave the key out"
            near = suggestion(named, allowed) if named else ""
            document.report_at((*here, key), f"found {described(node.get(key))}, allowed: {listed}{near}")
            return None
        chosen[key] = named
    noop = node.get("allow_noop") or Scalar(False)
    if not (isinstance(noop, Scalar) and isinstance(noop.value, bool)):
        document.report_at((*here, "allow_noop"), f"found {described(noop)}, allowed: true or false")
        return None
    settings = plain(node.without(*OWN_KEYS))
    entry = PassEntry(type=type_, **chosen, allow_noop=noop.value, settings=settings)
    return _suited(document, entry, index, backends)


def _suited(document: Document, entry: PassEntry, index: int, backends: Sequence[str]) -> PassEntry | None:
    """The entry with its defaults, or the problems that the class has which its first target would get."""
    possible = leaves_of(entry.type, entry.approach, entry.engine)
    if not possible:
        document.report_at(("passes", index), f"there is no {entry.type}/{entry.approach}/{entry.engine}")
        return None
    try:
        found = candidates(entry)
        if found:
            return entry.model_copy(update={"settings": filled(entry.settings, found)})
        wanted = next((engine for backend in backends if (engine := preferred_engine(backend)) is not None), None)
        leaf = next((leaf for leaf in possible if leaf.engine == wanted), possible[0])
        refused = accept(leaf, entry.settings, entry.allow_noop)
        assert isinstance(refused, Refused)
        faults.report(document, refused.errors, load(leaf), ("passes", index))
    except UsageError as error:
        document.report_at(("passes", index), str(error))
    return None
