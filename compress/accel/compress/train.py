"""The one training loop: every pass that trains calls :func:`fit_` with a loss of its own.

A run that is killed and started again goes on from its last checkpoint and ends with the same weights, bit for bit, on the
same machine with the same number of threads and processes: everything random follows from the seed and the step.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from accel.compress.edits import to_json
from accel.compress.train_settings import Train
from accel.compress.training import checkpoint as training_checkpoint
from accel.compress.training.batches import Course
from accel.compress.training.data import TrainingSamples, data_digest, folder_of, opened, spooled
from accel.compress.training.device import chosen_device, native_bf16
from accel.compress.training.distributed import World, from_first, gathered, join, require_share, together
from accel.compress.training.memory import kept_memory
from accel.compress.training.repeatable import repeatable
from accel.compress.training.run import Run
from accel.compress.training.state import state_digest, tensors_of
from accel.contracts import Job
from accel.errors import AccelError, DataFault, UsageError, WorkFault
from accel.model import Signature, TorchModel

Loss = Callable[[Sequence[Tensor], Any, Tensor | None], Tensor]
"""``(inputs, outputs of the module, labels) -> scalar``, the mean over the samples.

Outputs are float32 whatever the forward pass computes in. Labels are (n,) int64, (n, classes) float32 probabilities under
mixup and cutmix, or None. A loss that is an ``nn.Module`` is moved to the device of the training, and those of its parameters
that require a gradient are trained and checkpointed along; its mode is left as it is.
"""


class Companion(Protocol):
    """Acts between steps, which count from 0 to ``total - 1``: a mask schedule, the freezing of observers.

    ``before_step`` runs in training mode before the forward pass, ``after_step`` after the optimizer. ``state`` goes into the
    checkpoint, and ``restore`` gets it on the CPU. Every process has its own and must act alike.
    """

    def before_step(self, step: int, total: int) -> None: ...
    def after_step(self, step: int, total: int) -> None: ...
    def state(self) -> Mapping[str, Tensor]: ...
    def restore(self, state: Mapping[str, Tensor]) -> None: ...


def fit_(
    model: TorchModel,
    job: Job,
    settings: Train,
    loss: Loss,
    *,
    companions: Sequence[Companion] = (),
    name: str,
    amp_allowed: bool = True,
    identity: Any = None,
) -> list[str]:
    """Train ``model.module`` in place on the job's training data; it is on the CPU and in evaluation mode afterwards.

    ``name``: of the pass, for messages and the checkpoint's folder. ``identity``: JSON-ready, what decides the result besides
    model, data, settings and teacher (the loss's settings, say): a checkpoint is resumed only where it is equal.
    ``amp_allowed=False`` keeps FP32 where ``amp`` is auto. Zeros that a ``Masks`` edit made stay zero, and parameters that
    require no gradient stay what they are. Under ``torchrun`` every process calls this, and all end with the same weights.

    Gives notes for the report. Raises DataFault for data that is missing or does not fit, PassFault where the loss or a weight
    becomes NaN or infinite, ModelFault where the module or the loss fails, StorageFault on a full disk.
    """
    if not amp_allowed and settings.amp == "bf16":
        raise UsageError(f"{name}: it trains in FP32; set train.amp to auto or off")
    if settings.keep == "best" and (job.task is None or not job.task.has("selection")):
        raise DataFault(f"{name}: train.keep is best, and there is no selection data to choose by; give some, or keep last")
    world, device = here(settings)
    samples = _samples(world, job, model.signature)
    course = _course(settings, samples, model.signature, world, name)
    bf16 = settings.amp == "bf16" or (settings.amp == "auto" and amp_allowed and native_bf16(device))
    folder = _folder(world, model, job, settings, name, identity, bf16) if world.first else None
    start, notes = _begin(world, folder)
    with torch.inference_mode(False), torch.enable_grad(), repeatable(device, job.seed), kept_memory(device):
        run = Run(model, job, settings, loss, companions, name, course, samples, world, device, bf16, folder)
        try:
            return run.complete(start, notes)
        except WorkFault:
            # A killed run comes back for its data; one that failed may not, and each leaves a copy of them.
            if world.local_rank == 0 and job.task is not None:
                shutil.rmtree(folder_of(job.task, model.signature, job.scratch), ignore_errors=True)
            raise
        finally:
            run.leave()


def here(settings: Train) -> tuple[World, torch.device]:
    """This process among those that train, and its device. UsageError for a device that it does not have."""
    world = join(use_cuda=settings.device != "cpu" and torch.cuda.is_available())
    return world, chosen_device(settings.device, world.local_rank)


def _samples(world: World, job: Job, signature: Signature) -> TrainingSamples:
    """The data, read by one process of each machine and mapped by all of them."""
    found, error, place = None, None, ""
    if world.local_rank == 0:
        try:
            found = spooled(job.task, signature, job.scratch, job.progress)
            place = str(folder_of(job.task, signature, job.scratch)) if job.task is not None else ""
        except AccelError as fault:
            error = fault
    together(world, error)
    places = gathered(world, place)
    found = found or opened(Path(places[world.leader]), signature)
    together(world, None if found else DataFault(f"training: process {world.rank} finds no data in {places[world.leader]}"))
    assert found is not None
    return found


def _course(settings: Train, samples: TrainingSamples, signature: Signature, world: World, name: str) -> Course:
    fixed = signature.inputs[0].shape[0] if signature.inputs[0].shape else None
    wanted = settings.batch_size or samples.batch_size
    if isinstance(fixed, int):
        if settings.batch_size not in (None, fixed * world.size):
            raise UsageError(f"{name}: the model takes exactly {fixed} samples; set train.batch_size to {fixed * world.size}")
        wanted = fixed * world.size
        if samples.count < wanted:
            raise DataFault(f"training: {samples.count} samples do not fill one batch of the model's fixed size {wanted}")
    batch = min(wanted, samples.count)
    require_share(world, batch)
    per_epoch = samples.count // batch
    return Course(samples.count, batch, per_epoch, settings.total_steps(per_epoch))


def _folder(world: World, model: TorchModel, job: Job, settings: Train, name: str, identity: Any, bf16: bool) -> Path:
    """Where this training keeps its checkpoint: another folder for anything that would give another result."""
    assert job.task is not None
    record = {
        "loop": 3,
        "settings": {**asdict(settings), "checkpoint_every_s": None},
        "identity": identity,
        "seed": job.seed,
        "module": state_digest(tensors_of(model.module)),
        "edits": to_json(model.edits),
        "trained": [key for key, value in model.module.named_parameters() if value.requires_grad],
        "bf16": bf16,
        "teacher": state_digest(tensors_of(job.teacher.module)) if job.teacher is not None else None,
        "data": data_digest(job.task, model.signature),
        "processes": world.size,
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()
    plain = re.sub(r"[^A-Za-z0-9.-]+", "_", name)[:60]
    return job.scratch / f"training_{plain}_{digest[:16]}"


def _begin(world: World, folder: Path | None) -> tuple[training_checkpoint.Checkpoint | None, list[str]]:
    """The checkpoint to go on from, the same in every process, and what there is to say about it."""
    found, notes = None, []
    if folder is not None:
        training_checkpoint.clean(folder)
        try:
            found = training_checkpoint.read(folder)
        except ValueError as error:
            notes.append(f"warning: {error}; trained from the start")
    return from_first(world, (found, notes))  # type: ignore[no-any-return]
