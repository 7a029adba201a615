"""YAML text to a tree that remembers where each thing stands.

ruamel.yaml (pure Python) scans and parses; the tree is made here, from its stream of events, so that hostile text is refused
while it is read: a bomb of aliases, brackets 20,000 deep, a tag that names code. Plain scalars mean what the core schema of
YAML 1.2.2 (section 10.3.2) says: ``no`` and ``12:30`` are text, ``1e-3`` and ``012`` are numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NoReturn

from accel.errors import Problem, RecipeError
from accel.recipe.tree import (
    MAX_DEPTH,
    SURROGATE,
    Entries,
    Items,
    Location,
    Node,
    Place,
    Scalar,
    described,
    dotted,
    locate,
    shown,
)

if TYPE_CHECKING:
    from ruamel.yaml.events import Event

MAX_BYTES = 256 * 1024
MAX_NODES = 12_000
MAX_LINE = 20_000
MAX_OPEN = 256
_SHOWN_SOURCE = 160

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # where ruamel.yaml counts a new line


@dataclass
class Document:
    """One parsed text. ``path`` is what messages call it; ``problems`` what is wrong so far, in no order."""

    path: str
    root: Node
    lines: Sequence[str] = ()
    problems: list[Problem] = field(default_factory=list)

    def report(self, place: Place, message: str) -> None:
        self.problems.append(problem(place, message, self.lines))

    def report_at(self, location: Location, message: str, *, key: bool = False) -> None:
        """Report ``location: message`` at the value there, or at its key."""
        self.report(locate(self.root, location, key=key), f"{dotted(location)}: {message}" if location else message)

    def check(self) -> None:
        """Raise what was reported, if anything."""
        if self.problems:
            raise RecipeError(self.path, self.problems)


def problem(place: Place, message: str, lines: Sequence[str] = ()) -> Problem:
    """The problem with its source line, where there is one short enough to help. Control characters do not reach a terminal."""
    if place.override:
        return Problem(0, 0, _printable(f"override {shown(place.override)}: {message}"))
    source = lines[place.line - 1] if 0 < place.line <= len(lines) and place.column <= _SHOWN_SOURCE else ""
    return Problem(place.line, place.column, _printable(message), _printable(source[:_SHOWN_SOURCE]).rstrip())


def _printable(text: str) -> str:
    """As many characters, so that a caret below stays right."""
    return "".join(char if char.isprintable() else " " if char == "\t" else "\N{REPLACEMENT CHARACTER}" for char in text)


def parse(raw: bytes, path: str, size: int = 0) -> Document:
    """The document in ``raw``; RecipeError at the first thing that keeps it from being one.

    Duplicate keys, tags and the like are collected in ``problems`` instead, so that the rest is checked too.
    ``size``: of the file, where only its start was read.
    """
    size = max(size, len(raw))
    if size > MAX_BYTES:
        raise RecipeError(path, [Problem(0, 0, f"the file has {size:,} bytes; a recipe has at most {MAX_BYTES:,}")])
    text = _decode(raw, path)
    lines = _LINE_BREAK.split(text)
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_LINE:
            raise RecipeError(
                path, [Problem(number, 1, f"the line has {len(line):,} characters, at most {MAX_LINE:,} are read")]
            )
        if _opened(line) > MAX_OPEN:
            raise RecipeError(path, [Problem(number, 1, f"the line opens more than {MAX_OPEN} brackets")])
        if "\0" in line:
            place = Place(number, line.index("\0") + 1)
            raise RecipeError(path, [problem(place, "a NUL character; save the file as plain UTF-8 text")])
    return _compose(text, path, lines, "")


def parse_value(text: str, override: str) -> Document:
    """The value on the right of an override, with that override as the place of everything in it."""
    if len(text) > MAX_LINE or _opened(text) > MAX_OPEN or "\0" in text:
        raise RecipeError(
            "", [problem(Place(override=override), "the value is too long, opens too many brackets or has a NUL character")]
        )
    return _compose(text, "", (), override)


def _opened(line: str) -> int:
    """How many brackets stand open at most. The scanner looks 1,024 of them ahead before it gives the first to the parser, in
    quadratic time. Brackets in text count too: the limit leaves room for them."""
    if line.count("[") + line.count("{") <= MAX_OPEN:
        return 0
    depths = accumulate((char in "[{") - (char in "]}") for char in line)
    return max(depths)


def _decode(raw: bytes, path: str) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise RecipeError(path, [Problem(0, 0, "the file is UTF-16 or UTF-32; save it as UTF-8")])
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8", "replace").split("\n")
        place = Place(len(before), len(before[-1]) + 1)
        raise RecipeError(
            path, [problem(place, f"byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8")]
        ) from None


def _compose(text: str, path: str, lines: Sequence[str], override: str) -> Document:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    document = Document(path, Scalar(None, Place(override=override)), lines)
    composer = _Composer(document, override)
    try:
        document.root = composer.document(YAML(typ="safe", pure=True).parse(text))
    except RecipeError:
        raise
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = composer.place(mark) if mark else Place(override=override)
        context = error.context or ""
        if context and error.context_mark and not override:
            context += f" that starts in line {error.context_mark.line + 1},"
        what = " ".join(part for part in (context, error.problem) if part)
        document.report(place, f"not YAML: {' '.join(what.split())}{_hint(text, place, what)}")
    except YAMLError as error:
        document.report(Place(override=override), f"not YAML: {' '.join(str(error).split())[:200]}")
    except Exception as error:  # noqa: BLE001 the parser meets arbitrary text here: its own slips are the text's fault
        document.report(Place(override=override), f"not YAML: {type(error).__name__} in the parser: {str(error)[:200]}")
    else:
        return document
    raise RecipeError(path, document.problems)


def _hint(text: str, place: Place, what: str) -> str:
    line = _LINE_BREAK.split(text)[place.line - 1] if place.line else ""
    if "\\t" in what or "\t" in line[: len(line) - len(line.lstrip())]:
        return "; indent with spaces, not tabs"
    if "flow sequence" in what or "flow mapping" in what:
        return "; is a bracket left open?"
    return ""


class _Composer:
    """Events to nodes, within the limits. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, document: Document, override: str) -> None:
        self._document = document
        self._override = override
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._events: Iterator[Any] = iter(())

    def place(self, mark: Any) -> Place:
        return Place(override=self._override) if self._override else Place(mark.line + 1, mark.column + 1)

    def document(self, events: Iterator[Any]) -> Node:
        """The one document; an empty text is a null scalar."""
        from ruamel.yaml.events import DocumentStartEvent, StreamEndEvent

        self._events = events
        next(events)  # the start of the stream
        event = next(events)
        if isinstance(event, StreamEndEvent):
            return Scalar(None, Place(override=self._override))
        root, _ = self._node(next(events), 0)
        next(events)  # the end of the document
        event = next(events)
        if isinstance(event, DocumentStartEvent):
            self._stop(event, "a second document starts here; a recipe is one document")
        return root

    def _stop(self, event: Event, message: str) -> NoReturn:
        self._document.report(self.place(event.start_mark), message)
        raise RecipeError(self._document.path, self._document.problems)

    def _node(self, event: Any, depth: int) -> tuple[Node, int]:
        """The node that starts with ``event``, and how many nodes it has with its aliases written out."""
        from ruamel.yaml.events import AliasEvent, MappingStartEvent, ScalarEvent

        place = self.place(event.start_mark)
        if depth > MAX_DEPTH:
            self._stop(event, f"nested more than {MAX_DEPTH} deep")
        if isinstance(event, AliasEvent):
            return self._alias(event)
        anchor = event.anchor
        if event.tag is not None:
            self._document.report(
                place, f"the tag {shown(str(event.tag))} is not taken; write the value plainly, text in quotes"
            )
        if anchor is not None:
            self._anchors[anchor] = None
        node: Node
        if isinstance(event, ScalarEvent):
            node, size = self._scalar(event, place), 1
        elif isinstance(event, MappingStartEvent):
            node, size = self._mapping(place, depth)
        else:
            node, size = self._items(place, depth)
        if size > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES:,} values with the aliases written out")
        if anchor is not None:
            self._anchors[anchor] = (node, size)
        return node, size

    def _alias(self, event: Any) -> tuple[Node, int]:
        if event.anchor not in self._anchors:
            self._stop(event, f"no anchor &{event.anchor} above")
        found = self._anchors[event.anchor]
        if found is None:
            self._stop(event, f"&{event.anchor} holds itself")
        return found

    def _items(self, place: Place, depth: int) -> tuple[Node, int]:
        from ruamel.yaml.events import SequenceEndEvent

        items: list[Node] = []
        size = 1
        while not isinstance(event := next(self._events), SequenceEndEvent):
            item, more = self._node(event, depth + 1)
            size += more
            if size > MAX_NODES:
                self._stop(event, f"more than {MAX_NODES:,} values with the aliases written out")
            items.append(item)
        return Items(tuple(items), place), size

    def _mapping(self, place: Place, depth: int) -> tuple[Node, int]:
        from ruamel.yaml.events import MappingEndEvent, ScalarEvent

        entries: dict[str, tuple[Place, Node]] = {}
        merged: dict[str, tuple[Place, Node]] = {}
        size = 1
        while not isinstance(event := next(self._events), MappingEndEvent):
            key_place = self.place(event.start_mark)
            if not isinstance(event, ScalarEvent):
                self._stop(event, "a key must be one word of text")
            key = str(event.value)
            plain_key = bool(event.implicit and event.implicit[0])
            if event.tag is not None or SURROGATE.search(key):
                self._document.report(key_place, f"the key {shown(key)} must be plain text")
                key = SURROGATE.sub("?", key)
            value_event = next(self._events)
            value, more = self._node(value_event, depth + 1)
            size += more
            if size > MAX_NODES:
                self._stop(value_event, f"more than {MAX_NODES:,} values with the aliases written out")
            if event.anchor is not None:
                self._anchors[event.anchor] = (Scalar(key, key_place), 1)
            if key == "<<" and plain_key:
                self._merge(merged, value, key_place)
            elif key in entries:
                first = entries[key][0]
                self._document.report(key_place, f"{shown(key)} is given twice, first in line {first.line}; keep one")
            else:
                entries[key] = (key_place, value)
        return Entries({**merged, **entries}, place), size

    def _merge(self, merged: dict[str, tuple[Place, Node]], value: Node, place: Place) -> None:
        """``<<: *a`` or ``<<: [*a, *b]``: the first to give a key wins, and the mapping's own keys win over all."""
        for source in value.items if isinstance(value, Items) else (value,):
            if isinstance(source, Entries):
                for key, entry in source.entries.items():
                    merged.setdefault(key, entry)
            else:
                self._document.report(place, f"<< takes a mapping or a list of them, found {described(source)}")

    def _scalar(self, event: Any, place: Place) -> Scalar:
        text = str(event.value)
        if SURROGATE.search(text):
            self._document.report(place, f"{shown(text)} is not Unicode text")
            return Scalar("", place)
        if not (event.implicit and event.implicit[0]):
            return Scalar(text, place)
        value = resolved(text)
        if isinstance(value, float) and not math.isfinite(value):
            self._document.report(place, f"{shown(text)} is not a finite number")
            return Scalar(0, place)
        return Scalar(value, place)


def resolved(text: str) -> str | int | float | bool | None:
    """What a plain scalar means in YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        if text.startswith(("0o", "0x")):
            return int(text, 0)
        return int(text) if len(text) < 40 else float(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return math.nan
    return text
