"""Which samples make which step's batch, and how they are changed: all of it follows from the seed and the step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel.compress.train_settings import Augmentation
from accel.compress.training.augmentation import augmented, class_count, image_position
from accel.compress.training.data import TrainingSamples
from accel.compress.training.device import in_layout
from accel.compress.training.distributed import World
from accel.compress.training.repeatable import derived_seed, epoch_order
from accel.model import Signature


@dataclass(frozen=True)
class Course:
    """``count`` samples in batches of ``batch_size`` over all processes; ``total`` steps, ``per_epoch`` of them an epoch.

    The samples that do not fill a last batch are left out of an epoch; which ones changes from epoch to epoch.
    """

    count: int
    batch_size: int
    per_epoch: int
    total: int

    @property
    def epochs(self) -> int:
        """How many are begun."""
        return math.ceil(self.total / self.per_epoch)


@dataclass(frozen=True)
class TrainingBatch:
    """This process's part of a step's batch, on the device. ``weight``: what its mean counts among the processes' means.

    ``indices``: which samples these are.
    """

    inputs: Sequence[Tensor]
    labels: Tensor | None
    weight: float
    indices: NDArray[np.int64]


class Batches:
    """The batches of a training, by step. PassFault (``name`` is the pass) for augmentation of what is no image."""

    def __init__(
        self,
        samples: TrainingSamples,
        course: Course,
        augmentation: Augmentation,
        signature: Signature,
        world: World,
        device: torch.device,
        seed: int,
        name: str,
    ) -> None:
        self._samples, self._course, self._augmentation = samples, course, augmentation
        self._world, self._device, self._seed = world, device, seed
        self._classes = class_count(signature)
        self._image = image_position(signature, name) if augmentation.active else None
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def plain(self, step: int) -> TrainingBatch:
        """The samples of ``step`` as they are."""
        epoch, place = divmod(step, self._course.per_epoch)
        if self._order[0] != epoch:
            self._order = epoch, epoch_order(self._course.count, self._seed, epoch)
        size = self._course.batch_size
        mine = self._order[1][place * size : (place + 1) * size][self._world.share(size)]
        inputs, labels = self._samples.batch(mine)
        moved = [tensor.to(self._device) for tensor in inputs]
        weight = len(mine) * self._world.size / size
        return TrainingBatch(moved, None if labels is None else labels.to(self._device), weight, mine)

    def of(self, step: int, *, channels_last: bool) -> TrainingBatch:
        """The samples of ``step`` as they are trained on: changed by chance, in the memory layout asked for."""
        batch = self.plain(step)
        inputs, labels = list(batch.inputs), batch.labels
        if self._image is not None:
            generator = torch.Generator(self._device)
            generator.manual_seed(derived_seed(self._seed, "augmentation", step, self._world.rank))
            changed = augmented(inputs[self._image], labels, self._augmentation, self._classes, generator)
            inputs[self._image], labels = changed
        return TrainingBatch([in_layout(tensor, channels_last) for tensor in inputs], labels, batch.weight, batch.indices)

    @property
    def changed_by_chance(self) -> bool:
        """Whether a sample looks different from epoch to epoch."""
        return self._image is not None

    def in_order(self, *, channels_last: bool) -> Iterator[TrainingBatch]:
        """Every sample as it is, in batches of the full size; the last one begins earlier where it would not be full."""
        size = self._course.batch_size
        for start in range(0, self._course.count, size):
            first = max(0, min(start, self._course.count - size))
            indices = np.arange(first, min(first + size, self._course.count))
            inputs, labels = self._samples.batch(indices)
            moved = [in_layout(tensor.to(self._device), channels_last) for tensor in inputs]
            yield TrainingBatch(moved, labels, 1.0, indices)
