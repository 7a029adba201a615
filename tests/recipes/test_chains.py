"""The recipes of the chains on shared data: what they say, and what the structures that they ask for come to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from accel.compress.prune import Prune, prune_channels
from accel.imports import check
from compression_curve import SETTINGS

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

    from accel.recipe.settings import Recipe

FOLDER = Path(__file__).resolve().parents[2] / "recipes"
CHAIN = ["prune", "distill", "quantize", "export_onnx", "simplify"]
PASSES = {
    "cifar10_resnet20_chain.yaml": CHAIN,
    "cifar10_resnet20_longer.yaml": ["finetune", "export_onnx", "simplify"],
    "cifar10_resnet56_chain.yaml": ["prune", *CHAIN],
    "fashion_chain.yaml": CHAIN,
}
SPLITS = ("training", "calibration", "selection", "validation")


def _overrides(name: str, there: Path) -> list[str]:
    """Any file that exists, for those that are not part of the project."""
    splits = [split for split in SPLITS if f"\n  {split}:" in (FOLDER / name).read_text(encoding="utf-8")]
    return [f"model.weights={there}", *(f"data.{split}.arrays.path={there}" for split in splits)]


@pytest.fixture
def there(tmp_path: Path) -> Path:
    file = tmp_path / "there"
    file.touch()
    return file


def _passes(recipe: Recipe) -> list[Any]:
    return [made for _, made in recipe.passes_for(recipe.targets_resolved()[0])]


def _narrowed(module: nn.Module, prune: Prune, shape: tuple[int, ...]) -> nn.Module:
    return prune_channels(
        module,
        example=torch.randn(2, *shape),
        pruning_ratio=prune.pruning_ratio,
        pruning_ratio_dict=prune.pruning_ratio_dict,
        round_to=prune.round_to,
        importance=prune.importance,
    )


@pytest.mark.parametrize("name", PASSES)
def test_a_chain_is_valid_and_made_for_both_runtimes(name: str, shipped: Shipped, there: Path) -> None:
    recipe = shipped.recipe(name, *_overrides(name, there))
    assert recipe.name == name.removesuffix(".yaml")
    assert [entry.type for entry in recipe.passes] == PASSES[name]
    assert [target.backend for target in recipe.targets_resolved()] == ["onnxruntime", "openvino"]
    assert recipe.model.factory is not None
    check(recipe.model.factory, shipped.policy)


@pytest.mark.parametrize("name", PASSES)
def test_the_header_says_when_to_use_it_and_names_what_has_to_be_given(name: str, there: Path) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    header = text.split("\nversion:", maxsplit=1)[0]
    assert text.startswith("# yaml-language-server: $schema=accel.schema.json\n")
    assert "# When to use it:" in header
    assert f"accel optimize recipes/{name}" in header
    words = [word.split("=")[0] for word in header.split() if "=../shared/" in word]
    wanted = [override.split("=")[0] for override in _overrides(name, there)]
    assert words == [key for key in wanted if name != "cifar10_resnet56_chain.yaml" or key != "model.weights"]


@pytest.mark.parametrize("name", PASSES)
def test_what_trains_is_never_what_is_judged_on(name: str, shipped: Shipped, there: Path) -> None:
    data = shipped.recipe(name, *_overrides(name, there)).data
    assert data.training is not None
    assert data.validation is not None
    assert str(getattr(data.training.arrays, "inputs", "")).startswith("train_")
    assert str(getattr(data.validation.arrays, "inputs", "")).startswith("test_")
    assert data.validation.num_samples is None
    if data.selection is not None:
        assert data.selection.num_samples is not None
        assert (data.selection.shuffle, data.training.shuffle) == (0, 0)
        assert data.selection.skip + data.selection.num_samples <= data.training.skip


@pytest.mark.parametrize(
    ("setting", "parameters", "multiply_adds"),
    [("larger", 117_322, 25.7e6), ("", 96_538, 22.5e6), ("smaller", 72_250, 14.0e6)],
)
def test_the_settings_of_resnet20_are_the_sizes_they_say(
    setting: str, parameters: int, multiply_adds: float, shipped: Shipped, there: Path
) -> None:
    """The deployed file holds about a byte for each parameter and 12 kB besides; 108,155 bytes is a tenth of the FP32 file."""
    name = "cifar10_resnet20_chain.yaml"
    ratios = SETTINGS[setting]
    words = [*_overrides(name, there), *([f"passes.0.pruning_ratio_dict={ratios}"] if ratios else [])]
    small = _narrowed(shipped.module("cifar10_resnet.py:resnet20"), _passes(shipped.recipe(name, *words))[0], (3, 32, 32))
    assert shipped.parameters(small) == parameters
    assert shipped.multiply_adds(small, 1, 3, 32, 32) == pytest.approx(multiply_adds, rel=0.01)


def test_the_settings_in_the_header_are_those_that_the_script_runs() -> None:
    header = (FOLDER / "cifar10_resnet20_chain.yaml").read_text(encoding="utf-8").split("\nversion:", maxsplit=1)[0]
    for setting, ratios in SETTINGS.items():
        if ratios:
            assert f"name=cifar10_resnet20_chain_{setting}" in header
            assert f"'passes.0.pruning_ratio_dict={ratios}'" in header


def test_the_longer_training_is_as_long_and_on_the_same_images(shipped: Shipped, there: Path) -> None:
    names = ("cifar10_resnet20_chain.yaml", "cifar10_resnet20_longer.yaml")
    chain, longer = (shipped.recipe(name, *_overrides(name, there)) for name in names)
    trained = [[made.train for made in _passes(recipe) if hasattr(made, "train")] for recipe in (chain, longer)]
    assert sum(train.epochs for train in trained[0]) == sum(train.epochs for train in trained[1])
    assert trained[0][0].augmentation == trained[1][0].augmentation
    assert trained[0][0].lr == trained[1][0].lr
    assert chain.data.training == longer.data.training


def test_resnet56_starts_from_what_the_tuning_makes(shipped: Shipped, there: Path) -> None:
    names = ("cifar10_resnet56_tuned.yaml", "cifar10_resnet56_chain.yaml")
    tuned, chain = (shipped.recipe(name, *_overrides(name, there)) for name in names)
    assert (FOLDER / "cifar10_resnet56_chain.yaml").read_text(encoding="utf-8").count(
        f"weights: {tuned.output_dir}/{tuned.name}/targets/{tuned.targets_resolved()[0].name}/model.safetensors"
    ) == 1
    assert tuned.model.factory == chain.model.factory
    assert [made.method for made in _passes(chain)[:2]] == ["depth", "depth"]


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"), [("fashion_cnn", 70_330, 5.53e6), ("fashion_separable", 136_202, 12.2e6)]
)
def test_the_fashion_networks(name: str, parameters: int, multiply_adds: float, shipped: Shipped) -> None:
    module = shipped.module(f"fashion_cnn.py:{name}")
    assert shipped.parameters(module) == parameters
    assert shipped.multiply_adds(module, 1, 1, 28, 28) == pytest.approx(multiply_adds, rel=0.01)
    with torch.inference_mode():
        assert module(torch.rand(3, 1, 28, 28)).shape == (3, 10)


def test_a_network_without_weights_of_its_own_is_the_same_each_time(shipped: Shipped) -> None:
    first, second = (shipped.module("fashion_cnn.py:fashion_separable").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.shared_data
def test_the_fashion_weights_name_what_they_are_said_to(shipped: Shipped, shared: Path) -> None:
    module = shipped.module("fashion_cnn.py:fashion_cnn", shared / "models" / "fashion_cnn.safetensors")
    with np.load(shared / "data" / "fashion_mnist.npz") as data:
        images = torch.from_numpy(data["test_images"]).float().unsqueeze(1) / 255
        labels = torch.from_numpy(data["test_labels"].astype(np.int64))
    with torch.inference_mode():
        answers = torch.cat([module(batch).argmax(1) for batch in torch.split(images, 500)])
    assert float((answers == labels).double().mean()) == pytest.approx(0.9050, abs=2e-4)


@pytest.mark.shared_data
def test_the_fashion_recipe_reads_its_data_as_the_weights_want_it(shipped: Shipped, shared: Path) -> None:
    name = "fashion_chain.yaml"
    words = [override.split("=")[0] for override in _overrides(name, shared)]
    file = shared / "data" / "fashion_mnist.npz"
    overrides = [f"model.weights={shared / 'models' / 'fashion_cnn.safetensors'}", *(f"{key}={file}" for key in words[1:])]
    top1, count = shipped.top1(shipped.recipe(name, *overrides, "data.validation.num_samples=500"))
    assert count == 500
    assert 0.87 <= top1 <= 0.94  # 90.5 % of all 5,000; sampling error 1.3 points
