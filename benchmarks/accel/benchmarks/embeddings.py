"""How close one row's vectors are to another's: what counts is where they point, and which samples they put side by side."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from accel.benchmarks.student import quantile
from accel.directions import cosines, nearest
from accel.report import Estimate

if TYPE_CHECKING:
    from accel.contracts import Array

MOST = 4000
"""Samples whose nearest other one is looked for, the first of them: it takes the square of their number."""

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


def nearest_agreement(ours: Array, theirs: Array) -> float:
    """The share of samples whose nearest other sample by cosine is the same in both; the first of equals, as argmax has it."""
    finite = np.isfinite(ours).all(axis=1) & np.isfinite(theirs).all(axis=1)
    same = (nearest(ours) == nearest(theirs)) & finite
    return float(np.count_nonzero(same) / len(same))
