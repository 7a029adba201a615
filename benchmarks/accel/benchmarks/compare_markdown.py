"""A comparison as GitHub's Markdown: verdict, box, what got worse, what got better; the rest is folded away. Light: no numpy.

The shape is that of asv's comments on pull requests: regressions and improvements are seen, what is unchanged and where it was
measured is there for who asks. At most 60,000 characters (a comment holds 65,536); the JSON has all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from accel.benchmarks.comparing import ComparedRow, Comparison, Figure, RowStatus, Side
from accel.benchmarks.untrusted import markdown

MAX_CHARACTERS = 60_000
_ROOMS = ((400, 300), (200, 100), (100, 40), (60, 12), (40, 4))
"""Characters of one text, and lines of one table: as many as fit."""


def render(found: Comparison) -> str:
    """The same for the same comparison."""
    text = ""
    for characters, lines in _ROOMS:
        text = _document(found, characters, lines)
        if len(text) <= MAX_CHARACTERS:
            return text
    return text[: MAX_CHARACTERS - 100] + "\n\n(cut here: `accel compare --format json` has the rest)\n"


def _document(found: Comparison, characters: int, lines: int) -> str:
    def shown(text: object) -> str:
        return markdown(str(text), characters)

    def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        kept = ["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *rows[:lines])]
        more = [f"\n{len(rows) - lines:,} more in the JSON."] if len(rows) > lines else []
        return "\n".join([*kept, *more])

    def figures(outcome: str) -> list[list[str]]:
        return [
            [shown(row.name), shown(one.metric), shown(one.base_text), shown(one.head_text), shown(one.change_text)]
            for row, one in _of(found, outcome)
        ]

    head = ["row", "metric", "before", "after", "change"]
    parts = [f"**{markdown(found.verdict, 4 * characters)}**", _box(found)]
    if found.gates:
        rows = [[shown(gate.name), "FAIL" if gate.failed else gate.verdict, shown(gate.text)] for gate in found.gates]
        parts += ["### Gates", table(["gate", "verdict", "found and limit"], sorted(rows, key=lambda row: row[1] != "FAIL"))]
    for outcome, title in (("regressed", "### Worse"), ("improved", "### Better")):
        if figures(outcome):
            parts += [title, table(head, figures(outcome))]
    changed = [[shown(row.name), row.status, shown(_told(row))] for row in found.rows if _told(row)]
    if changed:
        parts += ["### Rows", table(["row", "status", "what"], changed)]
    if found.incomparable:
        parts.append("\n".join(f"- ⚠ {shown(reason)}" for reason in found.incomparable))
    if found.count("unchanged"):
        parts.append(_folded(f"Unchanged ({found.count('unchanged')})", table(head, figures("unchanged"))))
    apart = [
        [shown(row.name), shown(one.metric), shown(one.base_text), shown(one.head_text), shown(one.reason or "")]
        for row, one in _of(found, "not_comparable")
    ]
    parts.append(_folded(f"Not compared ({len(apart)})", table([*head[:4], "why"], apart)) if apart else "")
    sides = [[name, *_side(side, shown)] for name, side in (("base", found.base), ("head", found.head))]
    differences = [[shown(one.what), shown(one.base), shown(one.head)] for one in found.surroundings]
    where = table(["", "report", "made", "accel", "commit"], sides)
    if differences:
        where += "\n\n" + table(["differs", "base", "head"], differences)
    parts.append(_folded("Base, head and where they were measured", where))
    return "\n\n".join(part for part in parts if part) + "\n"


def _of(found: Comparison, outcome: str) -> list[tuple[ComparedRow, Figure]]:
    return [(row, figure) for row in found.rows for figure in row.figures if figure.outcome == outcome]


def _box(found: Comparison) -> str:
    """GitHub's coloured box with the counts: anywhere else it is a quotation."""
    worse, better = found.count("regressed"), found.count("improved")
    gone = len(found.names("removed")) + len(found.names("broken"))
    failed = sum(gate.failed for gate in found.gates)
    kind = "CAUTION" if failed else "WARNING" if worse or gone else "TIP" if better else "NOTE"
    counts = [f"{worse} worse", f"{better} better", f"{found.count('unchanged')} unchanged"]
    counts += [f"{found.count('not_comparable')} not compared"] if found.count("not_comparable") else []
    statuses: tuple[RowStatus, ...] = ("removed", "added", "broken", "mended")
    counts += [f"{len(names)} rows {status}" for status in statuses if (names := found.names(status))]
    return f"> [!{kind}]\n> {', '.join(counts)}"


def _told(row: ComparedRow) -> str:
    """What there is to say of the row besides its figures; empty for most."""
    if row.status != "compared":
        return row.reason or {"added": "not in base", "removed": "not in head"}.get(row.status, row.status)
    if row.base_precision != row.head_precision:
        return f"executed precision: {row.base_precision or 'unknown'}, now {row.head_precision or 'unknown'}"
    return ""


def _side(side: Side, shown: Callable[[object], str]) -> list[str]:
    commit = "" if side.source is None else f"{side.source.commit}{' with local changes' if side.source.dirty else ''}"
    return [shown(side.name), shown(side.created), shown(side.accel_version), shown(commit)]


def _folded(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"
