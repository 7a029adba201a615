"""pydantic's errors in the recipe's own words: what was found where, and what is allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accel.recipe.document import Document
from accel.recipe.fields import below, items, keys, suggestion, words
from accel.recipe.passes import OWN_KEYS, leaves, load
from accel.recipe.tree import Location, Node, Scalar, described, dotted, find, locate, shown, step

MAX_PROBLEMS = 50
_MAX_LISTED = 24

_REPLACED = {
    "fp16": "no runtime has such a switch any more: write `precision: fp16` on the target",
    "int8": "INT8 comes from a pass: `- type: quantize`",
    "schema_version": "the key is `version`",
    "threads": "it is `benchmark.threads`, the same for every target",
}
_SPARSITY = "a share of channels is `pruning_ratio`; sparsity means single weights, and belongs to `sparsify`"

_ALLOWED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "list_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_type": "a mapping",
    "dataclass_exact_type": "a mapping",
}
_NOISE = _ALLOWED.keys() | {"too_short", "literal_error"}


def report(document: Document, errors: Sequence[Mapping[str, Any]], annotation: Any, prefix: Location = ()) -> None:
    """Add each error to the document's problems. ``annotation``: what was validated; ``prefix``: where it stands."""
    for count, (location, kinds) in enumerate(_merged(document.root, errors, prefix)):
        if count == MAX_PROBLEMS:
            document.report(locate(document.root, prefix), f"and more: only the first {MAX_PROBLEMS} are shown")
            return
        _one(document, location, kinds, annotation, prefix)


def _merged(
    root: Node, errors: Sequence[Mapping[str, Any]], prefix: Location
) -> Iterator[tuple[Location, list[Mapping[str, Any]]]]:
    """Errors by real place, with those of union members that the text cannot have meant left out.

    pydantic tries each member of ``Arrays | str`` and reports all of them: for a mapping, "a string was expected" is noise;
    where no member fits at all, the place gets one problem that lists what is allowed.
    """
    places: dict[Location, list[Mapping[str, Any]]] = {}
    for error in errors:
        places.setdefault(_real(root, (*prefix, *error["loc"]), error["type"]), []).append(error)
    for location, here in places.items():
        deeper = any(other[: len(location)] == location and len(other) > len(location) for other in places)
        if deeper and all(error["type"] in _NOISE for error in here) and find(root, location) is not None:
            continue  # another member of the union was entered further, or an item that is wrong was not counted
        yield location, here


def _real(root: Node, location: Location, kind: str) -> Location:
    """The location without the names of union members: what is in the tree, and the key that is missing from it."""
    real: list[str | int] = []
    node: Node | None = root
    for index, part in enumerate(location):
        found = step(node, part)
        if found:
            node = found[1]
            real.append(part)
        elif kind == "missing" and index == len(location) - 1:
            real.append(part)
    return tuple(real)


def _one(
    document: Document, location: Location, errors: Sequence[Mapping[str, Any]], annotation: Any, prefix: Location
) -> None:
    errors = [error for error in errors if error["type"] != "too_short"] or errors  # of what was a lone wrong value
    kinds = {error["type"] for error in errors}
    error = errors[0]
    node = find(document.root, location)
    if kinds & {"extra_forbidden", "unexpected_keyword_argument"}:
        document.report_at(location, _unknown_key(location, annotation, prefix), key=True)
    elif kinds == {"missing"}:
        place = "" if len(location) == 1 else f" in {dotted(location[:-1])}"
        if isinstance(location[-1], int):
            document.report_at(location[:-1], f"found {described(find(document.root, location[:-1]))}, too short")
        else:
            document.report(locate(document.root, location), f"the key {location[-1]!r} is missing{place}")
    elif kinds == {"literal_error"}:
        meant = below([annotation], location[len(prefix) :])
        allowed = words(meant) or words(items(meant))  # one word may stand for a list of it
        listed = ", ".join(allowed) if allowed else error["ctx"]["expected"].replace("'", "")
        near = suggestion(node.value, allowed) if isinstance(node, Scalar) else ""
        extra = _precision_hint(location, node)
        document.report_at(location, f"found {described(node)}, allowed: {listed}{near}{extra}")
    elif kinds <= _ALLOWED.keys() | {"literal_error"}:
        allowed = list(dict.fromkeys(_ALLOWED.get(one["type"]) or _words_of(one) for one in errors))
        listed = [word for one in errors if one["type"] == "literal_error" for word in _words_of(one).split(", ")]
        near = suggestion(node.value, listed) if isinstance(node, Scalar) and listed else ""
        told = f"found {described(node)}, allowed: {' or '.join(allowed)}{near}{_quotes_hint(node, kinds)}"
        document.report_at(location, told)
    else:
        error = next(one for one in errors if one["type"] not in _ALLOWED)
        message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        message = message.replace("Input should be", "must be").replace("Input should", "must").replace("String should", "must")
        found = f"found {described(node)}, " if isinstance(node, Scalar) or error["type"].startswith("too_") else ""
        document.report_at(location, f"{found}{_plainer(error) or message}")


def _words_of(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")


def _plainer(error: Mapping[str, Any]) -> str:
    """Words for a pattern or a length, which pydantic's message leaves to the reader."""
    context = error.get("ctx") or {}
    if error["type"] == "string_pattern_mismatch" and ":" in context["pattern"]:
        return "allowed: file.py:name, package.module:name"
    if error["type"] == "string_pattern_mismatch":
        start = "a letter or digit" if "0-9]" in context["pattern"][:14] else "a letter"
        rest = "letters, digits, . _ -" if "._-" in context["pattern"] else "letters, digits, _"
        return f"allowed: {start}, then {rest}"
    if error["type"] in ("too_long", "too_short"):
        few, count = ("at most", context["max_length"]) if error["type"] == "too_long" else ("at least", context["min_length"])
        return f"allowed: {few} {count} of them"
    if error["type"] == "string_too_short":
        return "allowed: text that is not empty"
    return ""


def _quotes_hint(node: Node | None, kinds: set[str]) -> str:
    is_text = isinstance(node, Scalar) and node.value is not None and not isinstance(node.value, str)
    return "; write it in quotes" if is_text and kinds == {"string_type"} else ""


def _precision_hint(location: Location, node: Node | None) -> str:
    is_int8 = isinstance(node, Scalar) and node.value == "int8"
    return "; INT8 comes from a pass: `- type: quantize`" if is_int8 and location[-1] == "precision" else ""


def _unknown_key(location: Location, annotation: Any, prefix: Location) -> str:
    key = str(location[-1])
    if key in _REPLACED:
        return f"not a key here; {_REPLACED[key]}"
    known = list(keys(below([annotation], location[len(prefix) : -1])))
    if prefix[:1] == ("passes",) and len(location) == len(prefix) + 1:
        known = list(dict.fromkeys([*OWN_KEYS, *known]))
    near = suggestion(key, known)
    if key in known:
        return "not a key here: it goes with another `type`"
    if key == "sparsity" and not near:
        return f"not a key here; {_SPARSITY}"
    listed = ", ".join(known[:_MAX_LISTED]) or "none"
    engines = _engines_with(key, annotation) if len(location) == len(prefix) + 1 else ""
    return f"unknown key {shown(key)}{engines or near or f'; allowed: {listed}'}"


def _engines_with(key: str, annotation: Any) -> str:
    """The way out where the same pass has the key with another engine."""
    known = leaves()
    reference = f"{getattr(annotation, '__module__', '')}:{getattr(annotation, '__qualname__', '')}"
    here = next((leaf for leaf in known if leaf.reference == reference), None)
    if here is None or here.engine is None:
        return ""
    among = [leaf for leaf in known if (leaf.type, leaf.approach) == (here.type, here.approach) and leaf.engine]
    having = [str(leaf.engine) for leaf in among if key in keys([load(leaf)])]
    has = "has" if len(having) == 1 else "have"
    return f" for engine {here.engine}: {' and '.join(having)} {has} it" if having else ""
