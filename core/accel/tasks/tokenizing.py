"""From a text to the rows that a model takes, by a tokenizer that the recipe names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from accel.errors import DataFault, UsageError
from accel.imports import ImportPolicy, load, running
from accel.tasks.settings import Tokenizer
from accel.tasks.text_reader import as_row

if TYPE_CHECKING:
    from accel.contracts import Array


def open_tokenizer(settings: Tokenizer | None, policy: ImportPolicy) -> Callable[[str, str], dict[str, Array]]:
    """``tokenize(text, place)`` by the recipe's tokenizer: one row of integers (length,) for each input, by name.

    A tokenizer of Hugging Face gives just that; whatever truncates is its own affair. UsageError without one, and for a factory
    that gives nothing to call; DataFault naming ``place`` for what it raises, and for anything but rows of integers.
    """
    if settings is None:
        raise UsageError("task.tokenizer: the data is text, and nothing turns it into token ids; give {factory: file.py:name}")
    make = load(settings.factory, policy)
    with running(settings.factory, policy, DataFault):
        tokenize: Any = make(**settings.kwargs)
    if not callable(tokenize):
        raise UsageError(f"{settings.factory}: gave a {type(tokenize).__name__}, not something that can be called with a text")
    return lambda text, place: _rows(tokenize, text, f"{place}: {settings.factory}", policy)


def _rows(tokenize: Callable[[str], Any], text: str, place: str, policy: ImportPolicy) -> dict[str, Array]:
    with running(place, policy, DataFault):
        found = tokenize(text)
    if not isinstance(found, Mapping) or not found:
        raise DataFault(f"{place}: gave a {type(found).__name__}; a tokenizer gives {{input: row of integers}} for one text")
    rows = {}
    for name, value in found.items():
        row = as_row(value, f"{place}: {name}")
        if row.ndim == 2 and len(row) == 1:
            row = row[0]  # of return_tensors="np", which adds a batch axis
        if row.ndim != 1 or row.dtype.kind not in "ui":
            raise DataFault(f"{place}: {name} is {row.dtype} {row.shape}; give one row of integers for one text")
        rows[str(name)] = row
    return rows
