"""Core of ``finetune`` and ``distill``, and what any training pass needs to take losses and a teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accel.compress.distill import DistillationLoss
from accel.compress.loss_settings import LossTerm
from accel.compress.train import fit_, here
from accel.compress.train_settings import Train
from accel.compress.training.device import native_bf16, takes_bf16
from accel.contracts import Job
from accel.errors import DataFault, ModelFault, PassFault, UsageError
from accel.model import Signature, TorchModel

EXAMPLE = 4
"""Samples that both nets are tried on before training."""


def finetuned(model: TorchModel, job: Job, *, train: Train, losses: Sequence[LossTerm], name: str) -> TorchModel:
    """See ``Finetune``. The given model stays as it is; its edits go with the copy."""
    student = replace(model, module=copy.deepcopy(model.module))
    with pass_loss(student, job, losses, train, name) as loss:
        notes = fit_(student, job, train, loss, name=name, identity=identity_of(losses))
    return student.noting(*notes)


def pass_loss(
    student: TorchModel, job: Job, losses: Sequence[LossTerm], train: Train, name: str, *, amp_allowed: bool = True
) -> DistillationLoss:
    """What ``fit_`` minimizes for ``losses``, with ``job.teacher``, checked on the first samples before anything is trained.

    ``student.module`` must be the very module that is trained. ``name``: of the pass, for messages. ``amp_allowed``: as for
    ``fit_``; the teacher computes in the precision of the student, or in FP32 where ``amp`` is auto and bfloat16 is not for it.
    Close it afterwards. Raises as ``Finetune``.
    """
    asking = any(term.needs_teacher for term in losses)
    if asking and job.teacher is None:
        raise UsageError(f"{name}: losses need a teacher, and the job has none; give Job.local(..., teacher=...)")
    example = first_samples(job, student.signature, name) if asking else None
    teacher = job.teacher.module if asking and job.teacher is not None else None
    try:
        return DistillationLoss(
            losses,
            student.module,
            teacher,
            example,
            label_smoothing=train.label_smoothing,
            seed=job.seed,
            teacher_dtype=torch.bfloat16 if _in_bf16(student.module, teacher, example, train, amp_allowed) else None,
        )
    except (UsageError, PassFault, ModelFault) as error:
        raise type(error)(f"{name}: {error}") from error.__cause__


def _in_bf16(
    student: nn.Module, teacher: nn.Module | None, example: Sequence[Tensor] | None, train: Train, allowed: bool
) -> bool:
    """What the teacher does: as ``fit_`` chooses for the student, and only if both can."""
    if teacher is None or example is None or train.amp == "off" or not allowed:
        return False
    if train.amp == "bf16":
        return True
    _, device = here(train)
    given = [value.to(device) for value in example]
    return native_bf16(device) and all(takes_bf16(net, given) for net in (student, teacher))


def identity_of(losses: Sequence[LossTerm]) -> list[dict[str, Any]]:
    """What tells two losses apart: ``fit_`` goes on from a checkpoint of an equal one only."""
    return [asdict(term) for term in losses]


def first_samples(job: Job, signature: Signature, name: str) -> list[Tensor]:
    """A few training samples in the signature's order, as many as it fixes. DataFault where there are none."""
    if job.task is None or not job.task.has("training"):
        raise DataFault(f"{name}: there is no training data; set data.training")
    batch = next(iter(job.task.training()), None)
    if batch is None:
        raise DataFault(f"{name}: the training data is empty")
    found = []
    for spec in signature.inputs:
        if spec.name not in batch.inputs:
            raise DataFault(f"{name}: training batches hold {sorted(batch.inputs)} but the model takes {spec.name!r} too")
        count = spec.shape[0] if spec.shape and isinstance(spec.shape[0], int) else EXAMPLE
        found.append(torch.from_numpy(np.array(batch.inputs[spec.name][:count])))
    return found
