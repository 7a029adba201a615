"""Rows of (file, label) or (text, label) from a CSV's text. Light: the standard library only."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from accel.errors import DataFault, SafetyRefusal

OF_A_TAR = "a file in the tar, beside it or below that"
"""Where the CSV of a tar may lie, for the message of ``below``."""


@dataclass(frozen=True)
class Table:
    """``labels`` is None where the CSV has no label column; ``unlabelled`` then says so in one sentence."""

    files: tuple[str, ...]
    labels: tuple[int, ...] | None
    unlabelled: str = ""


@dataclass(frozen=True)
class TextTable:
    """As Table, of texts."""

    texts: tuple[str, ...]
    labels: tuple[int, ...] | None
    unlabelled: str = ""


def read_table(
    content: bytes, place: str, *, file_column: str, label_column: str, classes: Sequence[str] | None = None
) -> Table:
    """Parse UTF-8 CSV with a header line. Labels are class indices, or names where all classes are named by ``classes``.

    DataFault names ``place`` and the line; so does SafetyRefusal, for a file that is not below where the CSV's files are.
    """
    columns, rows = _parsed(content, place, file_column, label_column)
    if file_column not in columns:
        raise DataFault(f"{place}: no column {file_column!r}; it has {', '.join(columns)}; set file_column")
    files = tuple(below(_cell(row, file_column, place, line), f"{place}:{line}") for line, row in rows)
    return Table(files, *_labels(columns, rows, label_column, place, classes))


def read_texts(
    content: bytes, place: str, *, text_column: str, label_column: str, classes: Sequence[str] | None = None
) -> TextTable:
    """As :func:`read_table`, of a CSV that holds the texts themselves; they stay as they are, spaces included."""
    columns, rows = _parsed(content, place, text_column, label_column)
    if text_column not in columns:
        raise DataFault(f"{place}: no column {text_column!r}; it has {', '.join(columns)}; set text_column")
    for line, row in rows:
        _cell(row, text_column, place, line)
    texts = tuple(str(row[text_column]) for _, row in rows)
    return TextTable(texts, *_labels(columns, rows, label_column, place, classes))


_Rows = Sequence[tuple[int, dict[str, str | None]]]


def _parsed(content: bytes, place: str, *wanted: str) -> tuple[list[str], _Rows]:
    """The columns, and each row with the line it ends on."""
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        columns = list(reader.fieldnames or ())
        rows: _Rows = [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise DataFault(f"{place}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise DataFault(f"{place}: not a CSV: {error}") from None
    if not columns:
        raise DataFault(f"{place}: empty; its first line names the columns, {' and '.join(map(repr, wanted))}")
    return columns, rows


def _labels(
    columns: Sequence[str], rows: _Rows, column: str, place: str, classes: Sequence[str] | None
) -> tuple[tuple[int, ...] | None, str]:
    """The labels, or None and why there are none."""
    if column not in columns:
        return None, f"{place} has no column {column!r} (it has {', '.join(columns)}); set label_column"
    index = {name: position for position, name in enumerate(classes or ())}
    return tuple(_label(_cell(row, column, place, line), index, f"{place}:{line}") for line, row in rows), ""


def below(name: str, place: str, allowed: str = "a name below the folder that the files are relative to") -> str:
    """``name``, which leads below the folder it is relative to. SafetyRefusal for one that is absolute or goes up: data from
    elsewhere would choose which files of this machine are read. ``allowed``: what the message offers instead."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        fact = "is an absolute path" if path.is_absolute() else "goes up with .."
        raise SafetyRefusal(f"{place}: {name!r} {fact}; allowed: {allowed}")
    return name


def _cell(row: dict[str, str | None], column: str, place: str, line: int) -> str:
    value = (row.get(column) or "").strip()
    if not value:
        raise DataFault(f"{place}:{line}: {column} is empty")
    return value


def _label(text: str, classes: dict[str, int], place: str) -> int:
    if text in classes:
        return classes[text]
    try:
        return int(text)
    except ValueError:
        known = "which task.classes does not name" if classes else "not a class index; name the classes in task.classes"
        raise DataFault(f"{place}: label {text!r}, {known}") from None
