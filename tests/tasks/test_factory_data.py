from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.errors import DataFault, SafetyRefusal, UsageError
from accel.imports import ImportPolicy
from accel.tasks import factory_data
from accel.tasks.factory_data import PairReader, SequenceReader, StreamReader, as_label, open_factory
from accel.tasks.reader import Reader
from accel.tasks.settings import Factory

HEAD = "import numpy as np\nimport itertools\nIMAGES = np.arange(6 * 4 * 5).reshape(6, 4, 5).astype(np.uint8)\n"


def opened(folder: Path, body: str, limit: int | None = None, **kwargs: Any) -> Reader:
    (folder / "data.py").write_text(HEAD + body)
    return open_factory(Factory(reference="data.py:data", kwargs=kwargs), ImportPolicy(folder), limit)


SIX = range(6)
SOURCES = {
    "pair": (PairReader, "def data():\n    return IMAGES, np.arange(6) % 3\n"),
    "pair-list": (PairReader, "def data():\n    return IMAGES, [0, 1, 2, 0, 1, 2]\n"),
    "list": (SequenceReader, "def data():\n    return [(IMAGES[i], i % 3) for i in range(6)]\n"),
    "generator": (StreamReader, "def data():\n    for i in range(6):\n        yield IMAGES[i], i % 3\n"),
    "iterable": (
        StreamReader,
        (
            "class Again:\n    def __iter__(self):\n        return ((IMAGES[i], np.int64(i % 3)) for i in range(6))\n"
            "def data():\n    return Again()\n"
        ),
    ),
    "old-sequence": (
        StreamReader,
        "class Old:\n    def __getitem__(self, i):\n        return IMAGES[i], int(i % 3)\ndef data():\n    return Old()\n",
    ),
}


@pytest.mark.parametrize("form", SOURCES)
def test_each_form_of_data_reads_the_same(tmp_path: Path, form: str) -> None:
    kind, body = SOURCES[form]
    found = opened(tmp_path, body)
    assert type(found) is kind and len(found) == 6
    images = np.arange(6 * 4 * 5).reshape(6, 4, 5).astype(np.uint8)
    for index in (0, 1, 3, 5, 2, 2):  # forwards, over a gap, and back
        pixels, label = found.sample(index)
        assert (pixels == images[index]).all() and label == index % 3
    assert found.place(2) == "sample 2 (data.py:data)"


def test_kwargs_reach_the_factory(tmp_path: Path) -> None:
    assert len(opened(tmp_path, "def data(count):\n    return IMAGES[:count], None\n", count=2)) == 2
    with pytest.raises(DataFault, match=r"data.py:data: raised TypeError"):
        opened(tmp_path, "def data(count):\n    return IMAGES[:count], None\n", number=2)


def test_unlabelled_data_has_none_for_a_label(tmp_path: Path) -> None:
    assert opened(tmp_path, "def data():\n    return IMAGES, None\n").sample(0)[1] is None
    assert opened(tmp_path, "def data():\n    return [(IMAGES[0], None)]\n").sample(0)[1] is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def data():\n    return 5\n", "returned a int; return"),
        ("def data():\n    return IMAGES\n", "returned a ndarray; return"),
        ("def data():\n    return {'a': 1}\n", "returned a dict; return"),
        ("def data():\n    return IMAGES, np.arange(5)\n", "5 labels for 6 samples"),
        ("def data():\n    return IMAGES.astype(str), None\n", "dtype is <U"),
        ("def data():\n    return IMAGES.astype(object), None\n", "dtype is object"),
        ("def data():\n    raise KeyError('x')\n", "raised KeyError"),
        ("def data():\n    raise SystemExit(3)\n", r"called sys.exit\(3\)"),
        ("def data():\n    yield IMAGES[0]\n", r"sample 0 \(data.py:data\): is a ndarray; give \(sample, label\)"),
        ("def data():\n    yield IMAGES[0], 0\n    yield IMAGES[1], 1, 2\n", r"sample 1 .*is a tuple of 3"),
        ("def data():\n    yield IMAGES, np.arange(6)\n", "labels of shape"),
        ("def data():\n    yield IMAGES[0], 'cat'\n", "label is a str; give a class index"),
        ("def data():\n    yield 'a.png', 1\n", "is a str; give an array"),
    ],
)
def test_what_is_no_data_is_refused_with_its_place(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(DataFault, match=message):
        opened(tmp_path, body)


def test_a_generator_that_raises_names_the_item(tmp_path: Path) -> None:
    """Fault 38."""
    body = "def data():\n    for i in range(3):\n        yield IMAGES[i], 0\n    raise ValueError('disk gone')\n"
    with pytest.raises(DataFault, match=r"sample 3 \(data.py:data\): raised ValueError(.|\n)*disk gone"):
        opened(tmp_path, body)
    assert len(opened(tmp_path, body, limit=3)) == 3


def test_a_sequence_that_raises_names_the_item(tmp_path: Path) -> None:
    body = (
        "class Bad(list):\n    def __getitem__(self, i):\n        raise OSError('gone')\ndef data():\n    return Bad([1, 2])\n"
    )
    with pytest.raises(DataFault, match=r"sample 1 \(data.py:data\): raised OSError"):
        opened(tmp_path, body).sample(1)


def test_an_infinite_generator_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fault 38."""
    monkeypatch.setattr(factory_data, "LIMIT", 50)
    body = "def data():\n    for i in itertools.count():\n        yield IMAGES[i % 6], 0\n"
    with pytest.raises(DataFault, match="gave more than 50 samples, perhaps without end; set num_samples"):
        opened(tmp_path, body)
    assert len(opened(tmp_path, body, limit=80)) == 80


def test_exactly_as_many_as_the_bound_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory_data, "LIMIT", 6)
    assert len(opened(tmp_path, SOURCES["generator"][1])) == 6


@pytest.mark.parametrize("form", ["generator", "list"])
def test_data_that_differs_at_the_next_reading_is_refused(tmp_path: Path, form: str) -> None:
    item = "IMAGES[i] + np.uint8(next(COUNT)), 0"
    body = "COUNT = itertools.count()\n"
    if form == "generator":
        body += f"def data():\n    for i in range(6):\n        yield {item}\n"
    else:
        body += f"class Random(list):\n    def __getitem__(self, i):\n        return {item}\n"
        body += "def data():\n    return Random([1, 2])\n"
    found = opened(tmp_path, body)
    with pytest.raises(DataFault, match=r"sample 1 .*differs from the first time it was read; seed"):
        for _ in range(2):
            found.sample(1)


def test_data_that_shrinks_is_refused(tmp_path: Path) -> None:
    body = "LEFT = [6, 2]\ndef data():\n    for i in range(LEFT.pop(0)):\n        yield IMAGES[i], 0\n"
    found = opened(tmp_path, body)
    with pytest.raises(DataFault, match="gave 6 samples at first and fewer later"):
        found.sample(4)


def test_what_comes_one_by_one_is_not_shuffled(tmp_path: Path) -> None:
    (tmp_path / "data.py").write_text(HEAD + SOURCES["generator"][1])
    with pytest.raises(DataFault, match="cannot be shuffled here"):
        open_factory(Factory(reference="data.py:data"), ImportPolicy(tmp_path), None, shuffled=True)


def test_only_allowed_code_is_called(tmp_path: Path) -> None:
    with pytest.raises(SafetyRefusal):
        open_factory(Factory(reference="os:listdir"), ImportPolicy(tmp_path), None)
    with pytest.raises(UsageError):
        open_factory(Factory(reference="absent.py:data"), ImportPolicy(tmp_path), None)


@pytest.mark.parametrize(
    ("value", "label"), [(3, 3), (np.int32(3), 3), (np.array(3), 3), (np.array([3]), 3), (None, None), (True, 1)]
)
def test_labels_are_integers_of_any_kind(value: object, label: int | None) -> None:
    assert as_label(value, "x") == label


@pytest.mark.parametrize("value", ["3", 3.0, np.float32(3), np.eye(3)[0], [1, 2], {}])
def test_other_labels_are_refused(value: object) -> None:
    with pytest.raises(DataFault, match="x: "):
        as_label(value, "x")
