"""Core of ``bn_reestimate``: batch norm statistics as averages over data, not as traces of a training that is past."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from accel.contracts import Batch, Job
from accel.errors import DataFault, PassFault
from accel.model import Signature, TorchModel

Array = NDArray[Any]
GROUP = 64
"""Samples in one forward pass: enough for a variance, little enough for memory."""
_TELLING = 16
"""Labels that only rise by chance are fewer than this."""


def reestimated(
    model: TorchModel, job: Job, *, split: Literal["training", "calibration"], num_samples: int, allow_noop: bool
) -> TorchModel:
    """See ``BnReestimate``. The given model stays as it is."""
    if not any(_tracks(part) for part in model.module.modules()):
        if allow_noop:
            return model.noting("bn_reestimate: the model has no batch norm with running statistics; left as it was")
        raise PassFault(
            "bn_reestimate: the model has no batch norm with running statistics; remove the pass, or set allow_noop: true"
        )
    task = job.task
    if task is None or not task.has(split):
        raise DataFault(f"bn_reestimate: there is no {split} data; set data.{split}, or `data` of the pass to another split")
    samples: Callable[[], Iterable[Batch]] = getattr(task, split)
    module = copy.deepcopy(model.module)
    where = next(iter([*module.parameters(), *module.buffers()])).device
    read = _Groups(samples(), model.signature, num_samples, split)

    def told() -> Iterator[list[Tensor]]:
        for group in read:
            job.progress(min(read.count, num_samples), num_samples, "batch norm statistics")
            yield [torch.from_numpy(array).to(where) for array in group]

    silent = reestimate_batch_norm_(module, told())
    notes = [f"bn_reestimate: {path} did not run and kept its statistics" for path in silent]
    if read.by_class:
        notes.append(
            f"warning: bn_reestimate: the first {read.count} samples of {split} come sorted by class, so the statistics are"
            f" those of a few classes; set data.{split}.shuffle: 0, or raise num_samples"
        )
    if read.count < num_samples:
        notes.append(f"bn_reestimate: {read.count} samples, all that {split} holds (num_samples is {num_samples})")
    return replace(model, module=module).noting(*notes)


def reestimate_batch_norm_(module: nn.Module, batches: Iterable[Tensor | Sequence[Tensor]]) -> list[str]:
    """Set running mean and variance of every batch norm of ``module`` to their averages over ``batches`` of inputs.

    What PyTorch computes with ``momentum=None``, each batch counting by its number of samples (an equal share where they are
    equal). Everything but batch norms is in evaluation mode meanwhile, and nothing but their buffers changes, training flags
    and momentum included. Gives the paths of batch norms that did not run, which keep their statistics.

    Raises DataFault for no batches, or one of a single value per channel; PassFault for statistics that are not finite.
    """
    norms = {path: part for path, part in module.named_modules() if _tracks(part)}
    flags = [(part, part.training) for part in module.modules()]
    momenta = {path: part.momentum for path, part in norms.items()}
    before = {path: {name: value.clone() for name, value in part.named_buffers()} for path, part in norms.items()}
    for part, _ in flags:
        part.training = isinstance(part, _BatchNorm) and _tracks(part)
    seen = 0
    done = False
    try:
        for part in norms.values():
            part.reset_running_stats()
        for batch in batches:
            inputs = (batch,) if isinstance(batch, Tensor) else batch
            seen += len(inputs[0])
            for part in norms.values():
                part.momentum = len(inputs[0]) / seen
            with torch.no_grad():
                _run(module, inputs)
        if not seen:
            raise DataFault("bn_reestimate: the data is empty; give at least 2 samples, better 2048")
        unreached = [path for path, part in norms.items() if not int(part.num_batches_tracked or 0)]
        _require_finite({path: part for path, part in norms.items() if path not in unreached})
        done = True
    finally:
        for path, part in norms.items():
            part.momentum = momenta[path]
            if not done or path in unreached:
                part.load_state_dict(before[path], strict=False)
        for module_part, training in flags:
            module_part.training = training
    return unreached


def _tracks(part: nn.Module) -> bool:
    return isinstance(part, _BatchNorm) and part.running_mean is not None and part.running_var is not None


def _run(module: nn.Module, inputs: Sequence[Tensor]) -> None:
    try:
        module(*inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise DataFault(
            f"bn_reestimate: one batch of shape {tuple(inputs[0].shape)} has no variance (a single value per channel); "
            "give more samples"
        ) from error


def _require_finite(norms: dict[str, _BatchNorm]) -> None:
    for path, part in norms.items():
        for name in ("running_mean", "running_var"):
            if not bool(torch.isfinite(getattr(part, name)).all()):
                raise PassFault(
                    f"bn_reestimate: {path}.{name} became NaN or Inf on finite data; check the weights of the layers before it"
                )


class _Groups:
    """The first samples of a split, ``GROUP`` at a time in the signature's order; what is left over joins the last group.

    A model of a fixed batch gets groups of that size, without what is left over. ``count``: how many samples were given.
    ``by_class``: they are a part of the split, and their labels only rise, as those of a folder of folders do.
    """

    def __init__(self, batches: Iterable[Batch], signature: Signature, limit: int, split: str) -> None:
        self._batches = batches
        self._signature = signature
        self._limit = limit
        self._split = split
        self.count = 0
        self._labels: list[Array] = []
        self._cut = False

    @property
    def by_class(self) -> bool:
        labels = np.concatenate(self._labels) if self._labels else np.empty(0)
        return self._cut and len(labels) >= _TELLING and bool((labels[1:] >= labels[:-1]).all())

    def __iter__(self) -> Iterator[list[Array]]:
        first = self._signature.inputs[0].shape[0] if self._signature.inputs[0].shape else GROUP
        size = first if isinstance(first, int) else GROUP
        held: list[list[Array]] = []
        holding = 0
        for arrays in self._pieces():
            held.append(arrays)
            holding += len(arrays[0])
            while holding >= (size if isinstance(first, int) else 2 * size):  # a whole group stays behind for the rest
                whole = _joined(held)
                yield self._given([array[:size] for array in whole])
                held, holding = [[array[size:] for array in whole]], holding - size
        if holding and not isinstance(first, int):
            yield self._given(_joined(held))
        elif holding and not self.count:
            raise DataFault(f"bn_reestimate: {holding} samples do not fill one batch of the model's fixed size {size}")

    def _given(self, arrays: list[Array]) -> list[Array]:
        self.count += len(arrays[0])
        return arrays

    def _pieces(self) -> Iterator[list[Array]]:
        read = 0
        for batch in self._batches:
            if read >= self._limit:
                self._cut = True
                return
            missing = [spec.name for spec in self._signature.inputs if spec.name not in batch.inputs]
            if missing:
                raise DataFault(f"{self._split}: batches hold {sorted(batch.inputs)} but the model takes {missing} too")
            arrays = [np.asarray(batch.inputs[spec.name])[: self._limit - read] for spec in self._signature.inputs]
            self._check(arrays, read)
            read += len(arrays[0])
            if batch.labels is not None:
                self._labels.append(np.asarray(batch.labels)[: len(arrays[0])])
                self._cut = self._cut or len(batch.labels) > len(arrays[0])
            yield arrays

    def _check(self, arrays: Sequence[Array], read: int) -> None:
        for spec, array in zip(self._signature.inputs, arrays, strict=True):
            wanted, got = spec.shape[1:], array.shape[1:]
            if len(wanted) != len(got) or any(isinstance(w, int) and w != g for w, g in zip(wanted, got, strict=True)):
                raise DataFault(
                    f"{self._split}: input {spec.name!r} has shape {tuple(got)} but the model takes {tuple(wanted)}"
                )
            if array.dtype != np.dtype(spec.dtype):
                raise DataFault(f"{self._split}: input {spec.name!r} is {array.dtype} but the model takes {spec.dtype}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                rows = ~np.isfinite(array.reshape(len(array), -1)).all(1)
                raise DataFault(f"{self._split} sample {read + int(rows.argmax())}: input {spec.name!r} holds NaN or Inf")


def _joined(held: Sequence[Sequence[Array]]) -> list[Array]:
    return [np.concatenate(parts) for parts in zip(*held, strict=True)]
