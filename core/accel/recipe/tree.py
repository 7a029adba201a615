"""The tree a recipe is read into: plain data in which each thing knows where it stands in the file."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_DEPTH = 64
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands, counted from 1; 0 where it is not in the file. ``override``: the command-line text it is from."""

    line: int = 0
    column: int = 0
    override: str = ""


@dataclass(frozen=True, slots=True)
class Scalar:
    value: str | int | float | bool | None
    place: Place = Place()


@dataclass(frozen=True, slots=True)
class Items:
    items: tuple[Node, ...]
    place: Place = Place()


@dataclass(frozen=True, slots=True)
class Entries:
    """A mapping: key to the key's own place and the value. Merged keys (``<<``) keep the places they have at the anchor."""

    entries: Mapping[str, tuple[Place, Node]]
    place: Place = Place()

    def get(self, key: str) -> Node | None:
        found = self.entries.get(key)
        return found[1] if found else None

    def having(self, key: str, value: Node, place: Place | None = None) -> Entries:
        """The same mapping with ``key`` set; an existing key stays where it was."""
        at = self.entries[key][0] if key in self.entries else place or value.place
        return Entries({**self.entries, key: (at, value)}, self.place)

    def without(self, *keys: str) -> Entries:
        return Entries({key: entry for key, entry in self.entries.items() if key not in keys}, self.place)


Node = Scalar | Items | Entries
Location = tuple[str | int, ...]


def from_plain(value: Any, depth: int = 0) -> Node:
    """The tree of plain data, with no places. Raises ValueError for what JSON cannot say."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        entries = {}
        for key, item in value.items():
            if not isinstance(key, str) or SURROGATE.search(key):
                raise ValueError(f"the key {shown(key)} is not text")
            entries[key] = (Place(), from_plain(item, depth + 1))
        return Entries(entries)
    if isinstance(value, list | tuple):
        return Items(tuple(from_plain(item, depth + 1) for item in value))
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        if isinstance(value, str) and SURROGATE.search(value):
            raise ValueError(f"{shown(value)} is not Unicode text")
        return Scalar(value)
    raise ValueError(f"{shown(value)} is a {type(value).__name__}, which a recipe cannot hold")


def plain(node: Node) -> Any:
    """The data of a tree, as JSON has it."""
    if isinstance(node, Entries):
        return {key: plain(value) for key, (_, value) in node.entries.items()}
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return node.value


def step(node: Node | None, part: str | int) -> tuple[Place, Node] | None:
    """One step down: the key's place (an item's own, in a list) and the value; None where there is no such thing."""
    if isinstance(node, Entries) and isinstance(part, str):
        return node.entries.get(part)
    if isinstance(node, Items) and isinstance(part, int) and 0 <= part < len(node.items):
        return node.items[part].place, node.items[part]
    return None


def find(root: Node, location: Location) -> Node | None:
    """The node at exactly ``location``."""
    node: Node | None = root
    for part in location:
        found = step(node, part)
        node = found[1] if found else None
    return node


def locate(root: Node, location: Location, *, key: bool = False) -> Place:
    """The place of the value at ``location``, or of its key. Parts that are not in the tree are passed over: pydantic puts the
    names of union members into its locations, and what is missing is best shown where it should be."""
    node, place = root, root.place
    for part in location:
        found = step(node, part)
        if found:
            node = found[1]
            place = found[0] if key else node.place
    return place


def dotted(location: Location) -> str:
    """``passes.1.calibration.method``: as overrides spell it."""
    return ".".join(str(part) for part in location)


def shown(value: Any, limit: int = 60) -> str:
    """``repr``, shortened."""
    text = repr(value[:limit] if isinstance(value, str) else value)
    return text if len(text) <= limit + 2 else text[: limit - 1] + "…"


def described(node: Node | None) -> str:
    """What was found, for a message."""
    match node:
        case None:
            return "nothing"
        case Entries():
            return "a mapping"
        case Items():
            return "a list"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool() as value):
            return str(value).lower()
        case Scalar(value=value):
            return shown(value)


def word(node: Node, key: str) -> str | None:
    """The text under ``key``; None where there is none."""
    value = find(node, (key,))
    return value.value if isinstance(value, Scalar) and isinstance(value.value, str) else None
