"""Importance of channels: against torch-pruning's own where that is defined, and by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from accel.compress.pruning.channel_groups import Group
from accel.compress.pruning.channels import find_groups
from accel.compress.pruning.importance import Importance, gradients_of, score_groups
from accel.compress.quiet_library import quiet
from accel.compress.training.task_loss import CrossEntropy
from accel.errors import DataFault, PassFault


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(6 * 4 * 4, 4)
    )
    nn.init.uniform_(module.get_parameter("1.weight"), 0.5, 1.5)
    return module.eval()


@pytest.fixture(scope="module")
def groups(net: nn.Sequential) -> tuple[Group, ...]:
    return find_groups(net, [torch.randn(2, 3, 8, 8)]).groups


@pytest.fixture(scope="module")
def data() -> list[tuple[list[Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [([torch.randn(4, 3, 8, 8, generator=generator)], torch.tensor([0, 1, 2, 3])) for _ in range(3)]


def theirs(net: nn.Module, layer: int, importance: Any) -> Tensor:
    import torch_pruning

    with quiet():
        graph = torch_pruning.DependencyGraph().build_dependency(net, torch.randn(2, 3, 8, 8))
        root = net.get_submodule(str(layer))
        assert isinstance(root, nn.Conv2d)
        full = list(range(root.out_channels))
        group = graph.get_pruning_group(root, torch_pruning.prune_conv_out_channels, full)
        scores: Tensor = importance(group)
    return scores.detach().double()


def test_magnitude_fpgm_lamp_and_bn_scale_are_those_of_torch_pruning(net: nn.Sequential, groups: tuple[Group, ...]) -> None:
    import torch_pruning

    library = torch_pruning.pruner.importance
    measures: list[tuple[Importance, float, Any]] = [
        ("magnitude", 2, library.GroupMagnitudeImportance(p=2)),
        ("magnitude", 1, library.GroupMagnitudeImportance(p=1)),
        ("bn_scale", 2, library.BNScaleImportance()),
    ]
    for name, p, same in measures:
        wanted = theirs(net, 0, same)
        ours = score_groups(net, groups, name, p=p)["0"]
        assert torch.allclose(ours, wanted, rtol=1e-5), name
    by_size = score_groups(net, groups, "magnitude")["3"]
    assert torch.equal(by_size.argsort(), theirs(net, 3, library.GroupMagnitudeImportance()).argsort())
    for layer in (0, 3):
        assert torch.allclose(score_groups(net, groups, "lamp")[str(layer)], theirs(net, layer, library.LAMPImportance()))


def test_magnitude_by_hand(net: nn.Sequential, groups: tuple[Group, ...]) -> None:
    out = net.get_parameter("3.weight").detach().double().square().sum((1, 2, 3))
    into = net.get_parameter("5.weight").detach().double().reshape(4, 6, 16).square().sum((0, 2))
    score = (out + into) / 2
    assert torch.allclose(score_groups(net, groups, "magnitude")["3"], score / score.mean())


def test_fpgm_finds_the_filter_in_the_middle() -> None:
    module = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        module.get_parameter("0.weight").copy_(torch.tensor([-5.0, 0.1, 5.0]).reshape(3, 1, 1, 1))
        module.get_parameter("2.weight").fill_(1.0)
    groups = find_groups(module.eval(), [torch.randn(2, 1, 1, 1)]).groups
    scores = score_groups(module, groups, "fpgm")["0"]
    assert int(scores.argmin()) == 1
    assert int(score_groups(module, groups, "magnitude")["0"].argmin()) == 1


def test_lamp_compares_with_all_that_outrank_it() -> None:
    module = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        module.get_parameter("0.weight").copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        module.get_parameter("1.weight").copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    groups = find_groups(module, [torch.randn(2, 1)]).groups
    scores = score_groups(module, groups, "lamp")["0"]
    assert torch.allclose(scores, torch.tensor([1 / 14, 4 / 13, 9 / 9], dtype=torch.float64))


def test_silenced_channels_change_nothing_for_those_that_are_left() -> None:
    def scores(importance: Importance, *rows: float) -> list[float]:
        module = nn.Sequential(nn.Linear(1, len(rows), bias=False), nn.Linear(len(rows), 1, bias=False)).eval()
        with torch.no_grad():
            module.get_parameter("0.weight").copy_(torch.tensor(rows)[:, None])
            module.get_parameter("1.weight").copy_(torch.tensor(rows)[None])
        groups = find_groups(module, [torch.randn(2, 1)]).groups
        found: list[float] = score_groups(module, groups, importance)["0"].tolist()
        return found

    for importance in ("magnitude", "fpgm", "lamp"):
        left = scores(importance, 1.0, 2.0, 4.0)
        assert scores(importance, 1.0, 0.0, 2.0, 0.0, 0.0, 4.0) == pytest.approx([left[0], 0.0, left[1], 0.0, 0.0, left[2]])


def test_groups_without_batch_norm_have_no_scale(net: nn.Sequential, groups: tuple[Group, ...]) -> None:
    assert set(score_groups(net, groups, "bn_scale")) == {"0"}


def test_random_follows_the_seed_and_differs_between_groups(net: nn.Sequential, groups: tuple[Group, ...]) -> None:
    first, again, other = (score_groups(net, groups, "random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first["0"], again["0"]) and not torch.equal(first["0"], other["0"])
    assert not torch.equal(first["0"][:6], first["3"])


def test_taylor_and_hessian_read_gradients_of_the_tasks_loss(
    net: nn.Sequential, groups: tuple[Group, ...], data: list[tuple[list[Tensor], Tensor]]
) -> None:
    mean = gradients_of(net, data, CrossEntropy(), num_samples=12, squared=False)
    images, labels = torch.cat([inputs[0] for inputs, _ in data]), torch.cat([labels for _, labels in data])
    functional.cross_entropy(net(images), labels).backward()  # type: ignore[no-untyped-call]
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(mean[name], parameter.grad, atol=1e-6), name
    taylor = score_groups(net, groups, "taylor", gradients=mean)["3"]
    conv, fc = net.get_parameter("3.weight"), net.get_parameter("5.weight")
    assert conv.grad is not None and fc.grad is not None
    out = (conv * conv.grad).abs().sum((1, 2, 3)).detach().double()
    into = (fc * fc.grad).abs().reshape(4, 6, 16).sum((0, 2)).detach().double()
    assert torch.allclose(taylor, (out + into) / (out + into).mean(), rtol=1e-4)
    net.zero_grad(set_to_none=True)

    squares = gradients_of(net, data, CrossEntropy(), num_samples=6, squared=True)
    total = torch.zeros_like(fc)
    for image, label in zip(images[:6], labels[:6], strict=True):
        loss = functional.cross_entropy(net(image[None]), label[None])
        total += torch.autograd.grad(loss, fc)[0].square()
    assert torch.allclose(squares["5.weight"], total / 6, atol=1e-8)
    hessian = score_groups(net, groups, "hessian", gradients=squares)["3"]
    assert hessian.shape == (6,) and bool((hessian >= 0).all()) and hessian.mean().item() == pytest.approx(1.0)


def test_gradients_leave_the_module_alone(net: nn.Sequential, data: list[tuple[list[Tensor], Tensor]]) -> None:
    frozen = net.get_parameter("0.weight")
    frozen.requires_grad_(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = gradients_of(net, data, CrossEntropy(), num_samples=4, squared=False)
    assert gradients["0.weight"].abs().sum() > 0  # a frozen layer has an importance all the same
    assert all(parameter.grad is None for parameter in net.parameters()) and not frozen.requires_grad
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    frozen.requires_grad_(True)


def test_a_loss_that_cannot_be_used_is_named(net: nn.Sequential, data: list[tuple[list[Tensor], Tensor]]) -> None:
    with pytest.raises(PassFault, match="there are none"):
        gradients_of(net, [], CrossEntropy(), num_samples=4, squared=False)
    with pytest.raises(DataFault, match="no labels"):
        gradients_of(net, [(inputs, None) for inputs, _ in data], CrossEntropy(), num_samples=4, squared=False)
    with pytest.raises(PassFault, match=r"the gradient of 0\.weight is NaN or Inf"):
        gradients_of(net, data, lambda inputs, outputs, labels: outputs.sum() * float("nan"), num_samples=4, squared=False)
    with pytest.raises(PassFault, match="could not be differentiated"):
        gradients_of(net, data, lambda inputs, outputs, labels: torch.tensor(1.0), num_samples=4, squared=False)


def test_data_driven_importance_without_gradients_is_refused(net: nn.Sequential, groups: tuple[Group, ...]) -> None:
    with pytest.raises(PassFault, match="needs gradients"):
        score_groups(net, groups, "taylor")
