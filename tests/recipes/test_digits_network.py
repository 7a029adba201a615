from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from tests.recipes.conftest import Shipped

FACTORY = "digits_network.py:digits_network"


def test_the_size_is_as_promised(shipped: Shipped) -> None:
    module = shipped.module(FACTORY)
    assert 30e6 <= shipped.multiply_adds(module, 1, 1, 28, 28) <= 100e6
    assert shipped.parameters(module) == 339_034
    assert (shipped.folder / "digits_network.safetensors").stat().st_size <= 3 << 20


def test_channels_between_layers_are_multiples_of_16(shipped: Shipped) -> None:
    convolutions = [layer for layer in shipped.module(FACTORY).modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 8
    assert all(layer.out_channels % 16 == 0 for layer in convolutions)
    assert all(layer.in_channels % 16 == 0 for layer in convolutions[1:])


def test_any_batch_size_gives_ten_logits_each(shipped: Shipped) -> None:
    module = shipped.module(FACTORY)
    with torch.inference_mode():
        assert module(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
        assert module(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


def test_the_shipped_weights_load_strictly_and_are_finite(shipped: Shipped) -> None:
    module = shipped.module(FACTORY, shipped.folder / "digits_network.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in module.state_dict().values())


def test_the_shipped_weights_name_98_percent_of_the_validation_digits(shipped: Shipped) -> None:
    top1, count = shipped.top1(shipped.recipe("quickstart.yaml"))
    assert count == 1405
    assert top1 >= 0.98
