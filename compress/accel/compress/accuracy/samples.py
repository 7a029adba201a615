"""What each sample says of a candidate, and whether two candidates differ: for choices that must not hang on a few samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accel.compress.data_fit import inputs_of
from accel.compress.output_likeness import Remembered, answers_of, has_answers
from accel.contracts import Job, Predict, Task
from accel.directions import cosines
from accel.errors import DataFault, PassFault
from accel.model import Signature

Array = NDArray[Any]

Z95 = 1.959964
"""Of the normal distribution: 95 % lie within so many standard deviations."""


@dataclass(frozen=True)
class Judged:
    """``value``: of the metric over all samples, the higher the better; ``samples``: (n,) float64 whose mean it is, None for a
    metric that has none for each sample."""

    value: float
    samples: Array | None

    def over(self, other: Judged) -> tuple[float, float, float]:
        """How much higher this is than ``other``, and the 95 % interval of that: of the mean of paired differences (normal,
        by their standard error). Without samples the interval is the difference itself."""
        if self.samples is None or other.samples is None or self.samples.shape != other.samples.shape:
            apart = self.value - other.value
            return apart, apart, apart
        paired = self.samples - other.samples
        mean = float(paired.mean())
        half = Z95 * float(paired.std(ddof=1)) / len(paired) ** 0.5 if len(paired) > 1 else abs(mean)
        return mean, mean - half, mean + half


class Selection:
    """The data to choose by, and what they are judged with: a metric where they have labels, else the float model's answers.

    Raises DataFault where there are none.
    """

    def __init__(self, job: Job, signature: Signature, metric: str | None) -> None:
        task = job.task
        if task is None or not (task.has("selection") or task.has("calibration")):
            raise DataFault(
                "quantize: engine: auto chooses by selection data, and there is none; set data.selection, data.training or "
                "data.calibration, or name an engine"
            )
        self._task: Task = task
        self._signature = signature
        self.split: Literal["selection", "calibration"] = "selection" if task.has("selection") else "calibration"
        first = next(iter(task.selection()), None) if self.split == "selection" else None
        self.labelled = first is not None and first.labels is not None
        self._metric = metric
        self._kind = answers_of(task)
        self._reference = Remembered()
        self.metric = metric or ""
        self.higher_is_better = True

    @property
    def remembered(self) -> bool:
        """Whether the float model's answers are here."""
        return bool(self._reference.batches)

    def remember(self, predict: Predict) -> None:
        """Keep what the float model answers: what candidates are held against where there are no labels."""
        for output in self._outputs(predict):
            self._reference.append(output)

    def judge(self, predict: Predict) -> Judged:
        """PassFault for answers that are no numbers, or a metric that there is not."""
        return self._scored(predict) if self.labelled else self._held(predict)

    def _scored(self, predict: Predict) -> Judged:
        finite = True

        def noted(given: Mapping[str, Array]) -> Sequence[Array]:
            nonlocal finite
            found = predict(given)
            finite = finite and all(bool(np.isfinite(each).all()) for each in found if each.dtype.kind == "f")
            return found

        try:
            scores = self._task.score(noted, "selection")
        except DataFault:
            if finite:
                raise
            scores = {}
        if not finite:
            raise PassFault("its outputs are no numbers")
        if not scores or (self._metric is not None and self._metric not in scores):
            raise PassFault(
                f"quantize: engine auto: no metric is called {self._metric!r}; there are {', '.join(scores) or 'none'}"
            )
        self.metric = next(iter(scores)) if self._metric is None else self._metric
        score = scores[self.metric]
        self.higher_is_better = score.higher_is_better
        sign = 1.0 if score.higher_is_better else -1.0
        if not isfinite(score.value):
            raise PassFault(f"its {self.metric} is no number")
        samples = None if score.per_sample is None else sign * np.asarray(score.per_sample, np.float64)
        return Judged(sign * score.value, samples)

    def _held(self, predict: Predict) -> Judged:
        found: list[Array] = []
        for wanted, output in zip(self._reference.batches, self._outputs(predict), strict=False):
            if wanted.shape != output.shape:
                raise PassFault(f"it gives {list(output.shape)} instead of {list(wanted.shape)}")
            if not np.isfinite(output).all():
                raise PassFault("its outputs are no numbers")
            classes = self._kind == "classes" and has_answers(wanted, "classes")
            self.metric = "agreement with floating point" if classes else "cosine to floating point"
            found.append(_same(wanted, output) if classes else cosines(_flat(output), _flat(wanted)))
        if not found:
            raise DataFault(f"quantize: engine auto: data.{self.split} holds no whole batch to choose by")
        samples = np.concatenate(found)
        return Judged(float(samples.mean()), samples)

    def _outputs(self, predict: Predict) -> Iterator[Array]:
        for batch in self._task.selection() if self.split == "selection" else self._task.calibration():
            yield predict(inputs_of(batch, self._signature, self.split))[0]


def _same(wanted: Array, output: Array) -> Array:
    """(n,): the part of each sample's answers (largest along the second axis) that are the same."""
    same: Array = (wanted.argmax(1) == output.argmax(1)).reshape(len(wanted), -1).mean(1, dtype=np.float64)
    return same


def _flat(output: Array) -> Array:
    """(n, values): each sample's whole output as one vector."""
    return output.reshape(len(output), -1)
