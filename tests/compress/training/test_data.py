from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from accel import atomic
from accel.compress.training.data import folder_of, spooled
from accel.compress.training.repeatable import epoch_order
from accel.contracts import Batch, silent
from accel.errors import DataFault, StorageFault
from accel.model import Signature, TensorSpec

SIGNATURE = Signature((TensorSpec("a", ("batch", 3), "float32"), TensorSpec("b", ("batch",), "int64")), ())


class Task:
    """``batches`` as they are; counts how often they are read."""

    def __init__(self, batches: Iterable[Batch], digest: str = "one") -> None:
        self.batches = list(batches)
        self.name = digest
        self.reads = 0

    def has(self, split: str) -> bool:
        return split == "training"

    def digest(self, split: str) -> str:
        return self.name

    def training(self) -> Iterable[Batch]:
        self.reads += 1
        yield from self.batches


def batch(start: int, size: int, labels: bool = True) -> Batch:
    rows = np.arange(start, start + size)
    inputs: dict[str, Any] = {"a": rows[:, None].repeat(3, 1).astype(np.float32), "b": rows * 10}
    return Batch(inputs, rows % 4 if labels else None)


def spool(task: Any, folder: Path) -> Any:
    return spooled(task, SIGNATURE, folder, silent)


def test_samples_come_back_in_any_order(tmp_path: Path) -> None:
    samples = spool(Task([batch(0, 4), batch(4, 4), batch(8, 2)]), tmp_path)
    assert (samples.count, samples.batch_size) == (10, 4)
    inputs, labels = samples.batch(np.array([9, 0, 4]))
    assert torch.equal(inputs[0], torch.tensor([[9.0] * 3, [0.0] * 3, [4.0] * 3]))
    assert torch.equal(inputs[1], torch.tensor([90, 0, 40]))
    assert torch.equal(labels, torch.tensor([1, 0, 0]))
    inputs[0].zero_()  # a copy: the files stay
    assert samples.batch(np.array([9]))[0][0][0, 0] == 9


def test_unlabelled_data(tmp_path: Path) -> None:
    assert spool(Task([batch(0, 4, labels=False)]), tmp_path).batch(np.array([1]))[1] is None


def test_data_is_read_once_and_again_only_where_it_changed_or_is_not_whole(tmp_path: Path) -> None:
    task = Task([batch(0, 4)])
    spool(task, tmp_path)
    spool(task, tmp_path)
    assert task.reads == 1
    other = Task([batch(4, 4)], digest="two")
    assert spool(other, tmp_path).batch(np.array([0]))[0][1] == 40
    folder = folder_of(task, SIGNATURE, tmp_path)  # type: ignore[arg-type]
    with (folder / "0.bin").open("r+b") as file:
        file.truncate(7)
    assert spool(task, tmp_path).count == 4
    (folder / "samples.json").unlink()  # a kill before the last file
    spool(task, tmp_path)
    assert task.reads == 3


def test_an_iterator_that_fails_leaves_nothing(tmp_path: Path) -> None:
    class Failing(Task):
        def training(self) -> Iterable[Batch]:
            yield batch(0, 4)
            raise DataFault("data.training: image 7 is damaged")

    with pytest.raises(DataFault, match="image 7"):
        spool(Failing([]), tmp_path)
    assert not list(tmp_path.iterdir())


def changed(**inputs: Any) -> Batch:
    whole = batch(4, 4)
    return Batch({**whole.inputs, **inputs}, whole.labels)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint16])
def test_labels_of_any_whole_number_are_int64(tmp_path: Path, dtype: Any) -> None:
    given, other = batch(0, 4), batch(4, 4)  # types that change from batch to batch would else be read as one
    assert given.labels is not None
    samples = spool(Task([Batch(given.inputs, given.labels.astype(dtype)), other]), tmp_path)
    labels = samples.batch(np.arange(8))[1]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2, 3] * 2


NAN = np.zeros((4, 3), np.float32)
NAN[2, 1] = np.nan
WRONG = {
    "nan": (changed(a=NAN), "training sample 6: input 'a' holds NaN or Inf"),
    "shape": (changed(a=np.zeros((4, 5), np.float32)), r"training sample 4: input 'a' has shape \(5,\) but the model takes"),
    "type": (changed(a=np.zeros((4, 3))), "input 'a' is float64 but the model takes float32"),
    "absent": (Batch({"a": np.zeros((4, 3), np.float32)}), r"hold \['a'\] but the model takes \['b'\] too"),
    "labels": (Batch(batch(4, 4).inputs), "training sample 4: it has no label, and the samples before it have one"),
    "label type": (Batch(batch(4, 4).inputs, np.zeros(4, np.float32)), r"sample 4: labels are float32 of shape \[4\]; a class"),
    "label shape": (Batch(batch(4, 4).inputs, np.zeros((4, 1), np.int64)), r"labels are int64 of shape \[4, 1\]"),
    "length": (changed(b=np.zeros(3, np.int64)), "the parts of a batch differ in length"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_samples_that_do_not_fit_are_named(tmp_path: Path, kind: str) -> None:
    wrong, message = WRONG[kind]
    with pytest.raises(DataFault, match=message):
        spool(Task([batch(0, 4), wrong]), tmp_path)


def test_shapes_that_vary_are_refused_where_the_signature_allows_them(tmp_path: Path) -> None:
    signature = Signature((TensorSpec("a", ("batch", "length"), "float32"),), ())
    batches = [Batch({"a": np.zeros((2, size), np.float32)}) for size in (3, 4)]
    with pytest.raises(DataFault, match=r"training sample 2: input 'a' has shape \(4,\), the first sample \(3,\)"):
        spooled(Task(batches), signature, tmp_path, silent)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", [None, Task([])])
def test_no_data(tmp_path: Path, task: Any) -> None:
    with pytest.raises(DataFault, match="set data.training" if task is None else "the split is empty"):
        spool(task, tmp_path)


def test_a_disk_that_is_full_before_and_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "_ROOM_BYTES", 1 << 62)
        with pytest.raises(StorageFault, match="the disk is full; free some space"):
            spool(Task([batch(0, 4)]), tmp_path)
    assert not list(tmp_path.iterdir())

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic, "sync", full)
    with pytest.raises(StorageFault, match="the disk is full"):
        spool(Task([batch(0, 4)]), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_order_is_the_seeds_and_the_epochs() -> None:
    orders = {(seed, epoch): tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert orders[1, 1] == tuple(epoch_order(50, 1, 1))
