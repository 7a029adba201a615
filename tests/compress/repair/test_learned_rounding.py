from __future__ import annotations

import pytest
import torch
from torch import Tensor

from accel.compress.repair.learned_rounding import Moments, learned, to_nearest


def data(groups: int, inputs: int, seed: int = 0) -> Tensor:
    """(groups, 2000, inputs) inputs that go together, as those of a layer do, around a mean that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(groups, inputs, inputs, generator=generator) * torch.linspace(0.1, 2, inputs)[:, None]
    return torch.randn(groups, 2000, inputs, generator=generator) @ mixed + 0.5


def moments(x: Tensor, y: Tensor, centred: bool = True) -> Moments:
    mean, other = (each.mean(1) if centred else torch.zeros_like(each[:, 0]) for each in (x, y))
    x, y = x - mean[:, None], y - other[:, None]
    return Moments(y.mT @ y / y.shape[1], x.mT @ y / y.shape[1], mean, other)


def weights(groups: int, outputs: int, inputs: int) -> Tensor:
    return torch.randn(groups, outputs, inputs, generator=torch.Generator().manual_seed(7))


def mean_square(wanted: Tensor, found: Tensor) -> float:
    return float(((wanted - found) ** 2).mean())


@pytest.mark.parametrize(("groups", "outputs", "inputs"), [(1, 8, 36), (6, 1, 9)], ids=["whole", "depthwise"])
@pytest.mark.parametrize("bits", [3, 4])
def test_outputs_differ_far_less_than_with_rounding_to_the_nearest(groups: int, outputs: int, inputs: int, bits: int) -> None:
    x, w = data(groups, inputs), weights(groups, outputs, inputs)
    found = learned(w, moments(x, x), bits, 100)
    plain, scales = to_nearest(w, bits)
    wanted = x @ w.mT
    errors = [
        mean_square(wanted, x @ (found.integers * found.scales).mT + found.shift[:, None]),
        mean_square(wanted, x @ (plain * scales).mT),
    ]
    assert errors[0] < 0.5 * errors[1]
    assert found.share < 0.7


def test_levels_and_scales_are_those_of_the_bits() -> None:
    found = learned(weights(1, 8, 36), moments(data(1, 36), data(1, 36)), 3, 20)
    assert found.integers.min() >= -4 and found.integers.max() <= 3
    assert torch.equal(found.integers, found.integers.round())
    assert bool((found.scales > 0).all())


def test_it_makes_up_for_what_the_layers_before_do() -> None:
    """x̂ is x mixed and shifted: the float weights on x̂ are far off, the rounded ones are near."""
    x, w = data(1, 24), weights(1, 8, 24)
    y = x @ (torch.eye(24) + 0.1 * torch.randn(24, 24, generator=torch.Generator().manual_seed(3))) + 0.3
    found = learned(w, moments(x, y), 6, 100)
    wanted, got = x @ w.mT, y @ (found.integers * found.scales).mT + found.shift[:, None]
    assert mean_square(wanted, got) < 0.1 * mean_square(wanted, y @ w.mT)


def test_the_mean_of_the_outputs_is_kept() -> None:
    x, w = data(1, 24), weights(1, 8, 24)
    y = x + 0.2
    found = learned(w, moments(x, y), 3, 0)
    assert torch.allclose(
        (y @ (found.integers * found.scales).mT + found.shift[:, None]).mean(1), (x @ w.mT).mean(1), atol=1e-3
    )


def test_without_a_bias_nothing_is_shifted() -> None:
    x = data(1, 24)
    assert not learned(weights(1, 8, 24), moments(x, x, centred=False), 4, 0).shift.any()


def test_learning_is_better_than_the_search_alone() -> None:
    x, w = data(1, 64), weights(1, 32, 64)
    assert learned(w, moments(x, x), 3, 300).share < learned(w, moments(x, x), 3, 0).share


def test_inputs_that_never_vary_do_no_harm() -> None:
    x = data(1, 12)
    x[..., 3:] = 0
    found = learned(weights(1, 4, 12), moments(x, x), 4, 30)
    assert bool(torch.isfinite(found.scales).all()) and bool(torch.isfinite(found.integers).all())
    nothing = torch.zeros(1, 2000, 12)
    found = learned(torch.zeros(1, 4, 12), moments(nothing, nothing), 4, 30)
    assert not found.integers.any() and bool((found.scales > 0).all())


def test_the_same_again() -> None:
    x, w = data(1, 24), weights(1, 8, 24)
    one, two = (learned(w, moments(x, x), 4, 50) for _ in range(2))
    assert torch.equal(one.integers, two.integers) and torch.equal(one.scales, two.scales)
