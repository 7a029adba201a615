"""``key.path=value`` from the command line, put into the tree before it is checked."""

from __future__ import annotations

from collections.abc import Sequence

from accel.errors import RecipeError
from accel.recipe.document import Document, parse_value
from accel.recipe.tree import MAX_DEPTH, SURROGATE, Entries, Items, Node, Place, Scalar, described, dotted, shown


class _Misfit(Exception):
    """An override has no place in the tree; the message says why."""


def apply(document: Document, overrides: Sequence[str]) -> None:
    """Put each override into the document, in order; what does not fit is reported.

    A value is YAML (``seed=3``, ``passes.2.calibration.method=entropy``, ``targets.0.options={num_streams: 1}``); lists go by
    index. A key that the recipe does not give is added: whether there is such a key is for the checks that follow.
    """
    for override in overrides:
        place = Place(override=override)
        path, equals, text = override.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(parts) or len(parts) > MAX_DEPTH or SURROGATE.search(override):
            document.report(place, "write key.path=value, such as benchmark.warmup=20")
            continue
        try:
            value = parse_value(text, override)
            document.problems += value.problems
            document.root = _having(document.root, parts, value.root, ())
        except RecipeError as error:
            document.problems += error.problems
        except _Misfit as misfit:
            document.report(place, str(misfit))


def _having(node: Node, parts: Sequence[str], value: Node, trail: tuple[str, ...]) -> Node:
    if not parts:
        return value
    part, rest = parts[0], parts[1:]
    if isinstance(node, Scalar) and node.value is None:
        node = Entries({}, value.place)
    if isinstance(node, Items):
        if not (part.isascii() and part.isdigit() and len(part) < 6 and int(part) < len(node.items)):
            known = f"0 to {len(node.items) - 1}" if node.items else "none: it is empty"
            raise _Misfit(f"{dotted(trail)} is a list, and {shown(part)} is not an index of it ({known})")
        changed = list(node.items)
        changed[int(part)] = _having(changed[int(part)], rest, value, (*trail, part))
        return Items(tuple(changed), node.place)
    if isinstance(node, Entries):
        changed_inside = _having(node.get(part) or Scalar(None, value.place), rest, value, (*trail, part))
        return node.having(part, changed_inside, value.place)
    raise _Misfit(f"{dotted(trail)} is {described(node)}, which has nothing inside")
