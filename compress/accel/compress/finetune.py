"""The passes that train what is there: ``finetune``, and ``distill``, which is the same with a teacher."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import ConfigDict, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.loss_settings import TASK_ONLY, Losses, LossTerm, Teacher, require_teacher_fits, require_train_fits
from accel.compress.train_settings import Train
from accel.contracts import Job, Need
from accel.model import TorchModel
from accel.model_source import ModelSource


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Finetune:
    """Train the model further on the training data, by its labels unless ``losses`` says otherwise.

    Pruned channels stay pruned, masked weights zero.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    train: Train = Train()
    losses: Losses = TASK_ONLY
    teacher: Teacher = None

    @property
    def needs(self) -> frozenset[Need]:
        return self.train.needs if self.teacher is None else self.train.needs | {"teacher"}

    @model_validator(mode="after")
    def _require_losses_that_fit(self) -> Self:
        require_teacher_fits(self.losses, self.teacher is not None)
        require_train_fits(self.losses, self.train)
        return self

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """A trained copy. Raises UsageError for a layer that is not there, PassFault where teacher and student cannot be
        compared or the loss is not a number, DataFault for missing or bad data, ModelFault for a teacher whose outputs are not
        finite."""
        from accel.compress.finetuning import finetuned

        return finetuned(model, job, train=self.train, losses=self.losses, name="finetune")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Distill:
    """``Finetune`` with a teacher: by default the untouched model, its softened logits counting nine times the labels.

    Hinton et al. 2015, with the temperature and weights that the literature settled on for small images.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch",)

    train: Train = Train()
    losses: Losses = (LossTerm("logits", weight=0.9, temperature=4.0), LossTerm("task", weight=0.1))
    teacher: ModelSource | Literal["baseline"] = "baseline"

    @property
    def needs(self) -> frozenset[Need]:
        return self.train.needs | {"teacher"}

    @model_validator(mode="after")
    def _require_losses_that_fit(self) -> Self:
        require_teacher_fits(self.losses, True)
        require_train_fits(self.losses, self.train)
        return self

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """A trained copy. Raises as ``Finetune``."""
        from accel.compress.finetuning import finetuned

        return finetuned(model, job, train=self.train, losses=self.losses, name="distill")
