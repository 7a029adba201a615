"""Where vectors point: how alike those of two models are, and which of one model lie side by side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_PIECE = 512
"""Samples that are worked on at once."""


def cosines(ours: Array, theirs: Array) -> NDArray[np.float64]:
    """(samples,): the cosine of the angle between the two vectors (samples, width) of each sample, in [-1, 1].

    A vector with NaN or infinity has cosine 0; so has one of length 0, unless both are.
    """
    found = np.empty(len(ours), np.float64)
    for start in range(0, len(ours), _PIECE):
        rows = slice(start, start + _PIECE)
        mine, other = ours[rows].astype(np.float64), theirs[rows].astype(np.float64)
        usable = np.isfinite(np.concatenate([mine, other], axis=1)).all(axis=1)
        mine, other = (np.where(usable[:, None], each, 0.0) for each in (mine, other))
        one, two = np.linalg.norm(mine, axis=1), np.linalg.norm(other, axis=1)
        both = (one > 0) & (two > 0)
        ratio = (mine * other).sum(axis=1) / np.where(both, one * two, 1.0)
        found[rows] = np.where(usable & (one == 0) & (two == 0), 1.0, np.where(both, np.clip(ratio, -1.0, 1.0), 0.0))
    return found


def nearest(vectors: Array) -> NDArray[np.int64]:
    """(samples,): the index of the other sample whose vector (samples, width) points most nearly the same way; at least two.

    Of equals the first. NaN and infinity count as 0.
    """
    whole = np.nan_to_num(vectors.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    length = np.linalg.norm(whole, axis=1, keepdims=True)
    unit = whole / np.where(length > 0, length, 1.0)
    found = np.empty(len(unit), np.int64)
    for start in range(0, len(unit), _PIECE):
        piece = unit[start : start + _PIECE] @ unit.T
        rows = np.arange(len(piece))
        piece[rows, start + rows] = -np.inf  # not itself
        found[start : start + _PIECE] = piece.argmax(axis=1)
    return found
