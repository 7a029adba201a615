"""A model's first output, batch by batch, beside what the model it was made of gave: what it is judged by without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.contracts import AnswerKind, Task, TellsAnswers
from accel.directions import cosines
from accel.errors import PassFault

Array = NDArray[Any]

LIKENESS: Mapping[AnswerKind, str] = {"classes": "agreement", "embeddings": "cosine"}
"""What the likeness of answers is called: the share of samples with the same largest value, or the mean cosine of vectors."""

REMEMBERED = 1 << 24
"""At most this many output values are kept for comparison; samples beyond them do not count."""


def answers_of(task: Task) -> AnswerKind:
    """What the first output holds; classes where the task does not say."""
    return task.answers if isinstance(task, TellsAnswers) else "classes"


def has_answers(output: Array, kind: AnswerKind) -> bool:
    """Whether ``output`` (samples, ...) holds what can be alike: scores along the second axis, or a vector for each sample."""
    return output.ndim > 1 and output.shape[1] > 1 and (kind == "classes" or output.ndim == 2)


class Remembered:
    """The first output batch by batch, as far as memory is meant for it."""

    def __init__(self) -> None:
        self.batches: list[Array] = []
        self._held = 0

    def append(self, output: Array) -> None:
        self._held += output.size
        if self._held <= REMEMBERED:
            self.batches.append(np.array(output))


class Compared:
    """``reference``: what the other model gave, batch by batch. ``who``: starts the sentence on another shape."""

    def __init__(self, reference: Sequence[Array], kind: AnswerKind, who: str) -> None:
        self._reference = reference
        self._kind = kind
        self._who = who
        self._batch = self._count = 0
        self._alike = self._signal = self._error = 0.0

    @property
    def done(self) -> bool:
        """Whether there is nothing more to compare with."""
        return self._batch >= len(self._reference)

    def append(self, output: Array) -> None:
        """The next batch's. PassFault for one of another shape."""
        if self.done:
            return
        wanted = self._reference[self._batch]
        self._batch += 1
        if wanted.shape != output.shape:
            raise PassFault(f"{self._who} gives {list(output.shape)} instead of {list(wanted.shape)}")
        exact = wanted.astype(np.float64)
        self._signal += float((exact**2).sum())
        self._error += float(((exact - output) ** 2).sum())
        if has_answers(wanted, self._kind):
            alike = wanted.argmax(1) == output.argmax(1) if self._kind == "classes" else cosines(output, wanted)
            self._alike += float(alike.sum())
            self._count += alike.size

    def noise(self) -> float | None:
        """Squared error over squared output; None where it is no number."""
        if self._error == 0:
            return 0.0
        return self._error / self._signal if self._signal and isfinite(self._error) else None

    def likeness(self) -> float | None:
        """Of the answers, see LIKENESS; None where there are none, or outputs are no numbers."""
        return self._alike / self._count if self._count and isfinite(self._error) else None
