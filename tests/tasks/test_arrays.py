from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.errors import DataFault
from accel.tasks.arrays import NpzReader
from accel.tasks.settings import Arrays

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (6, 8, 9, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def written(folder: Path, *, compressed: bool = False, **arrays: Any) -> Path:
    path = folder / "data.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def reader(path: Path, **fields: Any) -> NpzReader:
    return NpzReader(Arrays(path=path.name, **fields), path.parent)


@pytest.mark.parametrize("compressed", [False, True])
def test_reads_images_and_labels(tmp_path: Path, compressed: bool) -> None:
    found = reader(written(tmp_path, inputs=IMAGES, labels=LABELS, compressed=compressed))
    assert len(found) == 6
    image, label = found.sample(4)
    assert (image == IMAGES[4]).all() and label == 1
    assert found.place(4) == "sample 4 (data.npz: inputs[4])"
    mapped = found._inputs
    assert isinstance(mapped, np.memmap) is not compressed


def test_reads_the_models_own_form_and_no_labels(tmp_path: Path) -> None:
    ready = RANDOM.normal(size=(3, 1, 4, 4)).astype(np.float32)
    found = reader(written(tmp_path, x=ready), inputs="x")
    image, label = found.sample(2)
    assert (image == ready[2]).all() and label is None
    assert found.unlabelled.endswith("data.npz has no array 'labels'; it has x")


def test_fortran_order_is_read_right(tmp_path: Path) -> None:
    path = written(tmp_path, inputs=np.asfortranarray(IMAGES), labels=LABELS)
    assert (reader(path).sample(3)[0] == IMAGES[3]).all()


def test_reads_encoded_images_by_offset(tmp_path: Path) -> None:
    encoded = []
    for image in IMAGES:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        encoded.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, encoded)])
    path = written(tmp_path, inputs=np.frombuffer(b"".join(encoded), np.uint8), offsets=offsets, labels=LABELS)
    found = reader(path, offsets="offsets")
    assert len(found) == 6
    assert all((found.sample(index)[0] == IMAGES[index]).all() for index in range(6))
    damaged = bytearray(b"".join(encoded))
    damaged[offsets[2] : offsets[3]] = bytes(len(encoded[2]))
    path = written(tmp_path, inputs=np.frombuffer(damaged, np.uint8), offsets=offsets, labels=LABELS)
    with pytest.raises(DataFault, match=r"sample 2 \(data.npz: inputs\[2\]\): cannot be read as an image"):
        reader(path, offsets="offsets").sample(2)


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        ({"a": IMAGES}, {}, "no array 'inputs'; it has a"),
        ({"inputs": IMAGES}, {"offsets": "o"}, "no array 'o'"),
        ({"inputs": np.array(["a", "b"])}, {}, "dtype is <U1"),
        ({"inputs": np.array([None, 1], dtype=object)}, {}, "dtype is object"),
        ({"inputs": np.zeros(5)}, {}, r"shape is \(5,\); expected \(samples, ...\)"),
    ],
)
def test_arrays_that_hold_no_samples_are_refused(
    tmp_path: Path, arrays: dict[str, Any], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataFault, match=message):
        reader(written(tmp_path, **arrays), **fields)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:5], "5 labels for 6 samples"),
        (LABELS.astype(float), "labels are float64"),
        (np.eye(6, 3, dtype=int), "argmax"),
        (np.array([None] * 6, dtype=object), "allow_pickle=False"),
    ],
)
def test_labels_that_are_no_class_indices_are_refused(tmp_path: Path, labels: Any, message: str) -> None:
    found = reader(written(tmp_path, inputs=IMAGES, labels=labels))
    with pytest.raises(DataFault, match=message):
        found.sample(0)


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (np.array([0, 900]), "outside"),
        (np.array([0, 5, 3]), "backwards"),
        (np.array([0.0, 1.0]), "integers in one row"),
    ],
)
def test_offsets_that_leave_the_buffer_are_refused(tmp_path: Path, offsets: Any, message: str) -> None:
    found = reader(written(tmp_path, inputs=np.zeros(20, np.uint8), offsets=offsets), offsets="offsets")
    with pytest.raises(DataFault, match=message):
        len(found)


@pytest.mark.parametrize("compressed", [False, True])
def test_damage_is_a_sentence_with_the_file(tmp_path: Path, compressed: bool) -> None:
    with pytest.raises(DataFault, match=r"absent.npz: no such file"):
        reader(tmp_path / "absent.npz")
    path = written(tmp_path, inputs=IMAGES, labels=LABELS, compressed=compressed)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataFault, match=r"data.npz: not an .npz, or damaged"):
        reader(path)
    broken = bytearray(whole)
    broken[60:90] = bytes(30)
    path.write_bytes(broken)
    with pytest.raises(DataFault, match=r"data.npz: inputs"):
        reader(path).sample(0)
