"""Watches the samples of a split go by: refuses what cannot be right, and remembers what looks wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from accel.contracts import Split
from accel.errors import DataFault

if TYPE_CHECKING:
    from accel.contracts import Array

FEW = 10
"""Calibration on fewer samples than this draws a warning: ranges of activations would be a guess."""

_LARGE = 16.0  # no usual normalisation of pixels reaches this; raw 0..255 does

_MOST_CLASSES = 2**31


class Watch:
    """Of one pass over one split. ``declared``: whether task.preprocess makes the input (its range is then on purpose)."""

    def __init__(self, split: Split, declared: bool) -> None:
        self._split = split
        self._declared = declared
        self._count = 0
        self._constant = 0
        self._first_constant = ""
        self._first: Array | None = None
        self._varied = False
        self._largest = 0.0
        self._pixels = False
        self._labels: set[int] = set()

    def see(self, raw: Array, label: int | None, place: str) -> None:
        """One sample as its reader gave it. DataFault for NaN, Inf, an empty sample or a negative label."""
        if not raw.size:
            raise DataFault(f"{place}: is empty, shape {raw.shape}")
        if raw.dtype.kind == "f":
            self._require_finite(raw, place)
        if label is not None and not 0 <= label < _MOST_CLASSES:
            raise DataFault(f"{place}: label {label} is no class index; classes count from 0")
        low, high = float(raw.min()), float(raw.max())
        if low == high:
            self._first_constant = self._first_constant or place
            self._constant += 1
        if self._first is None:
            self._first = np.array(raw)
        elif not self._varied:
            self._varied = not np.array_equal(self._first, raw)
        self._largest = max(self._largest, abs(low), abs(high))
        self._pixels = raw.dtype == np.uint8
        self._count += 1
        if label is not None and len(self._labels) < 2:
            self._labels.add(label)

    def remarks(self) -> list[str]:
        """What looked wrong, once all samples were seen."""
        split, count, found = f"data.{self._split}", self._count, []
        if count == 1:
            found.append(f"{split}: has 1 sample only; nothing can be concluded from it")
        elif self._split == "calibration" and count < FEW:
            found.append(f"{split}: has {count} samples only; ranges from so few are a guess, give 100 or more")
        if self._constant == count:
            found.append(f"{split}: all {count} samples are constant (every value the same); is this the data?")
        elif self._constant:
            found.append(f"{split}: {self._constant} of {count} samples are constant (first: {self._first_constant})")
        if count > 1 and not self._varied:
            found.append(f"{split}: all {count} samples are the same")
        if self._pixels and self._largest == 1:
            found.append(f"{split}: pixels are 0 or 1 as uint8; were they scaled to 0..1 and then rounded?")
        if not self._pixels and not self._declared and self._largest > _LARGE:
            found.append(
                f"{split}: values reach {self._largest:g}, though task.preprocess is null: the model gets them as they are;"
                " are they raw pixels (0..255)?"
            )
        if len(self._labels) == 1 and count > 1:
            found.append(f"{split}: all labels are {next(iter(self._labels))}; accuracy on one class says little")
        return found

    @staticmethod
    def _require_finite(raw: Array, place: str) -> None:
        finite = np.isfinite(raw)
        if not finite.all():
            where = tuple(int(axis) for axis in np.argwhere(~finite)[0])
            raise DataFault(f"{place}: {raw[where]} at {where}; remove or repair the sample")
