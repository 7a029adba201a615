"""The loss of the task itself: cross entropy on the first output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from accel.errors import DataFault, ModelFault
from accel.module_signature import flatten


class CrossEntropy:
    """A loss for class labels: (n,) int64, or (n, classes) probabilities where mixup or cutmix made them.

    ``label_smoothing``: that much of each label is spread over all classes (Szegedy et al. 2016).
    Raises DataFault without labels or for one that is no class; ModelFault where the first output is not (n, classes).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = label_smoothing

    def __call__(self, inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        logits = flatten(outputs)[0][1]
        if labels is None:
            raise DataFault("training: the data has no labels, which the task's loss needs; distill takes unlabelled data")
        if logits.dim() != 2 or len(logits) != len(labels):
            raise ModelFault(f"the first output has shape {list(logits.shape)}; the task's loss takes (batch, classes)")
        if labels.dim() == 1:
            require_classes(labels, logits.shape[1])
        return functional.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)


def require_classes(labels: Tensor, classes: int) -> None:
    """DataFault for labels outside [0, classes): on a GPU they would stop the process."""
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= classes:
        wrong = lowest if lowest < 0 else highest
        raise DataFault(f"training: label {wrong} is no class of the model, which has {classes} (0 to {classes - 1})")
