"""A loss with a teacher, for any training loop: task, logits, decoupled logits, features and attention maps, weighted.

with DistillationLoss(terms, student, teacher, example=images) as loss:
    optimizer = torch.optim.SGD([*student.parameters(), *loss.parameters()], lr=0.1)   # adapters learn too
    for images, labels in batches:
        loss(images, student(images), labels).backward()
        ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn

from accel.compress.loss_settings import LossTerm, require_teacher_fits
from accel.compress.training.device import in_layout
from accel.compress.training.feature_layers import (
    Capture,
    adapter,
    attention_distance,
    device_of,
    evaluating_copy,
    feature_distance,
    first_tensor,
    observe,
    require_finite,
    require_maps,
)
from accel.compress.training.logit_losses import decoupled, rows, soft_divergence, standardized
from accel.compress.training.task_loss import CrossEntropy, require_classes
from accel.errors import DataFault, PassFault, UsageError


class DistillationLoss(nn.Module):
    """``loss(inputs, student(inputs), labels)``: the weighted sum of ``terms``, a scalar in float32 or better.

    The teacher is a copy in evaluation mode that takes no gradients: the one given stays as it is, and only adapters are
    parameters of the loss. ``student`` is watched by hooks where a term compares layers, until ``close()`` or the end of a
    ``with`` block; to the loss it is that very module, and copies of it may be used freely beside it. Under
    DistributedDataParallel give the module inside.

    ``example``: inputs of one batch, which terms that compare layers need; with it everything is checked at once, without it
    outputs are checked at the first call. ``label_smoothing``: of task terms. ``seed``: of the adapters' first numbers.
    ``teacher_dtype``: what the teacher computes in, by autocast, such as bfloat16; None: as where the loss is called.
    ``parts``: the value of each term at the last call, before its weight.

    UsageError for a term that lacks its teacher, example or layer (with the nearest name); PassFault where student and teacher
    give shapes that cannot be compared; ModelFault where the teacher's outputs are not finite.
    """

    def __init__(
        self,
        terms: Sequence[LossTerm],
        student: nn.Module,
        teacher: nn.Module | None = None,
        example: Tensor | Sequence[Tensor] | None = None,
        *,
        label_smoothing: float = 0.0,
        seed: int = 0,
        teacher_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not terms:
            raise UsageError("losses: the list is empty; give at least one term, such as LossTerm('task')")
        try:
            require_teacher_fits(terms, teacher is not None)
        except ValueError as error:
            raise UsageError(str(error)) from None
        self.terms = tuple(terms)
        self._task = CrossEntropy(label_smoothing)
        self._teacher_dtype = teacher_dtype
        self.adapters = nn.ModuleDict()
        self.parts: Mapping[str, Tensor] = {}
        # In a tuple, so that nn.Module does not take the teacher's weights for parameters to train and to save.
        self._teacher = () if teacher is None else (evaluating_copy(teacher),)
        self._watched: dict[str, Capture] = {}
        self._asked: dict[str, Capture] = {}
        self._checked = example is not None
        self._contiguous = False
        self._recalled: Tensor | None = None
        layers = [pair for term in self.terms if (pair := term.layers) is not None]
        if example is not None:
            self._prepare(student, _sequence(example), layers, seed)
        elif layers:
            raise UsageError("losses: terms that compare layers must see one batch to know their sizes; pass example=images")
        if self._teacher:
            self._watched = {path: Capture(student, path, "student") for path, _ in layers}
            self._asked = {path: Capture(self._teacher[0], path, "teacher") for _, path in layers}

    def forward(self, inputs: Tensor | Sequence[Tensor], outputs: Any, labels: Tensor | None = None) -> Tensor:
        """``inputs``: what the student was just given; ``outputs``: what it gave, class scores (n, classes, ...) first.

        ``labels``: class indices (n,), or shares (n, classes) from mixed samples; None where no term reads them.
        """
        scores = first_tensor(outputs, "the student's output")
        wanted = self._wanted(_sequence(inputs), scores)
        mine = {path: capture.take() for path, capture in self._watched.items()}
        theirs = {path: capture.take() for path, capture in self._asked.items()}
        total = scores.new_zeros((), dtype=torch.promote_types(scores.dtype, torch.float32))
        parts: dict[str, Tensor] = {}
        with torch.autocast(device_type=scores.device.type, enabled=False):
            for index, term in enumerate(self.terms):
                if term.layers is not None:
                    value = self._between_layers(index, term, mine[term.layers[0]], theirs[term.layers[1]])
                elif term.type == "task":
                    value = self._task((), rows(scores) if scores.dim() == 2 else scores, labels)
                else:
                    assert wanted is not None
                    value = _between_logits(term, scores, wanted, labels)
                parts[f"{index} {term.type}"] = value.detach()
                total = total + term.weight * value
        self.parts = parts
        return total

    def answers(self, inputs: Tensor | Sequence[Tensor]) -> Tensor | None:
        """What the teacher says of ``inputs``: its first output. None where that is not all that the terms ask of it."""
        if not any(term.compares_logits for term in self.terms) or self._asked or not self._teacher:
            return None
        return self._said_by(self._teacher[0], _sequence(inputs))

    def recall(self, answers: Tensor) -> None:
        """Take these for the teacher's at the next call, which then does not ask it."""
        self._recalled = answers

    def close(self) -> None:
        """Take the hooks off the student. The loss can no longer be asked where a term compares layers."""
        for capture in self._watched.values():
            capture.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _prepare(self, student: nn.Module, inputs: Sequence[Tensor], layers: Sequence[tuple[str, str]], seed: int) -> None:
        """Check both nets on one batch, and make the adapters that their widths ask for."""
        if not self._teacher:
            return
        scores, mine = observe(student, inputs, [path for path, _ in layers], "student")
        wanted, theirs = observe(self._teacher[0], inputs, [path for _, path in layers], "teacher")
        self._require_same_classes(scores, wanted)
        for index, term in enumerate(self.terms):
            if term.layers is None:
                continue
            ours, other = mine[term.layers[0]], theirs[term.layers[1]].to(mine[term.layers[0]].device)
            if term.type == "attention":
                require_maps(ours, other, _place(index, term))
            elif (made := adapter(ours, other, seed + index, _place(index, term))) is not None:
                self.adapters[str(index)] = made
        try:
            with torch.no_grad():
                self._teacher[0](*(in_layout(value.to(device_of(self._teacher[0])), True) for value in inputs))
        except RuntimeError:  # ``view`` refuses the layout that the student may be trained in
            self._contiguous = True

    def _wanted(self, inputs: Sequence[Tensor], scores: Tensor) -> Tensor | None:
        """The teacher's first output for ``inputs``, where any term needs it."""
        if not self._teacher:
            return None
        wanted, self._recalled = self._recalled, None
        if wanted is None:
            wanted = self._said_by(self._teacher[0], inputs)
        if not self._checked:
            self._require_same_classes(scores, wanted)
            require_finite(wanted, "teacher")
            self._checked = True
        return wanted

    def _said_by(self, teacher: nn.Module, inputs: Sequence[Tensor]) -> Tensor:
        device = inputs[0].device
        if device_of(teacher) != device:
            teacher.to(device)
        mixed = torch.autocast(device.type, self._teacher_dtype) if self._teacher_dtype is not None else nullcontext()
        with torch.no_grad(), mixed:
            given = [value.contiguous() for value in inputs] if self._contiguous else inputs
            return first_tensor(teacher(*given), "the teacher's output")

    def _require_same_classes(self, scores: Tensor, wanted: Tensor) -> None:
        comparing = list(dict.fromkeys(term.type for term in self.terms if term.compares_logits))
        if comparing and scores.shape != wanted.shape:
            raise PassFault(
                f"losses: the student gives outputs of shape {tuple(scores.shape)}, the teacher of {tuple(wanted.shape)}; "
                f"{' and '.join(comparing)} compare them class by class: take a teacher with the same classes, or compare "
                "layers (feature, attention)"
            )
        if comparing and (scores.dim() < 2 or scores.shape[1] < 2):
            raise PassFault(
                f"losses: outputs of shape {tuple(scores.shape)} hold no scores of two or more classes, which "
                f"{' and '.join(comparing)} compare"
            )

    def _between_layers(self, index: int, term: LossTerm, mine: Tensor, theirs: Tensor) -> Tensor:
        mine, theirs = (value.to(torch.promote_types(value.dtype, torch.float32)) for value in (mine, theirs))
        if term.type == "attention":
            return attention_distance(mine, theirs)
        if str(index) in self.adapters:
            mine = self.adapters[str(index)](mine)
        return feature_distance(mine, theirs)


def _between_logits(term: LossTerm, scores: Tensor, wanted: Tensor, labels: Tensor | None) -> Tensor:
    mine, theirs = rows(scores), rows(wanted)
    if term.standardize:
        mine, theirs = standardized(mine), standardized(theirs)
    if term.type == "logits":
        return soft_divergence(mine, theirs, term.temperature)
    if labels is None:
        raise DataFault("training: the data has no labels, which dkd reads; use logits, feature or attention")
    if labels.is_floating_point():
        raise UsageError("losses: dkd splits each sample at its one true class; turn mixup and cutmix off, or use logits")
    require_classes(labels, mine.shape[1])
    return decoupled(mine, theirs, labels.reshape(-1), temperature=term.temperature, alpha=term.alpha, beta=term.beta)


def _sequence(inputs: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (inputs,) if isinstance(inputs, Tensor) else inputs


def _place(index: int, term: LossTerm) -> str:
    return f"losses[{index}] ({term.type})"
