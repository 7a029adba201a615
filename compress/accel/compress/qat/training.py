"""Core of the pass ``quantize`` with approach ``qat``: prepare, calibrate, train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from accel.compress.calibration_batches import in_batches
from accel.compress.calibration_data import calibration_samples
from accel.compress.finetuning import identity_of, pass_loss
from accel.compress.layer_names import matching
from accel.compress.qat.module import QuantizeAwareModule
from accel.compress.qat.pt2e import WHAT, insert, prepared
from accel.compress.qat.pt2e_annotation import Plan
from accel.compress.quantized_graph import require_profile
from accel.compress.train import fit_
from accel.contracts import Job, QuantizationProfile
from accel.errors import DataFault, UsageError
from accel.model import TorchModel

if TYPE_CHECKING:
    from accel.compress.quantize_aware import QuantizeAwareTraining

_NAME = "quantize"


def trained(model: TorchModel, job: Job, settings: QuantizeAwareTraining) -> TorchModel:
    """See ``QuantizeAwareTraining``."""
    profile = require_profile(job)
    if job.task is None or not job.task.has("calibration"):
        raise DataFault(f"{WHAT}: the first ranges come from calibration data, and there is none; set data.calibration")
    ignored = _ignored(model.module, (*settings.ignored_scope.names, *settings.ignored_scope.patterns))
    module, plan = prepared(model.module, model.signature, profile, ignored)
    samples = calibration_samples(job, model.signature, settings.calibration.num_samples)
    module.calibrate_(in_batches(samples, model.signature))
    student = replace(model, module=module)
    schedule = FreezeSchedule(module, settings.freeze_batch_norm, settings.freeze_observers)
    with pass_loss(student, job, settings.losses, settings.train, _NAME, amp_allowed=False) as loss:
        notes = fit_(
            student,
            job,
            settings.train,
            loss,
            companions=[schedule],
            name=_NAME,
            amp_allowed=False,  # rounding to 256 levels and to the 8 bits of bfloat16 at once loses what is to be learned
            identity=[identity_of(settings.losses), settings.freeze_batch_norm, settings.freeze_observers],
        )
    return student.noting(*_remarks(plan), *samples.notes, *notes)


def prepared_on(
    net: nn.Module, example: Tensor | Sequence[Tensor], profile: QuantizationProfile, ignored: Sequence[str]
) -> QuantizeAwareModule:
    """See ``prepare_qat``."""
    inputs = [example] if isinstance(example, Tensor) else list(example)
    if not inputs or any(not isinstance(value, Tensor) or value.dim() == 0 or not len(value) for value in inputs):
        raise UsageError("prepare_qat: example: a tensor (n, ...) or a sequence of them, with at least one sample")
    if any(len(value) != len(inputs[0]) for value in inputs):
        raise UsageError(f"prepare_qat: example: inputs hold {[len(value) for value in inputs]} samples")
    if len(inputs[0]) == 1:
        inputs = [torch.cat([value, value]) for value in inputs]  # torch.export takes a size of 1 for a constant
    batch = torch.export.Dim("batch")
    shapes = tuple({0: batch} for _ in inputs)
    module, _ = insert(net, inputs, shapes, profile, _ignored(net, ignored, "prepare_qat: ignored"))
    return module


class FreezeSchedule:
    """A companion of ``train.fit_``: freezes batch norms and observers at these fractions of the steps.

    Both states are buffers of the module and follow from the step, so that a resumed training needs nothing else.
    """

    def __init__(self, module: QuantizeAwareModule, batch_norm: float, observers: float) -> None:
        self._module = module
        self._batch_norm = batch_norm
        self._observers = observers

    def before_step(self, step: int, total: int) -> None:
        if step >= self._batch_norm * total:
            self._module.freeze_batch_norm_()
        if step >= self._observers * total:
            self._module.freeze_observers_()

    def after_step(self, step: int, total: int) -> None:
        """Nothing: what is frozen is so from the next forward pass on."""

    def state(self) -> Mapping[str, Tensor]:
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""


def _ignored(module: nn.Module, names: Sequence[str], where: str = f"{WHAT}: ignored_scope") -> list[str]:
    return sorted({path for paths in matching(module, names, where).values() for path in paths})


def _remarks(plan: Plan) -> list[str]:
    counts = f"fake-quantized: {len(plan.weights)} layers"
    if plan.products:
        counts += f", {plan.products} products of activations"
    return [counts, *plan.left]
