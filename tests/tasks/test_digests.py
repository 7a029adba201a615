from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from accel.errors import DataFault, SafetyRefusal, UsageError
from accel.tasks import digests
from accel.tasks.digests import combined, split_digest, static_digest
from accel.tasks.settings import Arrays, DataSettings, DataSource, ImageClassificationSettings, Preprocess, Tar, TorchvisionData


def write_image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 5), value, np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One of each kind of data, all of it small."""
    for number in range(4):
        write_image(tmp_path / "images" / "ab"[number % 2] / f"{number}.png", number)
    (tmp_path / "labels.csv").write_text("file,label\nimages/a/0.png,0\nimages/b/1.png,1\n")
    np.savez(tmp_path / "data.npz", inputs=np.zeros((3, 4, 4), np.uint8), labels=np.arange(3))
    with tarfile.open(tmp_path / "data.tar", "w:") as archive:
        archive.add(tmp_path / "images" / "a" / "0.png", "images/a/0.png")
        archive.add(tmp_path / "images" / "b" / "1.png", "images/b/1.png")
    return tmp_path


SOURCES: dict[str, dict[str, Any]] = {
    "arrays": {"arrays": "data.npz"},
    "folder": {"folder": "images"},
    "csv": {"csv": "labels.csv"},
    "tar": {"tar": "data.tar"},
    "torchvision": {"torchvision": TorchvisionData(name="ImageFolder", root="images")},
}


def rewrite_arrays(folder: Path) -> None:
    np.savez(folder / "data.npz", inputs=np.ones((3, 4, 4), np.uint8), labels=np.arange(3))


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "arrays-bytes": ("arrays", rewrite_arrays),
    "folder-bytes": ("folder", lambda folder: write_image(folder / "images/a/0.png", 99)),
    "folder-added": ("folder", lambda folder: write_image(folder / "images/a/9.png", 9)),
    "folder-removed": ("folder", lambda folder: (folder / "images/a/0.png").unlink()),
    "folder-moved": ("folder", lambda folder: (folder / "images/a/0.png").replace(folder / "images/b/0.png")),
    "folder-new-class": ("folder", lambda folder: write_image(folder / "images/aa/0.png", 0)),
    "csv-label": (
        "csv",
        lambda folder: (folder / "labels.csv").write_text("file,label\nimages/a/0.png,0\nimages/b/1.png,2\n"),
    ),
    "csv-image": ("csv", lambda folder: write_image(folder / "images/a/0.png", 99)),
    "tar-csv-beside": ("tar", lambda folder: (folder / "labels.csv").write_text("file,label\nimages/a/0.png,0\n")),
    "tar-bytes": ("tar", lambda folder: (folder / "data.tar").write_bytes((folder / "data.tar").read_bytes()[:2048])),
    "torchvision-bytes": ("torchvision", lambda folder: write_image(folder / "images/a/0.png", 99)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_data_has_another_digest(folder: Path, change: str) -> None:
    """Fault 40."""
    kind, edit = CHANGES[change]
    source = DataSource(**SOURCES[kind])
    before = static_digest(source, None, folder)
    assert before == static_digest(source, None, folder)
    edit(folder)
    assert static_digest(source, None, folder) != before


@pytest.mark.parametrize("kind", SOURCES)
def test_a_digest_is_of_content_wherever_it_lies(folder: Path, kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    source = DataSource(**SOURCES[kind])
    before = static_digest(source, Preprocess(), folder)
    folder.rename(elsewhere)
    try:
        assert static_digest(source, Preprocess(), elsewhere) == before
    finally:
        elsewhere.rename(folder)


def test_settings_that_change_samples_count_and_others_do_not(folder: Path) -> None:
    def digest(preprocess: Preprocess | None = None, **fields: Any) -> str | None:
        return static_digest(DataSource(**({"arrays": "data.npz"} | fields)), preprocess, folder)

    assert digest(batch_size=1) == digest(batch_size=64) == digest()
    found = [
        digest(),
        digest(skip=1),
        digest(num_samples=2),
        digest(shuffle=0),
        digest(shuffle=1),
        digest(Preprocess()),
        digest(Preprocess(scale=1)),
        digest(arrays=Arrays(path="data.npz", labels=None)),
        digest(folder="images", arrays=None),
    ]
    assert len(set(found)) == len(found)


def test_a_factory_is_known_at_run_time(tmp_path: Path) -> None:
    assert static_digest(DataSource(factory="absent.py:data"), None, tmp_path) is None
    data = DataSettings(calibration=DataSource(factory="absent.py:data"))
    assert split_digest(ImageClassificationSettings(), data, "calibration", tmp_path) is None


def test_each_share_of_a_source_has_its_own_digest(folder: Path) -> None:
    settings, data = ImageClassificationSettings(), DataSettings(training=DataSource(arrays="data.npz"))
    whole = split_digest(settings, DataSettings(validation=data.training), "validation", folder)
    shares = [split_digest(settings, data, split, folder, seed=seed) for split in ("training", "selection") for seed in (0, 1)]
    assert len({whole, *shares}) == 5
    with pytest.raises(UsageError, match=r"data\.validation: the recipe declares none"):
        split_digest(settings, data, "validation", folder)


def test_classes_count_where_they_decide_labels(folder: Path) -> None:
    source = DataSource(folder="images")
    assert static_digest(source, None, folder, classes=["b", "a"]) != static_digest(source, None, folder, classes=["a", "b"])
    assert static_digest(source, None, folder, classes=["a", "b"]) == static_digest(source, None, folder)
    arrays = DataSource(arrays="data.npz")
    assert static_digest(arrays, None, folder, classes=["a"]) == static_digest(arrays, None, folder)


@pytest.mark.parametrize("kind", SOURCES)
def test_missing_data_is_a_sentence(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataFault, match=r"No such file|no such folder"):
        static_digest(DataSource(**SOURCES[kind]), None, tmp_path)


def test_needs_neither_numpy_nor_anything_heavy() -> None:
    code = "import sys, accel.tasks.digests, accel.tasks.image_classification as m; print([n for n in %r if n in sys.modules])"
    heavy = ["numpy", "PIL", "torch", "torchvision", "onnx"]
    found = subprocess.run([sys.executable, "-c", code % heavy], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("kind", "library", "counts"),
    [
        *((kind, library, True) for kind in SOURCES for library in ("pillow", "numpy")),
        *((kind, "torchvision", kind == "torchvision") for kind in SOURCES),
    ],
)
def test_another_version_of_what_decodes_is_other_data(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str, library: str, counts: bool
) -> None:
    """Fault 54."""
    source = DataSource(**SOURCES[kind])
    before = static_digest(source, None, folder), combined(source, None, "as read")
    monkeypatch.setattr(digests, "version", lambda name: "0.0.1" if name == library else version(name))
    after = static_digest(source, None, folder), combined(source, None, "as read")
    assert [old != new for old, new in zip(before, after, strict=True)] == [counts, counts]


def test_data_has_a_digest_without_what_decodes_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    before = static_digest(DataSource(folder="images"), None, folder)
    monkeypatch.setattr(digests, "version", absent)
    assert static_digest(DataSource(folder="images"), None, folder) not in (None, before)


def test_no_digest_reads_a_csv_that_is_not_the_tars(folder: Path) -> None:
    with pytest.raises(SafetyRefusal, match=r"goes up with"):
        static_digest(DataSource(tar=Tar(path="data.tar", csv="../labels.csv")), None, folder)
