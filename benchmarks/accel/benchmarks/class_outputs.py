"""Class scores that a row left in a file, read a piece at a time: what was predicted, and how sure it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from accel.contracts import Array

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

PIECE_VALUES = 1 << 20
"""Values of one output held at once, as float64."""

UNKNOWN = -1
"""The prediction of a sample whose scores hold NaN: no class, and so never right."""

_SUM_OF_SHARES = 1e-3


def class_scores(output: Path | Array) -> Array | None:
    """(n, classes) of an array or ``.npy`` file, which stays on disk; None where it is not at least two scores a sample."""
    scores: Array = np.load(output, mmap_mode="r", allow_pickle=False) if isinstance(output, Path) else output
    if scores.ndim > 2 and all(axis == 1 for axis in scores.shape[2:]):
        scores = scores.reshape(scores.shape[:2])
    return scores if scores.ndim == 2 and scores.shape[1] > 1 and scores.dtype.kind in "uif" else None


def pieces(scores: Array) -> Iterator[tuple[slice, Floats]]:
    """All rows of (n, classes), so many at a time that they fit in little memory."""
    step = max(1, PIECE_VALUES // scores.shape[1])
    for start in range(0, len(scores), step):
        rows = slice(start, min(start + step, len(scores)))
        yield rows, scores[rows].astype(np.float64)


def largest(piece: Floats) -> Integers:
    """(n,): the first of the largest scores, as top-1 counts it; UNKNOWN with NaN."""
    found: Integers = piece.argmax(axis=1).astype(np.int64)
    found[np.isnan(piece).any(axis=1)] = UNKNOWN
    return found


def predictions(scores: Array) -> Integers:
    """(n,): ``largest`` of (n, classes)."""
    found = np.empty(len(scores), dtype=np.int64)
    for rows, piece in pieces(scores):
        found[rows] = largest(piece)
    return found


def are_shares(scores: Array) -> bool:
    """Whether every row is a distribution already: no negative value, and 1 in sum to a thousandth. Logits never are."""
    for _, piece in pieces(scores):
        finite = np.isfinite(piece).all()
        if not finite or piece.min() < 0 or np.abs(piece.sum(axis=1) - 1).max() > _SUM_OF_SHARES:
            return False
    return len(scores) > 0


def softmax(piece: Floats) -> Floats:
    """(n, classes), each row 1 in sum. Infinite scores share all of it, rows of minus infinity are even; NaN stays NaN."""
    top = piece.max(axis=1, keepdims=True)
    infinite = np.isinf(top)
    with np.errstate(over="ignore"):  # the lowest double beneath the highest one: minus infinity is right
        shifted = np.where(infinite, np.where(piece == top, 0.0, -np.inf), piece - np.where(infinite, 0.0, top))
    powers = np.exp(shifted)
    found = powers / powers.sum(axis=1, keepdims=True)
    found[np.isnan(piece).any(axis=1)] = np.nan
    return np.asarray(found, dtype=np.float64)


def shares(piece: Floats) -> Floats:
    """(n, classes) of what is a distribution but for rounding: no negative value, 1 in sum; NaN where there is no sum."""
    kept = np.clip(np.where(np.isfinite(piece), piece, np.nan), 0.0, None)
    total = kept.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(kept, total, out=np.full_like(kept, np.nan), where=total > 0), dtype=np.float64)
