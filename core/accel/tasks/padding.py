"""Rows of different lengths to the arrays of one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from accel.errors import DataFault

if TYPE_CHECKING:
    from accel.contracts import Array
    from accel.model import TensorSpec


def batched(
    rows: Sequence[Mapping[str, Array]],
    places: Sequence[str],
    specs: Sequence[TensorSpec],
    *,
    length: int | None,
    pad_values: Mapping[str, int],
) -> dict[str, Array]:
    """Each input's rows as one array (n, length, ...), filled up at the end, in the type that the model takes.

    ``specs``: the model's inputs, none where they are not known: then all that the rows have is given. ``length``: of all rows;
    None: that of the longest. An axis that the model fixes decides in any case. DataFault names the sample that does not fit.
    """
    names = [spec.name for spec in specs] or list(rows[0])
    for row, place in zip(rows, places, strict=True):
        missing = [name for name in names if name not in row]
        if missing:
            raise DataFault(f"{place}: has {', '.join(row) or 'no arrays'}, but the model takes {', '.join(missing)} too")
    known = {spec.name: spec for spec in specs}
    return {
        name: _filled([row[name] for row in rows], places, name, known.get(name), length, pad_values.get(name, 0))
        for name in names
    }


def _filled(
    rows: Sequence[Array], places: Sequence[str], name: str, spec: TensorSpec | None, length: int | None, value: int
) -> Array:
    dtype = np.dtype(spec.dtype) if spec is not None else np.result_type(*rows)
    fixed = spec.shape[1] if spec is not None and len(spec.shape) > 1 else None
    wanted = fixed if isinstance(fixed, int) else length
    longest = max((len(row) for row in rows if row.ndim), default=0)
    size = longest if wanted is None else wanted
    whose = "the model takes" if wanted == fixed else "task.padding says"
    filled: list[Array] = []
    for row, place in zip(rows, places, strict=True):
        if spec is not None and row.ndim != len(spec.shape) - 1:
            shown = ", ".join(map(str, spec.shape[1:]))
            raise DataFault(f"{place}: {name} has shape {row.shape}, but the model takes ({shown}) of each sample")
        if not row.ndim:
            filled.append(_cast(row, dtype, f"{place}: {name}"))
            continue
        if len(row) > size:
            raise DataFault(f"{place}: {name} has {len(row)} tokens, and {whose} {size}; truncate in the tokenizer")
        if row.shape[1:] != rows[0].shape[1:]:
            raise DataFault(f"{place}: {name} has shape {row.shape}, others {rows[0].shape}")
        whole = np.full((size, *row.shape[1:]), value, dtype)
        whole[: len(row)] = _cast(row, dtype, f"{place}: {name}")
        filled.append(whole)
    return np.stack(filled)


def _cast(row: Array, dtype: np.dtype[np.generic], place: str) -> Array:
    """``row`` as ``dtype``; DataFault where that would lose more than precision."""
    if row.dtype == dtype:
        return row
    with np.errstate(invalid="ignore", over="ignore"):
        found = row.astype(dtype)
    if not (row.dtype.kind == "f" and dtype.kind == "f") and not np.array_equal(found, row):
        raise DataFault(f"{place}: is {row.dtype}, which does not fit into the model's {dtype}; store it as {dtype}")
    return found
