"""One training from its first step to its last: what :func:`accel.compress.train.fit_` runs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from accel.checkpoint import require_finite
from accel.compress.edits import masks_of
from accel.compress.train_settings import Train
from accel.compress.training import checkpoint as training_checkpoint
from accel.compress.training.average import Average
from accel.compress.training.batches import Batches, Course, TrainingBatch
from accel.compress.training.checkpoint import Checkpoint
from accel.compress.training.data import TrainingSamples
from accel.compress.training.device import as_float, channels_last_, contiguous_, takes_bf16, takes_channels_last
from accel.compress.training.distributed import World, alike_, average_, from_first, together, wrapped
from accel.compress.training.optimizer import make_optimizer, optimizer_state, restore_optimizer_, set_rate_
from accel.compress.training.repeatable import seed_step
from accel.compress.training.selection_score import judged
from accel.compress.training.state import copied, put_, tensors_of
from accel.compress.training.teacher_answers import Asks, learnt
from accel.contracts import Job
from accel.errors import AccelError, ModelFault, PassFault
from accel.model import TorchModel

if TYPE_CHECKING:
    from accel.compress.train import Companion, Loss

_PROGRESS_S = 0.25


class Run:
    """Holds what changes from step to step. Made, :meth:`complete` called once, then :meth:`leave`."""

    def __init__(
        self,
        model: TorchModel,
        job: Job,
        settings: Train,
        loss: Loss,
        companions: Sequence[Companion],
        name: str,
        course: Course,
        samples: TrainingSamples,
        world: World,
        device: torch.device,
        bf16: bool,
        folder: Path | None,
    ) -> None:
        self.module, self.signature = model.module, model.signature
        self.job, self.settings, self.loss, self.companions, self.name = job, settings, loss, companions, name
        self.course, self.world, self.device, self.folder = course, world, device, folder
        self.extra = loss if isinstance(loss, nn.Module) else None
        self.said = self.saved = -math.inf
        self.batches = Batches(samples, course, settings.augmentation, model.signature, world, device, job.seed, name)
        self.module.to(device)
        if self.extra is not None:
            self.extra.to(device)
            alike_(world, _trained(self.extra).values())  # made at random, they would differ from process to process
        self.masks = masks_of(self.module)
        self.named = {f"module.{key}": value for key, value in self.module.named_parameters() if value.requires_grad}
        if not self.named:
            raise PassFault(f"{name}: no parameter of the module requires a gradient, so there is nothing to train")
        if self.extra is not None:
            self.named.update({f"loss.{key}": value for key, value in self.extra.named_parameters() if value.requires_grad})
        first = self.batches.plain(0).inputs
        self.bf16 = from_first(world, bf16 and (settings.amp == "bf16" or takes_bf16(self.module, first)))
        self.only_fp32 = bf16 and not self.bf16
        self.channels_last = from_first(world, takes_channels_last(self.module, first, self.bf16))
        if self.channels_last:
            channels_last_(self.module)
        self.optimizer = make_optimizer(self.named, [self.module, *([self.extra] if self.extra else [])], settings)
        self.average = Average(self.module, settings.ema) if settings.ema is not None else None
        self.best: dict[str, Tensor] = {}
        self.answers: Tensor | None = None
        self.record: dict[str, Any] = {"step": 0, "loss_sum": 0.0, "loss_steps": 0, "losses": [], "scores": [], "metric": ""}

    # -- the whole ------------------------------------------------------------------------------------------------------

    def complete(self, start: Checkpoint | None, notes: list[str]) -> list[str]:
        """All steps that are left after ``start``; the weights to keep are then in the module. Gives notes."""
        if start is not None:
            self._resume(start)
            if start.record.get("done"):  # killed after the training, in what its pass did next
                return list(start.record["notes"])
            notes = [*notes, f"{self.name}: an earlier run was stopped; went on after step {self.record['step']}"]
        if self.world.size == 1:  # several would each ask for all samples, of which each sees a part
            notes = [*notes, *self._ask_beforehand()]
        self.saved = time.monotonic()
        forward = wrapped(self.world, self.module, self.device)
        total = self.course.total
        self._training_mode()
        while self.record["step"] < total:
            step: int = self.record["step"]
            self._step(forward, step)
            self.record["step"] = step + 1
            if (step + 1) % self.course.per_epoch == 0 or step + 1 == total:
                self._end_epoch()
            self._say()
            if step + 1 < total and time.monotonic() - self.saved >= self.settings.checkpoint_every_s:
                self._save()
        del forward
        return self._finish(notes)

    def _ask_beforehand(self) -> list[str]:
        """Where the teacher need not be asked at every step. Gives a note."""
        say = self.job.progress
        self.answers = learnt(self.loss, self.batches, self.course, channels_last=self.channels_last, progress=say)
        asked = "nothing changes the samples, so the teacher was asked once for each, beforehand"
        return [] if self.answers is None else [f"{self.name}: {asked}"]

    def leave(self) -> None:
        """Back on the CPU, in the usual memory layout, in evaluation mode, without gradients."""
        for value in self.named.values():
            value.grad = None
        self.module.to("cpu")
        if self.extra is not None:
            self.extra.to("cpu")
        if self.channels_last:
            contiguous_(self.module)
        self.module.eval()

    # -- one step -------------------------------------------------------------------------------------------------------

    def _step(self, forward: nn.Module, step: int) -> None:
        total = self.course.total
        seed_step(self.job.seed, step, self.world.rank, self.device)
        batch = self.batches.of(step, channels_last=self.channels_last)
        for companion in self.companions:
            companion.before_step(step, total)
        set_rate_(self.optimizer, self.settings.learning_rate(step, total))
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss(forward, batch, step) * batch.weight
        shown = loss.detach().clone()
        average_(self.world, [shown])
        value = float(shown)
        if not math.isfinite(value):
            raise self._diverged(step, f"the loss is {value}")
        loss.backward()  # type: ignore[no-untyped-call]
        if self.extra is not None:
            average_(self.world, [value.grad for value in self.extra.parameters() if value.grad is not None])
        if self.settings.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(list(self.named.values()), self.settings.clip_norm)
            if not torch.isfinite(norm):
                raise self._diverged(step, f"the gradient's norm is {float(norm)}")
        self.optimizer.step()
        self._apply_masks()
        for companion in self.companions:
            companion.after_step(step, total)
        if self.average is not None:
            self.average.update(self.module, step)
        self.record["loss_sum"] += value
        self.record["loss_steps"] += 1

    def _loss(self, forward: nn.Module, batch: TrainingBatch, step: int) -> Tensor:
        try:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                outputs = forward(*batch.inputs)
            if self.answers is not None and isinstance(self.loss, Asks):
                self.loss.recall(self.answers[batch.indices].to(self.device))
            loss: Tensor = self.loss(batch.inputs, as_float(outputs), batch.labels)
            if self.world.size > 1:  # DistributedDataParallel waits for the gradient of every output, used by the loss or not
                loss = loss + 0.0 * sum(leaf.sum() for leaf in tree_leaves(outputs) if _has_gradient(leaf))
        except AccelError:
            raise
        except torch.OutOfMemoryError as error:
            raise PassFault(f"{self.name}: step {step + 1}: the GPU's memory is full; lower train.batch_size") from error
        except Exception as error:  # the user's module and loss may raise anything
            text = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
            raise ModelFault(f"{self.name}: step {step + 1}: module or loss fail in training mode: {text}") from error
        if loss.dim() != 0:
            raise ModelFault(f"{self.name}: the loss has shape {list(loss.shape)}; it must be one number")
        if not loss.requires_grad:
            raise PassFault(f"{self.name}: the loss does not depend on any parameter that is trained")
        return loss

    def _apply_masks(self) -> None:
        if self.masks:
            own = dict(self.module.named_parameters(remove_duplicate=False))
            with torch.no_grad():
                for name, mask in self.masks.items():
                    own[name].masked_fill_(~mask, 0.0)  # a product would leave -0.0, which packs worse

    def _training_mode(self) -> None:
        self.module.train()
        for part in self.module.modules():
            if isinstance(part, _BatchNorm) and part.weight is not None and not part.weight.requires_grad:
                part.eval()  # who froze its weights did not ask for new statistics

    # -- now and then ---------------------------------------------------------------------------------------------------

    def _end_epoch(self) -> None:
        record = self.record
        record["losses"].append(record["loss_sum"] / record["loss_steps"])
        record["loss_sum"], record["loss_steps"] = 0.0, 0
        task = self.job.task
        assert task is not None
        if not task.has("selection"):
            return
        error: AccelError | None = None
        if self.world.first:
            try:
                self._judge()
            except AccelError as fault:
                error = fault
        together(self.world, error)
        self._training_mode()

    def _judge(self) -> None:
        assert self.job.task is not None
        with self.average.inside(self.module) if self.average is not None else nullcontext():
            metric, score = judged(self.module, self.signature, self.device, self.job.task)
            sign = 1 if score.higher_is_better else -1
            earlier = [sign * value for value in self.record["scores"]]
            self.record["metric"] = metric
            self.record["scores"].append(float(score.value))
            if self.settings.keep == "best" and (not earlier or sign * score.value > max(earlier)):
                self.record["best_epoch"] = len(self.record["scores"])
                self.best = copied(tensors_of(self.module))

    def _say(self) -> None:
        now = time.monotonic()
        step, total = self.record["step"], self.course.total
        if not self.world.first or (now - self.said < _PROGRESS_S and step < total):
            return
        self.said = now
        epoch = min((step - 1) // self.course.per_epoch + 1, self.course.epochs)
        steps = self.record["loss_steps"]
        loss = self.record["loss_sum"] / steps if steps else self.record["losses"][-1]
        text = f"epoch {epoch}/{self.course.epochs}: loss {loss:.4g}"
        if self.record["scores"]:
            text += f", {self.record['metric']} {self.record['scores'][-1]:.4g}"
        self.job.progress(step, total, text)

    # -- what survives --------------------------------------------------------------------------------------------------

    def _groups(self) -> dict[str, Mapping[str, Tensor]]:
        groups: dict[str, Mapping[str, Tensor]] = {
            "module": tensors_of(self.module),
            "optimizer": optimizer_state(self.optimizer, self.named),
            "best": self.best,
        }
        if self.extra is not None:
            groups["loss"] = _trained(self.extra)
        if self.average is not None:
            groups["average"] = self.average.tensors
        for index, companion in enumerate(self.companions):
            groups[f"companion{index}"] = companion.state()
        return groups

    def _save(self) -> None:
        """Only weights that are finite: the last good state stays where they are not."""
        if self.folder is not None:
            self._require_finite(self.record["step"] - 1)
            training_checkpoint.write(self.folder, Checkpoint(self.record, self._groups()))
        self.saved = time.monotonic()

    def _resume(self, start: Checkpoint) -> None:
        found = start.tensors
        put_(self.module, found["module"])
        restore_optimizer_(self.optimizer, self.named, found.get("optimizer", {}), self.settings.optimizer)
        if self.extra is not None:
            own = _trained(self.extra)
            with torch.no_grad():
                for name, value in found.get("loss", {}).items():
                    own[name].copy_(value)
        if self.average is not None:
            self.average.restore(found.get("average", self.average.tensors))
        for index, companion in enumerate(self.companions):
            companion.restore(found.get(f"companion{index}", {}))
        self.best = dict(found.get("best", {}))
        self.record = dict(start.record)
        if self.world.first:
            self.job.progress(self.record["step"], self.course.total, f"goes on after step {self.record['step']}")

    def _finish(self, notes: list[str]) -> list[str]:
        fault: AccelError | None = None
        try:
            self._require_finite(self.course.total - 1)
        except PassFault as error:
            fault = error
        together(self.world, fault)
        if self.average is not None:
            self.average.put_into(self.module)
        if self.best:
            put_(self.module, self.best)
        alike_(self.world, tensors_of(self.module).values())
        notes = from_first(self.world, notes + self._notes())
        if self.folder is not None:
            record = {**self.record, "done": True, "notes": notes}
            left = {key: value for key, value in self._groups().items() if key not in ("optimizer", "average", "best")}
            training_checkpoint.write(self.folder, Checkpoint(record, left))
        return notes

    def _notes(self) -> list[str]:
        course, record = self.course, self.record
        losses, scores = record["losses"], record["scores"]
        kept = f"{losses[0]:.4g} to {losses[-1]:.4g}" if len(losses) > 1 else f"{losses[0]:.4g}"
        steps = f"{course.total} step{'s' if course.total > 1 else ''} of {course.batch_size} samples"
        how = f"{'bfloat16' if self.bf16 else 'FP32'} on {self.device.type}"
        text = f"{self.name}: {steps} ({course.epochs} epoch{'s' if course.epochs > 1 else ''}) in {how}, loss {kept}"
        if scores:
            text += f", {record['metric']} on the selection data {scores[-1]:.4g}"
        if "best_epoch" in record:
            text += f"; kept epoch {record['best_epoch']} with {scores[record['best_epoch'] - 1]:.4g}"
        notes = [text]
        if self.only_fp32:
            notes.append(f"{self.name}: the module does not run in bfloat16, so it was trained in FP32")
        if (self.settings.batch_size or 0) > course.batch_size:
            notes.append(
                f"{self.name}: train.batch_size is {self.settings.batch_size}, but there are {course.count} samples only"
            )
        return notes

    def _require_finite(self, step: int) -> None:
        try:
            require_finite(self.module)
        except ModelFault as error:
            raise self._diverged(step, str(error).partition(";")[0]) from None

    def _diverged(self, step: int, fact: str) -> PassFault:
        ways = ["a lower train.lr"]
        if self.settings.clip_norm is None:
            ways.append("train.clip_norm: 1.0")
        if self.bf16:
            ways.append("train.amp: off")
        epoch = step // self.course.per_epoch + 1
        left = ""
        if self.folder is not None and training_checkpoint.path_in(self.folder).is_file():
            left = f"; the last good state is in {training_checkpoint.path_in(self.folder)}"
        place = f"step {step + 1} of {self.course.total} (epoch {epoch})"
        return PassFault(f"{self.name}: {place}: {fact}; try {', '.join(ways)}{left}")


def _has_gradient(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.requires_grad


def _trained(loss: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of those parts of a loss that learn; a teacher inside it is not among them."""
    found: dict[str, Tensor] = {}
    for path, part in loss.named_modules():
        own = dict(part.named_parameters(recurse=False))
        if any(value.requires_grad for value in own.values()):
            place = f"{path}." if path else ""
            found.update({place + name: value.detach() for name, value in own.items()})
            found.update({place + name: value for name, value in part.named_buffers(recurse=False)})
    return found
