"""Calibration samples in batches of tensors, for what observes a torch module."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from accel.compress.calibration_data import Samples
from accel.model import Signature

CALIBRATION_BATCH = 32
"""Samples in a batch whose extremes count together."""


def in_batches(samples: Samples, signature: Signature) -> Iterator[tuple[Tensor, ...]]:
    """The samples in batches of :data:`CALIBRATION_BATCH`, or as they are where the model's batch is fixed or shapes differ.

    Made as they are asked for: no more than one batch is in memory.
    """
    fixed = not signature.inputs[0].shape or isinstance(signature.inputs[0].shape[0], int)
    pending: list[tuple[Tensor, ...]] = []
    for sample in samples:
        inputs = tuple(torch.from_numpy(sample[spec.name].copy()) for spec in signature.inputs)
        if fixed:
            yield inputs
            continue
        if pending and any(one.shape != other.shape for one, other in zip(pending[0], inputs, strict=True)):
            yield _joined(pending)
            pending = []
        pending.append(inputs)
        if len(pending) == CALIBRATION_BATCH:
            yield _joined(pending)
            pending = []
    if pending:
        yield _joined(pending)


def _joined(samples: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(torch.cat(values) for values in zip(*samples, strict=True))
