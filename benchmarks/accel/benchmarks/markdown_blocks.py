"""What a Markdown report is made of: tables, lists, folds and callouts, and how much of everything is shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from accel.benchmarks.untrusted import summary

Shown = Callable[[object], str]
"""Text of others, made harmless and cut to the room's length."""


@dataclass(frozen=True)
class Room:
    """How much is shown: characters of one text; rows, steps, points and layers; notes of one kind; characters of one snippet.

    ``lines``: of each table besides the first, which has ``rows``.
    """

    text: int
    rows: int
    steps: int
    notes: int
    lines: int
    snippet: int


ROOMS = (
    Room(text=400, rows=100, steps=200, notes=200, lines=100, snippet=20_000),
    Room(text=300, rows=60, steps=60, notes=40, lines=40, snippet=8_000),
    Room(text=160, rows=30, steps=30, notes=10, lines=15, snippet=4_000),
    Room(text=80, rows=15, steps=10, notes=3, lines=5, snippet=0),
    Room(text=40, rows=8, steps=3, notes=1, lines=2, snippet=0),
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: range) -> str:
    """``numbers``: the columns that hold figures and are set to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def cut_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: range, limit: int) -> str:
    """A table of the first ``limit`` rows, and how many more there are."""
    text = table(head, rows[:limit], numbers)
    return text if len(rows) <= limit else f"{text}\n\n{len(rows) - limit:,} more in report.json."


def bullets(texts: Sequence[str], limit: int, shown: Shown, mark: str = "") -> str:
    """``texts`` are as they came: ``shown`` makes them harmless."""
    kept = [f"- {mark}{shown(text)}" for text in texts[:limit]]
    if len(texts) > limit:
        kept.append(f"- and {len(texts) - limit:,} more in report.json")
    return "\n".join(kept)


def folded(title: str, *parts: str) -> str:
    """``parts`` behind a line that one opens; empty where they all are. ``title`` as it came: it stands in HTML."""
    inside = "\n\n".join(part for part in parts if part)
    return f"<details><summary>{summary(title)}</summary>\n\n{inside}\n\n</details>" if inside else ""


def callout(kind: Literal["CAUTION", "WARNING", "TIP"], lines: Sequence[str]) -> str:
    """GitHub's coloured box. ``lines`` are harmless already; anywhere else it is a quotation that says its kind."""
    return "\n".join([f"> [!{kind}]", *(f"> {line}  " for line in lines)])


def marker(name: str) -> str:
    """An invisible line by which a comment on a pull request is found again and replaced, whatever ``name`` holds."""
    harmless = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9_.-]+", "_", name))[:64].strip("-")
    return f"<!-- accel-report:{harmless or '_'} -->"
