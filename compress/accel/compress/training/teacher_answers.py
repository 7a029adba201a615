"""A teacher that would see the same inputs in every epoch is asked once for each sample, before the first step.

It answers in batches of a fixed order, so a run that was killed and goes on gets the same answers, bit for bit. They differ in
the last bits from what it would say in the batches of the training, whose order changes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from accel.compress.training.batches import Batches, Course

MOST_BYTES = 256 << 20
"""Of all answers together: 67 million class scores. Above it the teacher is asked at every step."""

MIN_EPOCHS = 2
_PROGRESS_S = 0.25


@runtime_checkable
class Asks(Protocol):
    """A loss with a teacher. ``answers``: (n, ...) of a batch, None where more is asked of it than that; ``recall``: those of
    the batch that the next call is for."""

    def answers(self, inputs: Sequence[Tensor]) -> Tensor | None: ...
    def recall(self, answers: Tensor) -> None: ...


def learnt(
    loss: Any, batches: Batches, course: Course, *, channels_last: bool, progress: Callable[[int, int, str], None]
) -> Tensor | None:
    """(count, ...) in the order of the samples, on the CPU; None where the teacher must be, or had better be, asked as it goes.

    That is where a sample is changed by chance, where there are less than MIN_EPOCHS, and above MOST_BYTES.
    """
    if not isinstance(loss, Asks) or batches.changed_by_chance or course.total < MIN_EPOCHS * course.per_epoch:
        return None
    table: Tensor | None = None
    said = time.monotonic()
    for batch in batches.in_order(channels_last=channels_last):
        answers = loss.answers(batch.inputs)
        if answers is None:
            return None
        if table is None:
            shape = (course.count, *answers.shape[1:])
            if answers.shape[:1] != (len(batch.indices),) or shape[0] * answers[0].nbytes > MOST_BYTES:
                return None
            table = torch.empty(shape, dtype=answers.dtype)
        table[batch.indices] = answers.cpu()
        if time.monotonic() - said >= _PROGRESS_S:
            said = time.monotonic()
            progress(0, 0, f"asking the teacher: {int(batch.indices[-1]) + 1} of {course.count} samples")
    return table
