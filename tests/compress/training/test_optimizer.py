from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from accel.compress.train_settings import Train
from accel.compress.training.optimizer import make_optimizer, optimizer_state, restore_optimizer_, set_rate_


def net() -> nn.Module:
    torch.manual_seed(0)
    parts = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([6, 6]), nn.Flatten(), nn.Linear(144, 3)
    return nn.Sequential(*parts).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def named_of(module: nn.Module) -> dict[str, nn.Parameter]:
    return dict(module.named_parameters())


def step(module: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 2, 8, 8, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    module(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_biases_and_norms_do_not_decay(kind: Any) -> None:
    module = net()
    named = named_of(module)
    optimizer = make_optimizer(named, [module], Train(optimizer=kind, weight_decay=0.1))
    decayed = {id(value) for group in optimizer.param_groups if group["weight_decay"] == 0.1 for value in group["params"]}
    free = {id(value) for group in optimizer.param_groups if group["weight_decay"] == 0.0 for value in group["params"]}
    assert {name for name, value in named.items() if id(value) in decayed} == {"0.weight", "4.weight"}
    assert len(decayed) + len(free) == len(named)


def test_only_what_requires_a_gradient_is_in_it() -> None:
    module = net()
    module[0].requires_grad_(False)  # type: ignore[index]
    named = {name: value for name, value in named_of(module).items() if value.requires_grad}
    optimizer = make_optimizer(named, [module], Train())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named) == 6


@pytest.mark.parametrize("settings", [Train(), Train(momentum=0.0), Train(optimizer="adamw")], ids=["sgd", "plain", "adamw"])
def test_a_restored_optimizer_goes_on_bit_for_bit(settings: Train) -> None:
    whole = net()
    optimizer = make_optimizer(named_of(whole), [whole], settings)
    set_rate_(optimizer, 1e-3)
    step(whole, optimizer, 0)
    state = {name: value.clone().contiguous() for name, value in optimizer_state(optimizer, named_of(whole)).items()}
    half = net()
    half.load_state_dict(whole.state_dict())
    restored = make_optimizer(named_of(half), [half], settings)
    set_rate_(restored, 1e-3)
    restore_optimizer_(restored, named_of(half), state, settings.optimizer)
    for seed in (1, 2):
        step(whole, optimizer, seed)
        step(half, restored, seed)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, half.state_dict()[name])
    assert bool(state) == (settings.momentum > 0)


def test_momentum_that_starts_as_zeros_changes_nothing() -> None:
    ours, theirs = net(), net()
    first = make_optimizer(named_of(ours), [ours], Train(weight_decay=0.0))
    set_rate_(first, 1e-3)
    second = torch.optim.SGD(theirs.parameters(), lr=1e-3, momentum=0.9, nesterov=True)
    for seed in range(3):
        step(ours, first, seed)
        step(theirs, second, seed)
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], atol=1e-7)
