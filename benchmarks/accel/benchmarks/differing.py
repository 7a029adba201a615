"""The samples on which a row and its reference differ most: what a person would look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from accel.benchmarks.class_outputs import UNKNOWN, are_shares, class_scores, largest, pieces, shares, softmax
from accel.report import Differing

if TYPE_CHECKING:
    from accel.contracts import Array

LEAST_DISTANCE = 0.01
"""Below this a sample with the same answer on both sides is nothing to look at: rounding moves every output a little."""


def differing(output: Path | Array, reference: Path | Array, most: int) -> list[Differing]:
    """At most ``most`` samples: first those with another answer, then the others, each by falling distance, then by index.

    ``output``, ``reference``: class scores of the same samples, (n, classes), as array or ``.npy``; none for anything else.
    The distance is half the sum of the absolute differences of the two softmax outputs (total variation). Where the reference
    gives probabilities already, they are taken as they are. Samples with NaN on either side have no answer and are left out:
    Fidelity counts them.
    """
    ours, theirs = class_scores(output), class_scores(reference)
    if most < 1 or ours is None or theirs is None or ours.shape != theirs.shape:
        return []
    as_shares = shares if are_shares(theirs) else softmax
    distance = np.empty(len(ours), dtype=np.float64)
    predicted, wanted = (np.empty(len(ours), dtype=np.int64) for _ in range(2))
    for (rows, mine), (_, other) in zip(pieces(ours), pieces(theirs), strict=True):
        predicted[rows], wanted[rows] = largest(mine), largest(other)
        distance[rows] = np.abs(as_shares(mine) - as_shares(other)).sum(axis=1) / 2
    other_answer = predicted != wanted
    known = np.isfinite(distance) & (predicted != UNKNOWN) & (wanted != UNKNOWN)
    shown = np.flatnonzero(known & (other_answer | (distance >= LEAST_DISTANCE)))
    ordered = shown[np.lexsort((shown, -distance[shown], ~other_answer[shown]))][:most]
    return [
        Differing(
            sample=int(index),
            predicted=int(predicted[index]),
            reference=int(wanted[index]),
            distance=min(float(distance[index]), 1.0),
        )
        for index in ordered
    ]
