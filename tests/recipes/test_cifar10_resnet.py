from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped


@pytest.mark.parametrize(
    ("name", "parameters", "multiply_adds"), [("resnet20", 269_722, 40.6e6), ("resnet56", 853_018, 125.5e6)]
)
def test_the_size_is_the_papers(name: str, parameters: int, multiply_adds: float, shipped: Shipped) -> None:
    module = shipped.module(f"cifar10_resnet.py:{name}")
    assert shipped.parameters(module) == parameters
    assert shipped.multiply_adds(module, 1, 3, 32, 32) == pytest.approx(multiply_adds, rel=0.01)


def test_names_are_those_of_the_public_weights(shipped: Shipped) -> None:
    names = set(shipped.module("cifar10_resnet.py:resnet20").state_dict())
    assert len(names) == 116
    assert {"conv1.weight", "bn1.running_var", "layer2.0.conv2.weight", "layer3.2.bn2.bias", "linear.weight"} <= names


def test_shortcuts_have_no_parameters_and_pad_half_on_each_side(shipped: Shipped) -> None:
    block = shipped.module("cifar10_resnet.py:resnet20").get_submodule("layer2.0")
    x = torch.randn(2, 16, 8, 8)
    shortcut = getattr(block, "shortcut")  # noqa: B009 - a Module's attributes are tensors or modules to mypy
    short = shortcut(x)
    assert short.shape == (2, 32, 4, 4)
    assert torch.equal(short[:, 8:24], x[:, :, ::2, ::2])
    assert not short[:, :8].any()
    assert not short[:, 24:].any()


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "weights"),
    [("resnet20", "cifar10_resnet20_jpegft"), ("resnet20", "cifar10_resnet20"), ("resnet56", "cifar10_resnet56")],
)
def test_public_weights_load_strictly(name: str, weights: str, shipped: Shipped, shared: Path) -> None:
    module = shipped.module(f"cifar10_resnet.py:{name}", shared / "models" / f"{weights}.safetensors")
    with torch.inference_mode():
        assert bool(torch.isfinite(module(torch.randn(2, 3, 32, 32))).all())


@pytest.mark.shared_data
def test_200_test_images_are_named_as_well_as_all_of_them(shipped: Shipped, shared: Path) -> None:
    recipe = shipped.recipe(
        "cifar10_resnet.yaml",
        f"model.weights={shared / 'models' / 'cifar10_resnet20_jpegft.safetensors'}",
        f"data.calibration.arrays.path={shared / 'data' / 'cifar10_jpeg.npz'}",
        f"data.validation.arrays.path={shared / 'data' / 'cifar10_jpeg.npz'}",
        "data.validation.num_samples=200",
    )
    top1, count = shipped.top1(recipe)
    assert count == 200
    assert 0.82 <= top1 <= 0.94  # 87.8 % of all 5,000; sampling error 2.3 points
