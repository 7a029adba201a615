from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from accel.tasks.settings import Arrays, Csv, DataSource, Factory, Folder, Preprocess, Tar, TorchvisionData


@pytest.mark.parametrize("fields", [{}, {"folder": "a", "csv": "b"}, {"arrays": "a", "tar": "b", "factory": "c:d"}])
def test_a_source_names_exactly_one_reader(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="exactly one of arrays, folder, csv, tar, torchvision, factory"):
        DataSource(**fields)


def test_kwargs_belong_to_a_factory() -> None:
    with pytest.raises(ValidationError, match="kwargs belong to a factory"):
        DataSource(folder="a", kwargs={"x": 1})
    assert DataSource(factory="a.py:b", kwargs={"x": 1}).chosen() == Factory(reference="a.py:b", kwargs={"x": 1})


def test_a_bare_path_stands_for_a_reader_with_its_defaults() -> None:
    assert DataSource(arrays="a.npz").chosen() == Arrays(path="a.npz")
    assert DataSource(arrays=Arrays(path="a.npz", labels=None)).chosen() == Arrays(path="a.npz", labels=None)
    assert DataSource(folder="images").chosen() == Folder(path="images")
    assert DataSource(csv="a.csv").chosen() == Csv(path="a.csv")
    assert DataSource(csv=Csv(path="a.csv", root="b")).chosen() == Csv(path="a.csv", root="b")
    assert DataSource(tar="a.tar").chosen() == Tar(path="a.tar")
    data = TorchvisionData(name="MNIST", root="data")
    assert DataSource(torchvision=data).chosen() == data


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": (0.1, 0.2)}, "mean has 2 values; rgb takes 1 or 3"),
        ({"std": (1.0, 1.0, 1.0), "color": "gray"}, "std has 3 values; gray takes 1 or 1"),
        ({"center_crop": 1.5}, "fraction up to 1 or a whole number"),
        ({"std": (0.0,)}, "greater than 0"),
        ({"mean": (float("nan"),)}, "finite"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Preprocess(**fields)
