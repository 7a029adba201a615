"""The training split as random access: written once into files that are mapped, so that memory stays bounded.

A task gives batches in one fixed order and may decode images for each; training wants them shuffled, many times over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from accel import atomic
from accel.compress.data_fit import inputs_of, require_fit
from accel.contracts import Batch, Progress, Task
from accel.errors import DataFault
from accel.model import Signature

Array = NDArray[Any]
_DONE = "samples.json"
_LABELS_KEY = "\nlabels"  # no input is called like this
_PROGRESS_S = 0.25


@dataclass(frozen=True)
class TrainingSamples:
    """``inputs``: one mapped array (count, ...) for each input of the model, in its order. ``labels``: (count,) or None.

    ``batch_size``: of the batches that the task gave.
    """

    inputs: tuple[Array, ...]
    labels: Array | None
    count: int
    batch_size: int

    def batch(self, indices: Array) -> tuple[list[Tensor], Tensor | None]:
        """The samples at ``indices``, copied into memory, in that order."""
        inputs = [torch.from_numpy(array[indices]) for array in self.inputs]
        return inputs, None if self.labels is None else torch.from_numpy(self.labels[indices])


def data_digest(task: Task, signature: Signature) -> str:
    """What identifies the samples as the model takes them."""
    record = [task.digest("training"), [[spec.name, list(spec.shape), spec.dtype] for spec in signature.inputs]]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def folder_of(task: Task, signature: Signature, scratch: Path) -> Path:
    """Where :func:`spooled` keeps the samples."""
    return scratch / f"training_data_{data_digest(task, signature)[:16]}"


def spooled(task: Task | None, signature: Signature, scratch: Path, progress: Progress) -> TrainingSamples:
    """The samples from ``scratch``, where an earlier call wrote them, or read from the task now.

    Raises DataFault for a split that is absent or empty, a sample that does not fit ``signature`` or holds NaN or Inf, and
    labels that only some samples have; StorageFault where the disk cannot hold them.
    """
    if task is None or not task.has("training"):
        raise DataFault("training: there is no training data; set data.training")
    folder = folder_of(task, signature, scratch)
    found = opened(folder, signature)
    if found is None:
        _write(task, signature, folder, progress)
        found = opened(folder, signature)
    if found is None:
        raise DataFault(f"training: {folder} was changed while it was being written; run again")
    return found


def opened(folder: Path, signature: Signature) -> TrainingSamples | None:
    """The samples below ``folder``; None where they were not written to the end."""
    try:
        record = json.loads((folder / _DONE).read_text())
    except (OSError, ValueError):
        return None
    arrays: dict[str, Array] = {}
    for name, (file, shape, dtype) in record["arrays"].items():
        path = folder / file
        if not path.is_file() or path.stat().st_size != int(np.prod(shape)) * np.dtype(dtype).itemsize:
            return None
        arrays[name] = np.asarray(np.memmap(path, dtype, "r", shape=tuple(shape)))
    inputs = tuple(arrays[spec.name] for spec in signature.inputs)
    return TrainingSamples(inputs, arrays.get(_LABELS_KEY), record["count"], record["batch_size"])


def _write(task: Task, signature: Signature, folder: Path, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with atomic.storage_faults(folder):
        folder.mkdir(parents=True)
    files: dict[str, BinaryIO] = {}
    first: Mapping[str, Array] = {}
    count = batch_size = 0
    said = time.monotonic()
    try:
        for batch in task.training():
            arrays = _checked(batch, signature, count)
            if not first:
                first, batch_size = arrays, len(arrays[signature.inputs[0].name])
                with atomic.storage_faults(folder):
                    files = {name: (folder / f"{index}.bin").open("wb") for index, name in enumerate(arrays)}
            if arrays.keys() != first.keys():
                this, others = ("no", "one") if _LABELS_KEY in first else ("a", "none")
                raise DataFault(f"training sample {count}: it has {this} label, and the samples before it have {others}")
            for name, array in arrays.items():
                if array.shape[1:] != first[name].shape[1:]:
                    raise DataFault(
                        f"training sample {count}: input {name!r} has shape {array.shape[1:]}, the first sample"
                        f" {first[name].shape[1:]}; resize or pad all to one shape"
                    )
                atomic.require_room(folder)
                with atomic.storage_faults(folder):
                    files[name].write(np.ascontiguousarray(array).data)
            count += len(arrays[signature.inputs[0].name])
            if time.monotonic() - said >= _PROGRESS_S:
                said = time.monotonic()
                progress(0, 0, f"reading the training data: {count} samples")
        if count == 0:
            raise DataFault("training: the split is empty")
        with atomic.storage_faults(folder):
            for file in files.values():
                file.close()
                atomic.sync(Path(file.name))
    except BaseException:
        for file in files.values():
            _close(file)
        shutil.rmtree(folder, ignore_errors=True)  # gives the room back: what is left would be read again anyway
        raise
    described = {
        name: [Path(files[name].name).name, [count, *array.shape[1:]], array.dtype.str] for name, array in first.items()
    }
    atomic.write(folder / _DONE, json.dumps({"count": count, "batch_size": batch_size, "arrays": described}))


def _close(file: BinaryIO) -> None:
    with suppress(OSError):  # what it still held does not fit on a full disk, and is not wanted any more
        file.close()


def _checked(batch: Batch, signature: Signature, start: int) -> dict[str, Array]:
    arrays = inputs_of(batch, signature, "training")
    for spec in signature.inputs:
        array = arrays[spec.name]
        require_fit(array, spec, f"training sample {start}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.argmin(np.isfinite(array).reshape(len(array), -1).all(axis=1)))
            raise DataFault(f"training sample {start + row}: input {spec.name!r} holds NaN or Inf; remove or repair the sample")
    if batch.labels is not None:
        arrays[_LABELS_KEY] = _labels(np.asarray(batch.labels), start)
    sizes = {name.strip(): len(array) for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise DataFault(f"training sample {start}: the parts of a batch differ in length: {sizes}")
    return arrays


def _labels(labels: Array, start: int) -> Array:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        shape = list(labels.shape)
        raise DataFault(f"training sample {start}: labels are {labels.dtype} of shape {shape}; a class index for each expected")
    return labels.astype(np.int64)
