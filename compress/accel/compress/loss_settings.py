"""What a training pass minimizes: settings shared by every pass that trains. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from accel.compress.train_settings import Train
from accel.model_source import ModelSource

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LayerPath = Annotated[str, Field(min_length=1)]

Teacher = ModelSource | Literal["baseline"] | None
"""``baseline`` is the model before the first pass of the recipe."""

_OF_LOGITS = ("logits", "dkd")
_OF_LAYERS = ("feature", "attention")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class LossTerm:
    """One term of the weighted sum.

    ``task``: cross entropy with the labels. ``logits``: Hinton et al. 2015, softened by ``temperature``. ``dkd``: Zhao et al.,
    CVPR 2022, ``alpha`` for the target class and ``beta`` for the others. ``standardize``: logits to zero mean and unit
    deviation first (Sun et al., CVPR 2024; they use temperature 2 and weight 9). ``feature``: Romero et al. 2015 (FitNets),
    with a learned 1x1 adapter where widths differ. ``attention``: Zagoruyko & Komodakis 2017; its values are small, and
    published weights are around 1000.

    ``student_layer``, ``teacher_layer``: module paths for ``feature`` and ``attention``; the teacher's is the student's unless
    given.
    """

    type: Literal["task", "logits", "dkd", "feature", "attention"]
    weight: Positive = 1.0
    temperature: Positive = 4.0
    standardize: bool = False
    student_layer: LayerPath | None = None
    teacher_layer: LayerPath | None = None
    alpha: NotNegative = 1.0
    beta: NotNegative = 8.0

    @property
    def needs_teacher(self) -> bool:
        return self.type != "task"

    @property
    def compares_logits(self) -> bool:
        return self.type in _OF_LOGITS

    @property
    def layers(self) -> tuple[str, str] | None:
        """Module paths in student and teacher, for a term that compares layers."""
        if self.type not in _OF_LAYERS or self.student_layer is None:
            return None
        return self.student_layer, self.teacher_layer or self.student_layer

    @model_validator(mode="after")
    def _require_settings_that_count(self) -> Self:
        if self.type not in _OF_LOGITS:
            self._refuse("temperature", 4.0, "logits and dkd")
            self._refuse("standardize", False, "logits and dkd")
        if self.type != "dkd":
            self._refuse("alpha", 1.0, "dkd")
            self._refuse("beta", 8.0, "dkd")
        elif self.alpha == self.beta == 0:
            raise ValueError("dkd: alpha and beta are both 0, which leaves nothing to learn")
        if self.type not in _OF_LAYERS:
            self._refuse("student_layer", None, "feature and attention")
            self._refuse("teacher_layer", None, "feature and attention")
        elif self.student_layer is None:
            raise ValueError(f"{self.type} compares layers: give student_layer, a module path such as layer2.0")
        return self

    def _refuse(self, name: str, default: object, owners: str) -> None:
        if getattr(self, name) != default:
            raise ValueError(f"{name} belongs to terms of type {owners}; this one is {self.type}")


Losses = Annotated[tuple[LossTerm, ...], Field(min_length=1)]

TASK_ONLY = (LossTerm("task"),)


def require_teacher_fits(terms: Sequence[LossTerm], has_teacher: bool) -> None:
    """ValueError where a term needs a teacher and there is none, or there is one that no term asks."""
    asking = [term.type for term in terms if term.needs_teacher]
    if asking and not has_teacher:
        raise ValueError(
            f"losses: {', '.join(dict.fromkeys(asking))} learn from a teacher, and there is none; "
            "set teacher: baseline, or name a model"
        )
    if has_teacher and not asking:
        raise ValueError(
            "teacher: no term of losses asks it; add one, such as {type: logits, weight: 0.9}, or leave teacher out"
        )


def require_train_fits(terms: Sequence[LossTerm], train: Train) -> None:
    """ValueError for settings of ``train`` that these terms cannot follow, or that would change nothing."""
    types = {term.type for term in terms}
    mixing = next((name for name in ("mixup", "cutmix") if getattr(train.augmentation, name)), None)
    if mixing and "dkd" in types:
        raise ValueError(
            f"losses: dkd splits each sample at its one true class, which {mixing} blurs; use logits, or turn it off"
        )
    if train.label_smoothing and "task" not in types:
        raise ValueError(
            "train.label_smoothing smooths the labels of the task term, and losses has none; add one, or set it to 0"
        )
