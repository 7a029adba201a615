"""How close one row's vectors are to another's: what counts is where they point, and which samples they put side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks.student import quantile
from accel.report import Estimate

if TYPE_CHECKING:
    from accel.contracts import Array

Floats = NDArray[np.float64]

MOST = 4000
"""Samples whose nearest other one is looked for, the first of them: it takes the square of their number."""

_PIECE = 512
_LEVEL = 0.95


@dataclass(frozen=True)
class Similarity:
    """``cosine``: mean of the samples', with its 95 % interval (Student's t). ``nearest_agreement``: None for fewer than 3."""

    cosine: Estimate
    nearest_agreement: float | None


def similar(ours: Array, theirs: Array) -> Similarity | None:
    """Of (samples, width) against the reference's. A vector with NaN or infinity has cosine 0 and agrees with none; so has one
    of length 0, unless both are. None without samples."""
    found = cosines(ours, theirs)
    if not len(found):
        return None
    mean = float(found.mean())
    if len(found) < 2:
        return Similarity(Estimate(value=mean), None)
    half = quantile(_LEVEL, len(found) - 1) * float(found.std(ddof=1)) / math.sqrt(len(found))
    estimate = Estimate(value=mean, low=max(mean - half, -1.0), high=min(mean + half, 1.0))
    return Similarity(estimate, nearest_agreement(ours[:MOST], theirs[:MOST]) if len(found) > 2 else None)


def cosines(ours: Array, theirs: Array) -> Floats:
    """(samples,): the cosine of the angle between the two vectors of each sample, in [-1, 1]."""
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


def nearest_agreement(ours: Array, theirs: Array) -> float:
    """The share of samples whose nearest other sample by cosine is the same in both; the first of equals, as argmax has it."""
    finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    same = (nearest(ours) == nearest(theirs)) & finite
    return float(np.count_nonzero(same) / len(same))


def nearest(vectors: Array) -> NDArray[np.int64]:
    """(samples,): the index of the other sample whose vector points most nearly the same way."""
    whole = np.nan_to_num(vectors.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    length = np.linalg.norm(whole, axis=1, keepdims=True)
    unit = whole / np.where(length > 0, length, 1.0)
    found = np.empty(len(unit), np.int64)
    for start in range(0, len(unit), _PIECE):
        piece = unit[start : start + _PIECE] @ unit.T
        rows = np.arange(len(piece))
        piece[rows, start + rows] = -np.inf
        found[start : start + _PIECE] = piece.argmax(axis=1)
    return found
