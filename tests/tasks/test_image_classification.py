from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from accel.contracts import Split, Task
from accel.errors import DataFault, UsageError
from accel.imports import ImportPolicy
from accel.model import Signature, TensorSpec
from accel.tasks.image_classification import ImageClassification
from accel.tasks.settings import Arrays, DataSettings, DataSource, ImageClassificationSettings, Preprocess

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 255, (60, 6, 7, 3), np.uint8)
LABELS = np.arange(60) % 10
PIXELS = Preprocess()
ARRAYS = DataSource(arrays="data.npz", batch_size=8)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", inputs=IMAGES, labels=LABELS)
    return tmp_path


def task(
    folder: Path,
    *,
    preprocess: Preprocess | None = PIXELS,
    metrics: tuple[str, ...] = ("top1",),
    classes: tuple[str, ...] | None = None,
    spec: TensorSpec | None = None,
    seed: int = 0,
    hold_selection: bool = False,
    **splits: DataSource,
) -> ImageClassification:
    settings = ImageClassificationSettings(preprocess=preprocess, metrics=metrics, classes=classes)
    signature = None if spec is None else Signature((spec,), ())
    data = DataSettings(**splits)
    return ImageClassification(
        settings, data, policy=ImportPolicy(folder), inputs=signature, seed=seed, hold_selection=hold_selection
    )


def labels_of(found: ImageClassification, split: Split) -> list[int]:
    return [int(label) for batch in getattr(found, split)() for label in batch.labels]


def inputs_of(found: ImageClassification, split: Split, name: str = "input") -> Any:
    return np.concatenate([batch.inputs[name] for batch in getattr(found, split)()])


def right_answers(images: Any, labels: Any, classes: int = 10) -> Any:
    """A model that knows each image by its content."""
    known = {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}

    def predict(inputs: Mapping[str, Any]) -> list[Any]:
        (batch,) = inputs.values()
        return [np.eye(classes, dtype=np.float32)[[known[sample.tobytes()] for sample in batch]]]

    return predict


def test_is_a_task(folder: Path) -> None:
    found: Task = task(folder, validation=ARRAYS)
    assert [split for split in get_args(Split) if found.has(split)] == ["validation"]


def test_batches_are_preprocessed_and_the_last_may_be_smaller(folder: Path) -> None:
    batches = task(folder, validation=ARRAYS).validation()
    shapes = [batch.inputs["input"].shape for batch in batches]
    assert shapes == [(8, 3, 6, 7)] * 7 + [(4, 3, 6, 7)]
    first = next(iter(batches))
    assert first.inputs["input"].dtype == np.float32 and first.labels is not None and first.labels.dtype == np.int64
    assert (first.inputs["input"] == IMAGES[:8].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)).all()


def test_a_split_may_be_read_again_and_while_it_is_read(folder: Path) -> None:
    batches = task(folder, validation=ARRAYS).validation()
    first = [batch.inputs["input"] for batch in batches]
    assert all((one.inputs["input"] == other).all() for one, other in zip(batches, first, strict=True))
    assert all((a.inputs["input"] == b.inputs["input"]).all() for a, b in zip(batches, batches, strict=True))


def test_skip_count_and_shuffle_choose_samples(folder: Path) -> None:
    some = ARRAYS.model_copy(update={"skip": 5, "num_samples": 10})
    assert labels_of(task(folder, validation=some), "validation") == list(LABELS[5:15])
    calibration = ARRAYS.model_copy(update={"shuffle": 1, "num_samples": 20})
    validation = ARRAYS.model_copy(update={"shuffle": 1, "skip": 20})
    both = task(folder, calibration=calibration, validation=validation)
    assert both.count("calibration") == 20 and both.count("validation") == 40
    assert both.overlaps() == []
    assert sorted(labels_of(both, "calibration") + labels_of(both, "validation")) == sorted(LABELS)


def test_fewer_samples_than_asked_for_is_said(folder: Path) -> None:
    found = task(folder, validation=ARRAYS.model_copy(update={"skip": 50, "num_samples": 20}))
    assert found.count("validation") == 10
    assert found.warnings == ["data.validation: num_samples is 20, but only 10 are there"]


def test_a_tenth_of_training_is_selection(folder: Path) -> None:
    found = task(folder, training=ARRAYS, calibration=ARRAYS)
    assert [found.count(split) for split in ("training", "selection", "calibration")] == [54, 6, 60]
    assert found.has("selection")
    both = [*inputs_of(found, "training"), *inputs_of(found, "selection")]
    assert len({sample.tobytes() for sample in both}) == 60
    other = task(folder, training=ARRAYS, seed=1)
    assert not np.array_equal(inputs_of(other, "selection"), inputs_of(found, "selection"))
    assert other.digest("selection") != found.digest("selection") != found.digest("training")


def test_half_of_calibration_is_held_when_asked_for(folder: Path) -> None:
    found = task(folder, calibration=ARRAYS, hold_selection=True)
    assert [found.count(split) for split in ("selection", "calibration")] == [30, 30]
    assert found.overlaps() == []
    plain = task(folder, calibration=ARRAYS)
    assert not plain.has("selection") and plain.count("calibration") == 60
    assert plain.digest("calibration") != found.digest("calibration")


def test_a_split_that_is_not_declared_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.calibration: the recipe declares none"):
        task(folder, validation=ARRAYS).calibration()


def test_another_process_gets_the_same_batches(folder: Path) -> None:
    source = ARRAYS.model_copy(update={"shuffle": 7})
    found = task(folder, training=source)
    code = f"""
import hashlib, pathlib
from accel.imports import ImportPolicy
from accel.tasks.image_classification import ImageClassification
from accel.tasks.settings import DataSettings, ImageClassificationSettings
def named(b):
    return hashlib.sha256(b.inputs["input"].tobytes() + b.labels.tobytes()).hexdigest()
settings = ImageClassificationSettings.model_validate_json({found.settings.model_dump_json()!r})
data = DataSettings.model_validate_json({found.data.model_dump_json()!r})
task = ImageClassification(settings, data, policy=ImportPolicy(pathlib.Path({str(folder)!r})))
print(task.digest("training"), *[named(b) for b in task.training()])
"""
    here = [
        hashlib.sha256(batch.inputs["input"].tobytes() + np.asarray(batch.labels).tobytes()).hexdigest()
        for batch in found.training()
    ]
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert there == [found.digest("training"), *here]


def test_overlap_is_found_by_content_across_kinds_of_files(folder: Path) -> None:
    """Fault 39."""
    for index in range(12):
        Image.fromarray(IMAGES[index]).save(folder / f"copy{index}.png")
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"copy{index}.png,0\n" for index in range(12)))
    found = task(folder, calibration=DataSource(csv="labels.csv"), validation=ARRAYS)
    assert found.overlaps() == ["calibration and validation share 12 of 12 samples (by content)"]


def test_digest_follows_the_data_and_not_the_batch_size(folder: Path) -> None:
    """Fault 40."""
    before = task(folder, validation=ARRAYS).digest("validation")
    assert task(folder, validation=DataSource(arrays="data.npz", batch_size=3)).digest("validation") == before
    assert task(folder, validation=ARRAYS, preprocess=Preprocess(scale=1)).digest("validation") != before
    changed = IMAGES.copy()
    changed[59, 5, 6, 2] ^= 1
    np.savez(folder / "data.npz", inputs=changed, labels=LABELS)
    assert task(folder, validation=ARRAYS).digest("validation") != before


FACTORY = """
import numpy as np
def data(change=0, generator=False):
    images = np.arange(20 * 6 * 7 * 3).reshape(20, 6, 7, 3).astype(np.uint8)
    images[0, 0, 0, 0] += change
    pairs = [(image, index % 10) for index, image in enumerate(images)]
    return iter(pairs) if generator else pairs
"""


@pytest.mark.parametrize("generator", [False, True])
def test_data_from_a_factory_is_digested_as_it_is_read(tmp_path: Path, generator: bool) -> None:
    (tmp_path / "data.py").write_text(FACTORY)

    def found(change: int) -> ImageClassification:
        source = DataSource(factory="data.py:data", kwargs={"change": change, "generator": generator})
        return task(tmp_path, training=source, validation=source.model_copy(update={"skip": 15, "num_samples": 5}))

    one = found(0)
    assert [one.count(split) for split in ("training", "selection", "validation")] == [18, 2, 5]
    assert one.digest("training") == found(0).digest("training") != found(1).digest("training")
    assert one.digest("validation") == found(1).digest("validation")
    assert labels_of(one, "validation") == [5, 6, 7, 8, 9]


def test_scores_every_sample_once(folder: Path) -> None:
    found = task(folder, validation=ARRAYS, metrics=("top5", "top1"))
    inputs = inputs_of(found, "validation")
    wrong = LABELS.copy()
    wrong[:15] = (wrong[:15] + 1) % 10
    scores = found.score(right_answers(inputs, wrong))
    assert list(scores) == ["top5", "top1"]
    per_sample = scores["top1"].per_sample
    assert scores["top1"].value == 0.75 and per_sample is not None
    assert list(per_sample) == [0] * 15 + [1] * 45
    assert found.warnings == []


def test_scores_a_metric_of_the_users_own(folder: Path) -> None:
    (folder / "mine.py").write_text("def mean_label(outputs, labels):\n    return outputs[0].argmax(1) * 1.0\n")
    found = task(folder, validation=ARRAYS, metrics=("mine.py:mean_label", "top1"))
    scores = found.score(right_answers(inputs_of(found, "validation"), LABELS))
    assert scores["mine.py:mean_label"].value == LABELS.mean() and scores["top1"].value == 1.0


def test_a_nan_metric_is_never_a_result(folder: Path) -> None:
    """Fault 41."""
    (folder / "mine.py").write_text("def bad(outputs, labels):\n    return float('nan')\n")
    found = task(folder, validation=ARRAYS, metrics=("top1", "mine.py:bad"))
    with pytest.raises(DataFault, match=r"metric mine.py:bad: gave nan"):
        found.score(right_answers(inputs_of(found, "validation"), LABELS))


def test_nan_outputs_are_never_an_answer(folder: Path) -> None:
    with pytest.raises(DataFault, match="outputs are NaN"):
        task(folder, validation=ARRAYS).score(lambda inputs: [np.full((8, 10), np.nan, np.float32)])


def test_top5_of_five_classes_is_left_out_with_a_remark(folder: Path) -> None:
    np.savez(folder / "data.npz", inputs=IMAGES, labels=LABELS % 4)
    found = task(folder, validation=ARRAYS, metrics=("top1", "top5"), classes=("a", "b", "c"))
    scores = found.score(right_answers(inputs_of(found, "validation"), LABELS % 4, classes=4))
    assert list(scores) == ["top1"]
    assert found.warnings == [
        "task.metrics: top5 is left out: the model has 4 classes only",
        "task.classes: names 3 classes, but the model gives 4",
    ]
    only = task(folder, validation=ARRAYS, metrics=("top5",))
    with pytest.raises(DataFault, match="none is left for a model of 4 classes; name top1"):
        only.score(right_answers(inputs_of(only, "validation"), LABELS % 4, classes=4))


def test_unlabelled_data_cannot_be_scored(folder: Path) -> None:
    found = task(folder, validation=DataSource(arrays=Arrays(path="data.npz", labels="answers")))
    with pytest.raises(
        DataFault, match=r"data.validation: has no labels to score against: .*no array 'answers'; it has inputs, labels"
    ):
        found.score(lambda inputs: [])


def test_unknown_metrics_are_refused_at_once(folder: Path) -> None:
    with pytest.raises(UsageError, match="'accuracy' is no metric"):
        task(folder, validation=ARRAYS, metrics=("accuracy",))


def test_the_models_signature_names_the_input_and_fixes_the_dtype(folder: Path) -> None:
    found = task(folder, validation=ARRAYS, spec=TensorSpec("pixels", ("batch", 3, 6, 7), "float16"))
    assert inputs_of(found, "validation", "pixels").dtype == np.float16


@pytest.mark.parametrize("fixed", [1, 7, 32])
def test_a_fixed_batch_axis_overrides_batch_size(folder: Path, fixed: int) -> None:
    found = task(folder, validation=ARRAYS, spec=TensorSpec("x", (fixed, 3, 6, 7), "float32"))
    known = right_answers(inputs_of(task(folder, validation=ARRAYS), "validation"), LABELS)
    sizes = []

    def predict(inputs: Mapping[str, Any]) -> Any:
        sizes.append(len(inputs["x"]))
        return known(inputs)

    score = found.score(predict)["top1"]
    assert set(sizes) == {fixed} and score.value == 1.0
    assert score.per_sample is not None and len(score.per_sample) == 60
    assert found.warnings == []
    assert {batch.inputs["x"].shape[0] for batch in found.validation()} == {fixed}
    left = 60 % fixed
    said = [f"data.validation: the last {left} samples are left out: the model takes {fixed} at a time"] if left else []
    assert found.warnings == said


def test_fewer_samples_than_a_fixed_batch_cannot_be_fed(folder: Path) -> None:
    found = task(folder, validation=ARRAYS, spec=TensorSpec("x", (64, 3, 6, 7), "float32"))
    with pytest.raises(DataFault, match="has 60 samples, but the model takes 64 at a time"):
        list(found.validation())


def test_memory_is_bounded_by_batches(folder: Path) -> None:
    big = np.zeros((2000, 64, 64), np.uint8)
    big[:] = RANDOM.integers(0, 255, (64, 64), np.uint8)
    big[:, 0, 0] = np.arange(2000) % 251
    np.savez(folder / "data.npz", inputs=big)
    found = task(folder, validation=DataSource(arrays="data.npz"))
    tracemalloc.start()
    for _ in found.validation():
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # preprocessed whole it would be 98 MB


needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the project's shared data folder is not here")


@needs_shared
@pytest.mark.shared_data
def test_fashion_mnist_scores_what_the_model_was_measured_at() -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    weights = load_file(SHARED / "models" / "fashion_cnn.safetensors")
    widths = [(1, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1)]
    nn = torch.nn

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            blocks = [
                nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
                for a, b, stride in widths
            ]
            self.f = nn.Sequential(*blocks)
            self.fc = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            return self.fc(self.f(x).mean((2, 3)))

    net = Net().eval()
    net.load_state_dict(weights)

    def predict(inputs: Mapping[str, Any]) -> Any:
        with torch.no_grad():
            return [net(torch.from_numpy(inputs["input"])).numpy()]

    arrays = Arrays(path=str(SHARED / "data" / "fashion_mnist.npz"), inputs="test_images", labels="test_labels")
    found = task(SHARED, preprocess=Preprocess(color="gray"), validation=DataSource(arrays=arrays, batch_size=250))
    assert found.score(predict)["top1"].value == pytest.approx(0.9050)


@needs_shared
@pytest.mark.shared_data
def test_photos_are_read_from_the_shared_tar() -> None:
    tar = DataSource(tar=str(SHARED / "data" / "imagenet_compat_1000.tar"), shuffle=0, num_samples=6, batch_size=4)
    crop = Preprocess(center_crop=0.875, resize=(224, 224), interpolation="bicubic", scale=1, mean=(127,), std=(128,))
    found = task(SHARED, preprocess=crop, calibration=tar, validation=tar.model_copy(update={"skip": 6}))
    batches = list(found.validation())
    assert [batch.inputs["input"].shape for batch in batches] == [(4, 3, 224, 224), (2, 3, 224, 224)]
    assert all(np.abs(batch.inputs["input"]).max() <= 1 for batch in batches)
    assert found.overlaps() == []
