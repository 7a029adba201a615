"""Tables that the script can sort: a value beside each shown text, heads with scope, a box of their own to scroll in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from accel.benchmarks import figures
from accel.benchmarks.html.markup import shown


@dataclass(frozen=True)
class Column:
    """``head`` is plain text; ``note``: what it means, as its tooltip. ``sorts``: a picture does not."""

    head: str
    numeric: bool = False
    note: str = ""
    sorts: bool = True


@dataclass(frozen=True)
class Cell:
    """``html`` is markup. ``value``: what it is sorted by, None for what is missing and comes last; text by itself."""

    html: str
    value: float | str | None = None
    kind: str = ""


MISSING = Cell(figures.NONE, kind="none")


def figure(text: str, value: float | None, kind: str = "") -> Cell:
    """A number with its unit, or the dash."""
    return MISSING if value is None else Cell(shown(text), value, kind)


def words(text: str) -> Cell:
    """``text`` is markup; it is sorted by what is shown."""
    return Cell(text, kind="words")


def table(
    name: str,
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[Cell]],
    *,
    ids: Sequence[str] = (),
    foot: Sequence[Cell] = (),
    compact: bool = False,
) -> str:
    """``name`` makes ids unique; ``caption`` is markup. The first cell of a row is its head.

    ``foot``: a last line that is not sorted.
    In a row that has fewer cells than there are columns, the last one takes the rest (a reason instead of figures).
    """
    head = "".join(_head(column) for column in columns)
    body = "\n".join(_row(cells, columns, ids[index] if ids else "") for index, cells in enumerate(rows))
    last = f"<tfoot>{_row(foot, columns, '')}</tfoot>" if foot else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-caption">'
        f'<table class="sortable{" compact" if compact else ""}">'
        f'<caption id="{name}-caption">{caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>{last}</table></div>"
    )


def _head(column: Column) -> str:
    title = f' title="{shown(column.note)}"' if column.note else ""
    kind = ' class="n"' if column.numeric else ""
    sorts = "" if column.sorts else ' data-fixed=""'
    return f'<th scope="col"{kind}{sorts}{title}>{shown(column.head)}</th>'


def _row(cells: Sequence[Cell], columns: Sequence[Column], identity: str) -> str:
    parts = []
    for index, cell in enumerate(cells):
        column = columns[index]
        rest = len(columns) - index if index == len(cells) - 1 else 1
        kinds = ["n"] if column.numeric and rest == 1 else []
        kinds += [cell.kind] if cell.kind not in ("", "words") else []
        attributes = f' class="{" ".join(kinds)}"' if kinds else ""
        if isinstance(cell.value, str):
            attributes += f' data-value="{shown(cell.value, 120)}"'
        elif cell.value is not None:
            attributes += f' data-value="{cell.value:.9g}"'
        elif cell.kind != "words" and column.sorts:
            attributes += ' data-value=""'
        if rest > 1:
            attributes += f' colspan="{rest}"'
        parts.append(f'<th scope="row"{attributes}>{cell.html}</th>' if index == 0 else f"<td{attributes}>{cell.html}</td>")
    return f"<tr{f' id={chr(34)}{identity}{chr(34)}' if identity else ''}>{''.join(parts)}</tr>"
