"""Calibration samples as a quantizer takes them: checked, counted, in groups of the size the model wants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.compress.data_fit import inputs_of, require_fit
from accel.contracts import Job, Task
from accel.errors import DataFault
from accel.feeding import in_float16
from accel.model import Signature

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Samples:
    """The first ``num_samples`` samples of the calibration split, ``group`` at a time; may be iterated more than once.

    Nothing is kept in memory beyond one batch of the task. ``count``: how many there are; ``notes``: what is odd about them.
    """

    task: Task
    signature: Signature
    count: int
    group: int
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[Arrays]:
        pending: list[Arrays] = []
        for sample in _samples(self.task, self.signature, self.count):
            pending.append(sample)
            if len(pending) == self.group:
                yield (
                    pending[0] if self.group == 1 else {name: np.concatenate([s[name] for s in pending]) for name in pending[0]}
                )
                pending = []

    def __len__(self) -> int:
        return self.count // self.group


def calibration_samples(job: Job, signature: Signature, num_samples: int) -> Samples:
    """Read the split once to check it.

    Raises DataFault where there is no calibration data (never random numbers instead), where a sample does not fit
    ``signature``, and where one holds NaN or Inf. Too few, constant and all-zero data are notes.
    """
    task = job.task
    if task is None or not task.has("calibration"):
        raise DataFault("quantize: approach static reads ranges from calibration data, and there is none; set data.calibration")
    count = 0
    low: dict[str, float] = {}
    high: dict[str, float] = {}
    for sample in _samples(task, signature, num_samples):
        for name, array in sample.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataFault(f"calibration sample {count}: input {name!r} holds NaN or Inf; remove or repair the sample")
            if array.size and array.dtype.kind != "i":  # masks and token types may well be the same in all samples
                low[name] = min(low.get(name, np.inf), float(array.min()))
                high[name] = max(high.get(name, -np.inf), float(array.max()))
        count += 1
    if count == 0:
        raise DataFault("calibration: the split is empty; give at least 2 samples, better 300")
    fixed = signature.inputs[0].shape[0] if signature.inputs and signature.inputs[0].shape else 1
    group = fixed if isinstance(fixed, int) else 1
    if count < group:
        raise DataFault(f"calibration: {count} samples do not fill one batch of the model's fixed size {group}")
    notes = []
    if count < num_samples:
        notes.append(f"calibration: {count} samples, all that the split holds (num_samples is {num_samples})")
    if count % group:
        notes.append(f"calibration: the last {count % group} samples do not fill the model's fixed batch of {group}; left out")
    if count < 2:
        notes.append("warning: calibration: one sample says little about ranges; give more")
    for name in low:
        if low[name] == high[name]:
            what = "all zero" if low[name] == 0 else f"the constant {low[name]:g}"
            notes.append(f"warning: calibration: input {name!r} is {what} in every sample; the ranges mean nothing")
    return Samples(task, signature, count - count % group, group, tuple(notes))


def _samples(task: Task, signature: Signature, limit: int) -> Iterator[Arrays]:
    """Single samples (1, ...) by input name, checked against the signature."""
    index = 0
    for batch in task.calibration():
        arrays = in_float16(inputs_of(batch, signature, "calibration"), signature.inputs)
        sizes = {name: len(array) for name, array in arrays.items() if array.ndim}
        for row in range(min(sizes.values(), default=0)):
            if index >= limit:
                return
            sample = {name: array[row : row + 1] for name, array in arrays.items()}
            for spec in signature.inputs:
                require_fit(sample[spec.name], spec, f"calibration sample {index}")
            yield sample
            index += 1
