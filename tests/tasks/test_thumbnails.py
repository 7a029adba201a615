from __future__ import annotations

import base64
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from accel.errors import DataFault
from accel.imports import ImportPolicy
from accel.model import Signature, TensorSpec
from accel.tasks.image_classification import ImageClassification
from accel.tasks.settings import DataSettings, DataSource, ImageClassificationSettings, Preprocess
from accel.tasks.thumbnails import MOST_CHARACTERS, SIDE, thumbnail

RANDOM = np.random.default_rng(0)
SECRET = b"a place and a name"


def opened(address: str | None) -> Image.Image:
    """The picture, looked at as a browser would: by its address alone."""
    assert address is not None
    assert len(address) <= MOST_CHARACTERS
    head, _, content = address.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert head == f"data:image/{str(image.format).lower()}"
    image.load()
    assert max(image.size) <= SIDE
    return image


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Red grows to the right, green downwards, blue is off."""
    red, green = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([red, green, np.zeros_like(red)], axis=-1).astype(np.uint8)


def colours(image: Image.Image) -> NDArray[np.int64]:
    """The four corners."""
    return np.asarray(image.convert("RGB"), dtype=np.int64)[[0, 0, -1, -1], [0, -1, 0, -1]]


CORNERS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [255, 255, 0]])


def task(folder: Path, source: DataSource, preprocess: Preprocess | None = None) -> ImageClassification:
    settings = ImageClassificationSettings(preprocess=preprocess)
    return ImageClassification(settings, DataSettings(validation=source), policy=ImportPolicy(folder))


def photo(path: Path, pixels: NDArray[np.uint8]) -> None:
    """With a place, a name and a colour profile in it."""
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = 6  # stored lying down
    exif.get_ifd(0x8825)[2] = (47.0, 22.0, 1.0)
    Image.fromarray(pixels).save(path, quality=95, exif=exif, icc_profile=SECRET, comment=SECRET)


def test_folder(tmp_path: Path) -> None:
    (tmp_path / "photos" / "<b>cat</b>").mkdir(parents=True)
    (tmp_path / "photos" / "dog").mkdir()
    photo(tmp_path / "photos" / "<b>cat</b>" / "0.jpg", gradient(120, 240))
    (tmp_path / "photos" / "dog" / "1.jpg").write_bytes(b"\xff\xd8\xff no image")
    found = task(tmp_path, DataSource(folder="photos"), Preprocess()).thumbnails("validation", [0, 1, 2, -1])
    image = opened(found[0])
    assert image.size == (64, 32)
    assert np.abs(colours(image) - CORNERS).max() < 30
    assert found[1:] == [None, None, None]
    content = base64.b64decode(str(found[0]).partition(",")[2])
    assert SECRET not in content
    assert b"Exif" not in content
    assert not image.getexif()
    assert "icc_profile" not in image.info


def test_csv_and_tar(tmp_path: Path) -> None:
    photo(tmp_path / "a.jpg", gradient(80, 80))
    (tmp_path / "list.csv").write_text("file,label\na.jpg,0\n")
    with tarfile.open(tmp_path / "data.tar", "w") as archive:
        archive.add(tmp_path / "a.jpg", "a.jpg")
        content = b"file,label\na.jpg,0\n"
        member = tarfile.TarInfo("labels.csv")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    found = task(tmp_path, DataSource(csv="list.csv"), Preprocess()).thumbnails("validation", [0])
    assert opened(found[0]).size == (64, 64)
    assert found == task(tmp_path, DataSource(tar="data.tar"), Preprocess()).thumbnails("validation", [0])


def test_arrays_of_pixels_are_shown_as_they_are(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.stack([gradient(28, 28)] * 3), labels=np.arange(3))
    (found,) = task(tmp_path, DataSource(arrays="data.npz"), Preprocess()).thumbnails("validation", [1])
    image = opened(found)
    assert (image.format, image.size) == ("PNG", (56, 56))  # twice, so that every pixel is a square
    assert (np.asarray(image)[::2, ::2] == gradient(28, 28)).all()


def test_arrays_in_the_models_own_form(tmp_path: Path) -> None:
    """Normalised floats, channels first, one sample with NaN."""
    inputs = (np.stack([gradient(32, 32)] * 2).transpose(0, 3, 1, 2) / 255.0 - 0.45) / 0.22
    inputs[1, 0, 0, 0] = np.nan
    np.savez(tmp_path / "data.npz", inputs=inputs.astype(np.float32), labels=np.arange(2))
    found = task(tmp_path, DataSource(arrays="data.npz")).thumbnails("validation", [0, 1])
    image = opened(found[0])
    assert image.size == (64, 64)
    assert (colours(image) == CORNERS).all()
    assert found[1] is None


def test_encoded_arrays(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(gradient(10, 20)).save(stream, "PNG")
    good, bad = stream.getvalue(), b"no image"
    np.savez(
        tmp_path / "data.npz",
        inputs=np.frombuffer(good + bad, np.uint8),
        offsets=np.array([0, len(good), len(good) + len(bad)]),
        labels=np.arange(2),
    )
    source = DataSource.model_validate({"arrays": {"path": "data.npz", "offsets": "offsets"}})
    found = task(tmp_path, source, Preprocess()).thumbnails("validation", [1, 0, 1])
    assert opened(found[1]).size == (60, 30)
    assert [found[0], found[2]] == [None, None]


def test_torchvision(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = RANDOM.integers(0, 255, (5, 28, 28), np.uint8)
    (raw / "t10k-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, *images.shape) + images.tobytes())
    (raw / "t10k-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 5) + bytes(5))
    for name in ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"):
        (raw / name).write_bytes((raw / name.replace("train", "t10k")).read_bytes())
    source = DataSource.model_validate({"torchvision": {"name": "MNIST", "root": ".", "kwargs": {"train": False}}})
    (found,) = task(tmp_path, source, Preprocess(color="gray")).thumbnails("validation", [3])
    assert (np.asarray(opened(found))[::2, ::2] == images[3]).all()


CODE = """
import numpy as np

def stream():
    for index in range(9):
        if index == 5:
            yield np.zeros(7, np.float32), index
        else:
            yield np.full((8, 8, 3), 10 * index, np.uint8), index

def failing():
    raise RuntimeError("no data today")
"""


def test_a_factory_and_one_that_fails(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(CODE)
    found = task(tmp_path, DataSource(factory="data.py:stream"), Preprocess()).thumbnails("validation", [8, 5, 2])
    assert colours(opened(found[0]))[0].tolist() == [80, 80, 80]
    assert found[1] is None  # seven numbers are no image
    assert colours(opened(found[2]))[0].tolist() == [20, 20, 20]
    assert task(tmp_path, DataSource(factory="data.py:failing")).thumbnails("validation", [0, 1]) == [None, None]


def test_positions_count_in_the_order_of_the_split(tmp_path: Path) -> None:
    images = np.repeat(np.arange(20, dtype=np.uint8) * 10, 64).reshape(20, 8, 8)
    np.savez(tmp_path / "data.npz", inputs=images, labels=np.arange(20))
    made = task(tmp_path, DataSource(arrays="data.npz", shuffle=3, skip=4, num_samples=10), Preprocess(color="gray"))
    order = [int(label) for batch in made.validation() if batch.labels is not None for label in batch.labels]
    found = made.thumbnails("validation", list(range(10)))
    assert [int(np.asarray(opened(each))[0, 0]) // 10 for each in found] == order
    assert order != sorted(order)


def test_labels_are_those_that_were_scored(tmp_path: Path) -> None:
    """A model with a fixed batch of 4: the last batch is filled up, and what fills it is no sample."""
    labels = np.arange(10) % 3
    np.savez(tmp_path / "data.npz", inputs=RANDOM.random((10, 2), np.float32), labels=labels)
    made = ImageClassification(
        ImageClassificationSettings(metrics=("top1",)),
        DataSettings(validation=DataSource(arrays="data.npz")),
        policy=ImportPolicy(tmp_path),
        inputs=Signature((TensorSpec("x", (4, 2), "float32"),), ()),
    )
    assert made.labels("validation") is None
    made.score(lambda inputs: [np.eye(3)[[0] * 4]], "validation")
    found = made.labels("validation")
    assert found is not None
    assert found.dtype == np.int64
    assert found.tolist() == labels.tolist()
    assert made.labels("selection") is None


@pytest.mark.parametrize(
    ("shape", "channels_last", "size"),
    [
        ((7, 5), False, (45, 63)),
        ((1, 28, 28), False, (56, 56)),
        ((28, 28, 1), False, (56, 56)),
        ((3, 40, 30), False, (30, 40)),
        ((3, 8, 3), False, (24, 64)),
        ((3, 8, 3), True, (64, 24)),
        ((1, 1), False, (64, 64)),
        ((2, 5000), False, (64, 1)),
        ((3, 300, 200), False, (43, 64)),
        ((12,), False, None),
        ((2, 8, 8), False, None),
        ((4, 8, 8), False, None),
        ((1, 3, 8, 8), False, None),
        ((), False, None),
        ((0, 4), False, None),
    ],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16, np.int8, np.bool_])
def test_shapes(shape: tuple[int, ...], channels_last: bool, size: tuple[int, int] | None, dtype: Any) -> None:
    found = thumbnail(RANDOM.integers(0, 2, shape).astype(dtype), channels_last=channels_last)
    if size is None:
        assert found is None
    else:
        assert opened(found).size == size


def test_the_noisiest_image_is_small_enough() -> None:
    image = opened(thumbnail(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8), channels_last=True))
    assert image.format == "JPEG"


@pytest.mark.parametrize("low", [-np.finfo(np.float64).max, 0.0])
def test_the_widest_range_is_no_overflow(low: float) -> None:
    found = np.asarray(opened(thumbnail(np.array([[low, np.finfo(np.float64).max]] * 2))))
    assert found[0].tolist() == [0] * 32 + [255] * 32


@pytest.mark.parametrize("value", [0.0, 3.5, 5e-324])
def test_one_value_is_grey(value: float) -> None:
    assert np.unique(np.asarray(opened(thumbnail(np.full((4, 4), value))))).tolist() == [128]


def test_infinity_and_complex_have_none() -> None:
    assert thumbnail(np.array([[1.0, np.inf]])) is None
    assert thumbnail(np.zeros((4, 4), complex)) is None


def test_reading_again_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "data.npz", inputs=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))
    made = task(tmp_path, DataSource(arrays="data.npz"), Preprocess())

    def gone(*_: object) -> Iterator[None]:
        raise DataFault("the disk is gone")

    monkeypatch.setattr("accel.tasks.arrays.NpzReader.sample", gone)
    assert made.thumbnails("validation", [0]) == [None]
