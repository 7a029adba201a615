"""Fault 38 as a user meets it, through the task: what can be wrong with data, one case each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.errors import DataFault
from accel.imports import ImportPolicy
from accel.model import Signature, TensorSpec
from accel.tasks.image_classification import ImageClassification
from accel.tasks.settings import DataSettings, DataSource, ImageClassificationSettings, Preprocess

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (60, 6, 7, 3), np.uint8)
LABELS = np.arange(60) % 10
PIXELS = Preprocess()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def task(
    folder: Path, preprocess: Preprocess | None = PIXELS, spec: TensorSpec | None = None, **splits: DataSource
) -> ImageClassification:
    return ImageClassification(
        ImageClassificationSettings(preprocess=preprocess, metrics=("top1",)),
        DataSettings(**splits),
        policy=ImportPolicy(folder),
        inputs=None if spec is None else Signature((spec,), ()),
    )


def npz(folder: Path, inputs: Any, labels: Any = None) -> DataSource:
    arrays = {"inputs": inputs} if labels is None else {"inputs": inputs, "labels": labels}
    np.savez(folder / "data.npz", **arrays)
    return DataSource(arrays="data.npz", batch_size=8)


READY = RANDOM.normal(size=(20, 3, 6, 7)).astype(np.float32)


def test_fault_empty(folder: Path) -> None:
    with pytest.raises(DataFault, match=r"data.calibration: is empty: the source holds no samples"):
        task(folder, calibration=npz(folder, IMAGES[:0])).calibration()
    with pytest.raises(DataFault, match=r"data.calibration: is empty: skip is 99, but the source holds 60 samples"):
        task(folder, calibration=npz(folder, IMAGES).model_copy(update={"skip": 99})).calibration()
    with pytest.raises(DataFault, match=r"data.selection: is empty: its share \(tenth\) of 1 samples is none"):
        task(folder, training=npz(folder, IMAGES[:1])).selection()


def test_fault_one_sample(folder: Path) -> None:
    found = task(folder, calibration=npz(folder, IMAGES[:1]))
    assert [batch.inputs["input"].shape for batch in found.calibration()] == [(1, 3, 6, 7)]
    assert found.warnings == ["data.calibration: has 1 sample only; nothing can be concluded from it"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_fault_not_finite(folder: Path, value: float) -> None:
    bad = READY.copy()
    bad[13, 2, 0, 4] = value
    found = task(folder, preprocess=None, calibration=npz(folder, bad))
    with pytest.raises(DataFault, match=rf"data.calibration: sample 13 \(data.npz: inputs\[13\]\): {value} at \(2, 0, 4\)"):
        list(found.calibration())


def test_fault_constant(folder: Path) -> None:
    found = task(folder, preprocess=None, calibration=npz(folder, np.zeros_like(READY)))
    list(found.calibration())
    list(found.calibration())
    assert found.warnings == [
        "data.calibration: all 20 samples are constant (every value the same); is this the data?",
        "data.calibration: all 20 samples are the same",
    ]


def test_fault_wrong_shape(folder: Path) -> None:
    spec = TensorSpec("input", ("batch", 3, 8, 8), "float32")
    found = task(folder, preprocess=None, calibration=npz(folder, READY), spec=spec)
    with pytest.raises(
        DataFault, match=r"data.calibration: sample 0 .*is float32 \(3, 6, 7\), but .*takes float32 \(3, 8, 8\)"
    ):
        list(found.calibration())


def test_fault_wrong_dtype(folder: Path) -> None:
    with pytest.raises(DataFault, match=r"data.calibration: .*inputs: dtype is object"):
        task(folder, calibration=npz(folder, np.array([None, 3], dtype=object))).calibration()
    spec = TensorSpec("input", ("batch", 3, 6, 7), "float32")
    found = task(folder, preprocess=None, calibration=npz(folder, IMAGES.transpose(0, 3, 1, 2)), spec=spec)
    with pytest.raises(DataFault, match=r"sample 0 .*is uint8, but .*takes float32; these are pixels: declare task.preprocess"):
        list(found.calibration())


def test_fault_wrong_range(folder: Path) -> None:
    found = task(folder, preprocess=None, calibration=npz(folder, np.abs(READY) * 80))
    list(found.calibration())
    assert len(found.warnings) == 1 and "are they raw pixels (0..255)?" in found.warnings[0]


def test_fault_corrupt_image_in_the_middle(folder: Path) -> None:
    for index in range(5):
        Image.fromarray(IMAGES[index]).save(folder / f"{index}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:60])
    found = task(folder, calibration=DataSource(folder=".", batch_size=2))
    with pytest.raises(DataFault, match=r"data.calibration: sample 3 \(.*3.png\): cannot be read as an image"):
        list(found.calibration())


def test_fault_generator_that_raises(folder: Path) -> None:
    (folder / "data.py").write_text("def data():\n    yield [[1]], 0\n")
    with pytest.raises(DataFault, match=r"data.calibration: sample 0 \(data.py:data\): is a list"):
        task(folder, calibration=DataSource(factory="data.py:data")).calibration()
    (folder / "data.py").write_text(
        "import numpy as np\ndef data():\n    yield np.ones((4, 4), np.uint8), 0\n    raise ValueError('x')\n"
    )
    with pytest.raises(DataFault, match=r"data.calibration: sample 1 \(data.py:data\): raised ValueError"):
        task(folder, calibration=DataSource(factory="data.py:data")).calibration()


def test_fault_infinite_generator(folder: Path) -> None:
    (folder / "data.py").write_text(
        "import itertools, numpy as np\ndef data():\n    for i in itertools.count():\n"
        "        yield np.full((4, 4), i % 250, np.uint8), i % 3\n"
    )
    found = task(folder, calibration=DataSource(factory="data.py:data", num_samples=30, skip=5, batch_size=8))
    labels = np.concatenate([batch.labels for batch in found.calibration() if batch.labels is not None])
    assert list(labels) == [index % 3 for index in range(5, 35)]


def test_fault_single_class(folder: Path) -> None:
    found = task(folder, validation=npz(folder, IMAGES, np.full(60, 3)))
    score = found.score(lambda inputs: [np.tile(np.eye(10, dtype=np.float32)[3], (len(inputs["input"]), 1))])
    assert score["top1"].value == 1.0
    assert found.warnings == ["data.validation: all labels are 3; accuracy on one class says little"]


@pytest.mark.parametrize("label", [10, -1])
def test_fault_label_out_of_range(folder: Path, label: int) -> None:
    labels = LABELS.copy()
    labels[41] = label
    found = task(folder, validation=npz(folder, IMAGES, labels))
    with pytest.raises(DataFault, match=rf"data.validation: sample 41 \(data.npz: inputs\[41\]\): label {label}"):
        found.score(lambda inputs: [np.zeros((len(inputs["input"]), 10), np.float32)])


def test_images_of_several_sizes_name_the_first_that_differs(folder: Path) -> None:
    for index in range(5):
        Image.fromarray(np.zeros((6 + index // 3, 7), np.uint8)).save(folder / f"{index}.png")
    with pytest.raises(DataFault, match=r"sample 3 .*becomes \(3, 7, 7\), others \(3, 6, 7\); set task.preprocess.resize"):
        list(task(folder, calibration=DataSource(folder=".")).calibration())


def test_a_label_missing_in_the_middle_is_refused(folder: Path) -> None:
    (folder / "data.py").write_text(
        "import numpy as np\ndef data():\n    return [(np.ones((4, 4), np.uint8), None if i == 2 else i) for i in range(4)]\n"
    )
    found = task(folder, validation=DataSource(factory="data.py:data"))
    with pytest.raises(DataFault, match=r"sample 2 \(data.py:data\): has no label, unlike sample 0"):
        list(found.validation())


def test_folders_that_number_their_classes_differently_draw_a_remark(folder: Path) -> None:
    for index, name in enumerate(("one/cat", "one/dog", "two/dog")):
        (folder / name).mkdir(parents=True)
        Image.fromarray(IMAGES[index]).save(folder / name / "a.png")
    found = task(folder, calibration=DataSource(folder="one"), validation=DataSource(folder="two"))
    list(found.calibration())
    found.validation()
    assert (
        "data.validation: class folders differ from those of another split (dog; cat, dog), so the same label means different"
        " classes; name all of them in task.classes"
    ) in found.warnings
