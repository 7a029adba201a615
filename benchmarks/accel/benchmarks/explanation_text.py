"""An explanation for people: lines for a terminal or a log, and GitHub's Markdown. No numpy, no rich."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from accel.benchmarks.explanation import Conversion, Explanation, NotInt8, Summary
from accel.benchmarks.explanation_places import Place, Took
from accel.benchmarks.figures import NONE, milliseconds
from accel.benchmarks.untrusted import markdown, plain

ROWS = 20
"""Lines of one table; the JSON has all of them."""

_LONGEST, _LONGEST_NAME = 400, 80


def record(found: Explanation) -> dict[str, Any]:
    """JSON-ready, with ``change_ms`` for each place."""
    told = asdict(found)
    for entry, place in zip(told["places"], found.places, strict=True):
        entry["change_ms"] = place.change_ms
    return told


def text(found: Explanation) -> str:
    """Lines without markup."""
    parts = [_heading(found, plain)]
    parts += [f"  {plain(line, _LONGEST)}" for line in found.told]
    for title, head, rows in _tables(found, plain):
        parts += ["", f"{title}:", *_aligned(head, rows[:ROWS])]
        if len(rows) > ROWS:
            parts.append(f"  and {len(rows) - ROWS:,} more; --json has them all")
    for reason, way_out, nodes in _reasons(found.not_int8):
        parts += ["", f"why {plain(nodes[0], _LONGEST_NAME)}: {plain(reason, _LONGEST)}"]
        parts += [f"    way out: {plain(way_out, _LONGEST)}"]
        parts += [f"    also: {_few(nodes[1:], plain)}"] if nodes[1:] else []
    parts += [f"note: {plain(note, _LONGEST)}" for note in _notes(found)]
    return "\n".join(parts) + "\n"


def document(found: Explanation) -> str:
    """Markdown; names are text in it, whatever they hold."""
    parts = [f"**{_heading(found, markdown)}**", "\n".join(f"- {markdown(line, _LONGEST)}" for line in found.told)]
    for title, head, rows in _tables(found, markdown):
        lines = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows[:ROWS])]
        more = [f"\n{len(rows) - ROWS:,} more in the JSON."] if len(rows) > ROWS else []
        parts.append("\n".join([f"### {title[0].upper()}{title[1:]}", "", *lines, *more]))
    reasons = [
        f"- {markdown(nodes[0], _LONGEST_NAME)}: {markdown(reason, _LONGEST)}\n  *Way out:* {markdown(way_out, _LONGEST)}"
        + (f"\n  *Also:* {_few(nodes[1:], markdown)}" if nodes[1:] else "")
        for reason, way_out, nodes in _reasons(found.not_int8)
    ]
    if reasons:
        parts.append("\n".join(["### Why", "", *reasons]))
    if notes := _notes(found):
        parts.append("\n".join(f"- {markdown(note, _LONGEST)}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


_Shown = Callable[[str, int], str]
_Table = tuple[str, list[str], list[list[str]]]


def _heading(found: Explanation, shown: _Shown) -> str:
    after = shown(found.after.name, _LONGEST)
    return after if found.before is None else f"{after}, against {shown(found.before.name, _LONGEST)}"


def _tables(found: Explanation, shown: _Shown) -> list[_Table]:
    tables: list[_Table] = []
    if found.not_int8:
        head = ["node", "kind", "what", "ran in", "before", "after"]
        tables.append(("did not run in INT8", head, [_missing(each, shown) for each in found.not_int8]))
    if found.conversions:
        head = ["conversion", "kind", "time", "beside"]
        tables.append(("conversions", head, [_conversion(each, shown) for each in found.conversions]))
    if found.places and found.before is not None:
        head = ["place", "before", "in", "after", "in", "change"]
        tables.append(("where the time went", head, [_compared(each, shown) for each in found.places]))
    elif found.places:
        rows = [[shown(each.title, _LONGEST_NAME), *_took(each.after, shown)] for each in found.places]
        tables.append(("where the time goes", ["place", "time", "in"], rows))
    return tables


def _missing(each: NotInt8, shown: _Shown) -> list[str]:
    cells = [
        shown(each.node, _LONGEST_NAME),
        shown(each.kind, _LONGEST_NAME),
        each.status,
        shown(each.precision, _LONGEST_NAME),
    ]
    return [*cells, milliseconds(each.before_ms), milliseconds(each.after_ms)]


def _conversion(each: Conversion, shown: _Shown) -> list[str]:
    beside = ", ".join(shown(node, _LONGEST_NAME) for node in each.beside[:3]) or NONE
    return [shown(each.layer, _LONGEST_NAME), shown(each.kind, _LONGEST_NAME), milliseconds(each.ms), beside]


def _compared(each: Place, shown: _Shown) -> list[str]:
    change = NONE if each.change_ms is None else f"{each.change_ms:+.4f} ms"
    return [shown(each.title, _LONGEST_NAME), *_took(each.before, shown), *_took(each.after, shown), change]


def _took(took: Took | None, shown: _Shown) -> list[str]:
    return [NONE, NONE] if took is None else [milliseconds(took.ms), shown(", ".join(took.precisions), _LONGEST_NAME)]


def _reasons(missing: Sequence[NotInt8]) -> list[tuple[str, str, list[str]]]:
    """Each reason once, as it is said of the first of the nodes that it is given for."""
    found: dict[tuple[str, str], list[NotInt8]] = {}
    for each in missing:
        found.setdefault((each.rule or each.why, each.way_out), []).append(each)
    return [(same[0].why, same[0].way_out, [each.node for each in same]) for same in found.values()]


def _few(nodes: Sequence[str], shown: _Shown) -> str:
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return ", ".join(shown(node, _LONGEST_NAME) for node in nodes[:3]) + more


def _notes(found: Explanation) -> list[str]:
    sides: list[Summary] = [side for side in (found.before, found.after) if side is not None]
    return [f"{side.name}: {note}" for side in sides for note in side.notes]


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(line[index]) for line in (head, *rows)) for index in range(len(head))]
    return [
        "  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *rows)
    ]
