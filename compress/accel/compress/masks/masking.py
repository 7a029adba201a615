"""Core of the pass ``sparsify``: masks on a copy of the model, with or without training."""

from __future__ import annotations

import copy
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from accel.compress.masks.mask_schedule import MaskSchedule
from accel.contracts import Job
from accel.model import TorchModel

if TYPE_CHECKING:
    from accel.compress.sparsify import Sparsify


def masked(model: TorchModel, job: Job, settings: Sparsify) -> TorchModel:
    """See ``Sparsify``. The given model stays as it is; its edits go with the copy."""
    result = replace(model, module=copy.deepcopy(model.module))
    schedule = MaskSchedule(result.module, settings.plan(), settings.ignored_layers, sparsify_all=settings.sparsify_all)
    notes: list[str] = []
    if settings.train is not None:
        from accel.compress.finetuning import pass_loss
        from accel.compress.train import fit_

        with pass_loss(result, job, settings.losses, settings.train, "sparsify") as loss:
            identity = {**asdict(settings), "train": None}
            notes = fit_(result, job, settings.train, loss, companions=[schedule], name="sparsify", identity=identity)
    else:
        notes = ["masked without training: accuracy falls until a finetune or distill"]
    schedule.finish()
    return result.noting(schedule.summary(), *schedule.notes, *notes)
