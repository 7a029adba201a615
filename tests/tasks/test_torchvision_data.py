from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.errors import AccelError, DataFault, SafetyRefusal, UsageError
from accel.tasks.settings import TorchvisionData
from accel.tasks.torchvision_data import TorchvisionReader

pytest.importorskip("torch")

IMAGES = np.random.default_rng(0).integers(0, 255, (5, 28, 28), np.uint8)
LABELS = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MNIST's own file format with five images, and a folder with one image and one that is none."""
    folder = tmp_path_factory.mktemp("torchvision")
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for stem in ("train", "t10k"):
        (raw / f"{stem}-images-idx3-ubyte").write_bytes(struct.pack(">IIII", 0x803, *IMAGES.shape) + IMAGES.tobytes())
        (raw / f"{stem}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 5) + LABELS.tobytes())
    pets = folder / "pets" / "cat"
    pets.mkdir(parents=True)
    Image.fromarray(IMAGES[0]).save(pets / "a.png")
    (pets / "b.png").write_bytes(gzip.compress(b"no image"))
    return folder


def reader(root: Path, name: str, where: str = ".", **kwargs: Any) -> TorchvisionReader:
    return TorchvisionReader(TorchvisionData(name=name, root=where, kwargs=kwargs), root)


def test_reads_a_data_set_on_disk(root: Path) -> None:
    found = reader(root, "MNIST", train=False)
    assert len(found) == 5
    pixels, label = found.sample(2)
    assert (pixels == IMAGES[2]).all() and label == 4
    assert found.place(2) == "sample 2 (MNIST)"


def test_a_corrupt_image_names_the_sample(root: Path) -> None:
    found = reader(root, "ImageFolder", "pets")
    found.sample(0)
    with pytest.raises(DataFault, match=r"sample 1 \(ImageFolder\): cannot be read"):
        found.sample(1)


@pytest.mark.parametrize(
    ("name", "kwargs", "kind", "message"),
    [
        ("FashionMNIST", {}, DataFault, "nothing is downloaded: Dataset not found"),
        ("MNIST", {"download": True}, UsageError, "nothing is downloaded; put the data below"),
        ("MNIST", {"trian": True}, UsageError, "unexpected keyword argument 'trian'"),
        ("MNITS", {}, UsageError, "no such data set; did you mean .*MNIST"),
        ("VisionDataset", {}, UsageError, "no such data set"),
        ("utils", {}, UsageError, "no such data set"),
        ("FakeData", {}, UsageError, "is not read from a folder; real data is needed"),
        ("LSUN", {}, SafetyRefusal, "runs pickles"),
    ],
)
def test_what_cannot_be_read_is_refused(
    root: Path, name: str, kwargs: dict[str, Any], kind: type[AccelError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        reader(root, name, **kwargs)
