"""Which classes lost: an average that hardly moves can hide one class that is gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks.class_outputs import class_scores, predictions
from accel.benchmarks.mcnemar import p_value
from accel.errors import DataFault
from accel.report import ClassDrop

if TYPE_CHECKING:
    from accel.contracts import Array

MOST = 20
LEVEL = 0.05


def drops(output: Path | Array, reference: Path | Array, labels: NDArray[np.generic], *, most: int = MOST) -> list[ClassDrop]:
    """The classes whose top-1 fell, by falling drop, then by more samples, then by label; at most ``most``.

    Where more fell, those whose drop is significant are kept first (McNemar's exact test of each class at 5 %, corrected by
    Holm for all classes that have samples): many small classes, each with one sample lost by chance, do not hide a large one.
    ``output``, ``reference``: class scores of the same samples, (n, classes), as array or ``.npy``; none for anything else, nor
    where the labels (n,) hold fewer than two classes. DataFault for another number of labels.
    """
    ours, theirs = class_scores(output), class_scores(reference)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return []
    if labels.shape != (len(ours),):
        raise DataFault(f"labels of shape {labels.shape} for {len(ours)} samples; a class index for each sample is needed")
    present, place, samples = np.unique(labels, return_inverse=True, return_counts=True)
    if len(present) < 2:
        return []
    right, right_before = predictions(ours) == labels, predictions(theirs) == labels
    gained = np.bincount(place[right & ~right_before], minlength=len(present))
    lost = np.bincount(place[~right & right_before], minlength=len(present))
    fell = [int(index) for index in np.flatnonzero(lost > gained)]
    significant = _holm([p_value(int(gained[index]), int(lost[index])) for index in range(len(present))])
    by_drop = sorted(fell, key=lambda index: ((gained[index] - lost[index]) / samples[index], -samples[index], present[index]))
    kept = set(sorted(by_drop, key=lambda index: not significant[index])[:most])  # sorting keeps the order among equals
    before = np.bincount(place[right_before], minlength=len(present))
    return [
        ClassDrop(
            label=int(present[index]),
            n=int(samples[index]),
            value=float((before[index] + gained[index] - lost[index]) / samples[index]),
            reference=float(before[index] / samples[index]),
            significant=significant[index],
        )
        for index in by_drop
        if index in kept
    ]


def _holm(p_values: Sequence[float]) -> list[bool]:
    """Which of the hypotheses fall at LEVEL together (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    fallen = [False] * len(p_values)
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        if p_values[index] > LEVEL / (len(p_values) - rank):
            break
        fallen[index] = True
    return fallen
