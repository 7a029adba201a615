"""The samples that rows are shown on, with pictures from a child that reads the data again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.model import Target
from accel.recipe.reader import read
from accel.report import Differing, Row
from accel.rows import Found, Subject
from accel.samples import collect
from accel.sessions import Sessions
from accel.timed_inputs import Sample

RECIPE = """\
version: 1
model: {factory: "network.py:net", inputs: [{name: x, shape: [batch, 1, 16, 16]}]}
task: {type: image_classification, preprocess: {color: gray}, classes: ["<b>", "::error::x"]}
data:
  validation: {arrays: images.npz, skip: 1}
passes: []
targets: [{backend: eager}]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = np.repeat(np.arange(6, dtype=np.uint8) * 10, 256).reshape(6, 16, 16)
    np.savez(tmp_path / "images.npz", inputs=images, labels=np.arange(6) % 2)
    (tmp_path / "network.py").write_text("raise RuntimeError('no model is needed for a picture')\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    np.save(tmp_path / "labels.npy", np.array([1, 0, 1, 0, 1]))
    return tmp_path


def sessions(folder: Path) -> Sessions:
    recipe = read(folder / "recipe.yaml")
    return Sessions(
        document=recipe.document(),
        path=recipe.path,
        allowed=(),
        folder=folder,
        sample=Sample(None, 1, 0),
        compile_timeout_s=60.0,
    )


def shown(*samples: int) -> Row:
    differing = [Differing(sample=sample, predicted=0, reference=1, distance=0.5) for sample in samples]
    return Row(name="int8", role="result", backend="eager", differing=differing)


def reference(folder: Path, labels: bool = True) -> Found:
    subject = Subject("eager fp32", "reference", None, Target("eager", "eager"), {"kind": "torch"}, None)
    return Found(subject, score={"labels": str(folder / "labels.npy") if labels else None})


def test_each_sample_once_with_label_and_picture(folder: Path) -> None:
    warnings: list[str] = []
    found = collect([shown(4, 1), shown(), shown(1, 0)], reference(folder), sessions(folder), warnings.append)
    assert [(sample.index, sample.label) for sample in found] == [(0, 1), (1, 0), (4, 1)]
    assert all(sample.thumbnail is not None and sample.thumbnail.startswith("data:image/png;base64,") for sample in found)
    assert len({sample.thumbnail for sample in found}) == 3
    assert warnings == []


def test_data_that_is_gone_costs_the_pictures_alone(folder: Path) -> None:
    made = sessions(folder)
    (folder / "images.npz").unlink()
    found = collect([shown(2)], reference(folder, labels=False), made, lambda text: None)
    assert [(sample.index, sample.label, sample.thumbnail) for sample in found] == [(2, None, None)]


def test_a_child_that_fails_is_told(folder: Path) -> None:
    made = sessions(folder)
    made._document = {"version": 1}  # no recipe: the child cannot read it
    warnings: list[str] = []
    found = collect([shown(2)], reference(folder), made, warnings.append)
    assert [(sample.label, sample.thumbnail) for sample in found] == [(1, None)]
    assert len(warnings) == 1
    assert warnings[0].startswith("the samples that differ most are shown without pictures: ")


def test_nothing_to_show_starts_no_child(folder: Path) -> None:
    assert collect([shown()], reference(folder), sessions(folder), lambda text: None) == []
    assert collect([shown(1)], None, sessions(folder), lambda text: None) == []
    assert not list(folder.glob("session-*"))
