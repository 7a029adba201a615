from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from accel.tasks.settings import ImageClassificationSettings

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

BESIDE = ("train_digits", "digits_network", "mnist_digits")


@pytest.fixture
def training(shipped: Shipped, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script as a module, on 192 digits instead of 3,078."""
    threads = torch.get_num_threads()
    monkeypatch.syspath_prepend(shipped.folder)
    for name in BESIDE:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("train_digits")
    complete = module.split
    monkeypatch.setattr(module, "split", lambda name: tuple(tensor[:192] for tensor in complete(name)))
    yield module
    torch.set_num_threads(threads)
    for name in BESIDE:
        sys.modules.pop(name, None)


def test_a_short_training_writes_weights_that_load(
    training: Any, shipped: Shipped, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    training.main(["--epochs", "1", "--output", str(first)])
    training.main(["--epochs", "1", "--output", str(second)])
    assert "top-1 on the validation split; wrote" in capsys.readouterr().out
    module = shipped.module("digits_network.py:digits_network", first)
    assert not torch.equal(module.state_dict()["bn1.running_mean"], torch.zeros(48))  # it did learn something
    # Not the bytes: safetensors writes its metadata in an order that changes from process to process.
    again = shipped.module("digits_network.py:digits_network", second).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in module.state_dict().items())
    assert shipped.metadata(first) == shipped.metadata(second)
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_the_shipped_weights_carry_the_command_that_made_them(training: Any, shipped: Shipped) -> None:
    metadata = shipped.metadata(shipped.folder / "digits_network.safetensors")
    program, script, *options = shlex.split(metadata["command"])
    assert (program, script) == ("python", "recipes/train_digits.py")
    defaults = {"--epochs=60", "--batch-size=64", "--learning-rate=0.1", "--seed=0", "--threads=1"}
    assert set(options) == defaults
    assert float(metadata["validation_top1"]) >= 0.98


def test_training_and_recipe_normalise_alike(training: Any, shipped: Shipped) -> None:
    task = shipped.recipe("quickstart.yaml").task
    assert isinstance(task, ImageClassificationSettings)
    assert task.preprocess is not None
    assert (task.preprocess.scale, task.preprocess.mean, task.preprocess.std) == (255, (training.MEAN,), (training.STD,))


def test_distortion_moves_the_ink_and_keeps_the_background(training: Any) -> None:
    images, _ = training.split("training")
    bent = training.distorted(images, torch.Generator().manual_seed(1))
    assert bent.shape == images.shape
    assert float(bent.min()) == pytest.approx(float(images.min()))
    assert float(bent.max()) <= float(images.max()) + 1e-5
    assert float((bent - images).abs().mean()) > 0.1
    ink = [float((batch - batch.min()).sum()) for batch in (images, bent)]
    assert ink[1] == pytest.approx(ink[0], rel=0.15)
    again = training.distorted(images, torch.Generator().manual_seed(1))
    assert torch.equal(bent, again)
