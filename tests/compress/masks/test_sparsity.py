from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from torch import nn

from accel.compress.edits import add_edit_
from accel.compress.masks.sparsity import Layer, is_n_m, layers_of, masks
from accel.compress.masks.sparsity_plan import plan
from accel.errors import PassFault
from accel.model import QuantizeAware


class Net(nn.Module):
    """One of each kind of layer that masks treat in their own way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.conv = nn.Conv2d(16, 32, 3)
        self.grouped = nn.Conv1d(32, 32, 3, groups=4)
        self.up = nn.ConvTranspose2d(32, 16, 2)
        self.attention = nn.MultiheadAttention(16, 2)
        self.norm = nn.LayerNorm(16)
        self.recurrent = nn.LSTM(16, 16)
        self.head = nn.Sequential(nn.Linear(18, 16), nn.ReLU(), nn.Linear(16, 10))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def names(layers: Iterable[Layer]) -> list[str]:
    return [layer.name.removesuffix(".weight") for layer in layers]


def reason(notes: list[str], name: str) -> str:
    (found,) = [note for note in notes if name in note.partition(": ")[2] or f", {name}" in note]
    return found


def test_every_matrix_is_masked_or_named_with_the_reason(net: Net) -> None:
    found, notes = layers_of(net, plan())
    assert names(found) == ["conv", "grouped", "up", "attention.in_proj_weight", "attention.out_proj", "head.0", "head.2"]
    assert "first convolution" in reason(notes, "stem")
    assert "depthwise (" in next(note for note in notes if note.endswith(": depthwise"))
    assert "not the weight of a convolution" in reason(notes, "recurrent.weight_ih_l0")
    assert "norm" not in " ".join(notes).replace("unstructured", "")


def test_n_m_also_leaves_what_it_does_not_divide(net: Net) -> None:
    found, notes = layers_of(net, plan(pattern="2:4"))
    assert names(found) == ["conv", "grouped", "attention.in_proj_weight", "attention.out_proj", "head.2"]
    assert "not a multiple of 4" in reason(notes, "head.0")
    assert "transposed" in reason(notes, "up")


def test_sparsify_all_takes_the_sensitive_ones_too(net: Net) -> None:
    found, _ = layers_of(net, plan(), sparsify_all=True)
    assert names(found)[:2] == ["stem", "depthwise"]


def test_a_linear_layer_that_comes_first_is_not_special() -> None:
    found, notes = layers_of(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)), plan())
    assert names(found) == ["0", "1"] and not notes


@pytest.mark.parametrize(
    ("wanted", "gone"),
    [
        (["conv"], {"conv"}),
        (["head"], {"head.0", "head.2"}),
        ([r"head\.\d"], {"head.0", "head.2"}),
        (["conv", "up"], {"conv", "up"}),
    ],
)
def test_ignored_layers_are_paths_or_whole_matches_and_cover_what_is_below(net: Net, wanted: list[str], gone: set[str]) -> None:
    every, _ = layers_of(net, plan())
    found, notes = layers_of(net, plan(), wanted)
    assert set(names(every)) - set(names(found)) == gone
    assert all("ignored_layers" in reason(notes, name) for name in gone)


@pytest.mark.parametrize("wrong", ["con", "no.such.layer", "head["])
def test_an_ignored_layer_that_is_not_there_is_an_error(net: Net, wrong: str) -> None:
    with pytest.raises(PassFault, match=r"ignored_layers: "):
        layers_of(net, plan(), [wrong])


def test_nothing_to_mask_is_an_error_that_says_why() -> None:
    with pytest.raises(PassFault, match="no convolution or linear"):
        layers_of(nn.Sequential(nn.ReLU()), plan())
    with pytest.raises(PassFault, match="not a multiple of 4"):
        layers_of(nn.Sequential(nn.Linear(6, 2)), plan(pattern="2:4"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(net: Net, value: float) -> None:
    with torch.no_grad():
        net.conv.weight[0, 0, 0, 0] = value
    with pytest.raises(PassFault, match=r"conv\.weight holds NaN or Inf"):
        layers_of(net, plan())


def test_a_layer_of_zeros_and_a_computed_weight_are_left_with_a_note(net: Net) -> None:
    nn.init.zeros_(net.conv.weight)
    nn.utils.parametrizations.weight_norm(net.head[0])
    found, notes = layers_of(net, plan())
    assert not {"conv", "head.0"} & set(names(found))
    assert "zero already" in reason(notes, "conv")
    assert "parametrization" in reason(notes, "head.0")
    assert not any("original0" in note for note in notes)


def test_a_weight_without_a_shape_and_a_quantization_aware_model_are_refused(net: Net) -> None:
    with pytest.raises(PassFault, match="one batch first"):
        layers_of(nn.Sequential(nn.LazyLinear(4)), plan())
    add_edit_(net, QuantizeAware({}, "2", "0"))
    with pytest.raises(PassFault, match="before quantize"):
        layers_of(net, plan())


def test_tied_weights_are_one_layer() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    assert names(layers_of(nn.Sequential(first, second), plan())[0]) == ["0"]


def test_each_layer_loses_exactly_its_smallest(net: Net) -> None:
    found, _ = layers_of(net, plan())
    drawn = masks(found, 0.7, plan(sparsity=0.7))
    for layer in found:
        mask = drawn[layer.name]
        assert int((~mask).sum()) == round(0.7 * mask.numel())
        assert layer.weight[mask].abs().min() >= layer.weight[~mask].abs().max()


def test_global_pruning_ranks_all_layers_together(net: Net) -> None:
    settings = plan(sparsity=0.6, global_pruning=True)
    found, _ = layers_of(net, settings)
    with torch.no_grad():
        net.conv.weight.mul_(0.6)
    drawn = masks(found, 0.6, settings)
    kept = torch.cat([layer.weight[drawn[layer.name]].abs() for layer in found])
    gone = torch.cat([layer.weight[~drawn[layer.name]].abs() for layer in found])
    assert gone.numel() == round(0.6 * (kept.numel() + gone.numel()))
    assert kept.min() >= gone.max()
    assert drawn["conv.weight"].float().mean() < drawn["head.2.weight"].float().mean()


def test_a_layer_that_global_pruning_would_empty_is_refused_by_name(net: Net) -> None:
    settings = plan(sparsity=0.6, global_pruning=True)
    with torch.no_grad():
        net.get_parameter("head.0.weight").mul_(1e-6)
    with pytest.raises(PassFault, match=r"every weight of head\.0\.weight"):
        masks(layers_of(net, settings)[0], 0.6, settings)


def test_one_weight_always_stays() -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    drawn = masks(layers_of(net, plan())[0], 0.99, plan(sparsity=0.99))
    assert int(drawn["0.weight"].sum()) == 1


def test_equal_magnitudes_go_by_position() -> None:
    net = nn.Sequential(nn.Linear(4, 2))
    nn.init.constant_(net.get_parameter("0.weight"), -0.5)
    found, _ = layers_of(net, plan())
    assert masks(found, 0.5, plan())["0.weight"].flatten().tolist() == [False] * 4 + [True] * 4
    assert masks(found, 0.5, plan(pattern="2:4"))["0.weight"].tolist() == [[True, True, False, False]] * 2


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (3, 8), (1, 2)])
def test_an_n_m_mask_keeps_the_largest_of_each_group_of_input_channels(net: Net, n: int, m: int) -> None:
    settings = plan(pattern=f"{n}:{m}")
    found, _ = layers_of(net, settings)
    drawn = masks(found, settings.sparsity, settings)
    assert "conv.weight" in drawn
    for layer in found:
        weight, mask = layer.weight.detach(), drawn[layer.name]
        assert is_n_m(weight * mask, n, m) and not is_n_m(weight, n, m)
        channels = weight.shape[1]
        lines, kept = (tensor.movedim(1, -1).reshape(-1, channels).tolist() for tensor in (weight.abs(), mask))
        for number in (0, 1, len(lines) // 2, len(lines) - 1):  # by hand, group by group
            for start in range(0, channels, m):
                group = range(start, start + m)
                largest = sorted(group, key=lambda channel: -lines[number][channel])[:n]
                assert [channel for channel in group if kept[number][channel]] == sorted(largest)


def test_part_of_an_n_m_pattern_takes_only_what_the_whole_takes(net: Net) -> None:
    settings = plan(pattern="2:4")
    found, _ = layers_of(net, settings)
    part, whole = masks(found, 0.2, settings), masks(found, 0.5, settings)
    for name, mask in part.items():
        assert int((~mask).sum()) == round(0.2 * mask.numel())
        assert not (~mask & whole[name]).any()


def test_is_n_m_looks_along_input_channels() -> None:
    weight = torch.ones(4, 8, 3, 3)
    assert not is_n_m(weight, 2, 4)
    weight[:, ::2] = 0
    assert is_n_m(weight, 2, 4) and not is_n_m(weight, 1, 4)
    weight[1, 2, 0, 0] = 1  # three in one group of four
    assert not is_n_m(weight, 2, 4)
    assert not is_n_m(torch.zeros(4, 6), 2, 4)
    assert not is_n_m(torch.zeros(4), 2, 4)


def test_masks_do_not_depend_on_the_memory_layout(net: Net) -> None:
    for settings in (plan(sparsity=0.7), plan(pattern="2:4")):
        found, _ = layers_of(net, settings)
        before = masks(found, settings.sparsity, settings)["conv.weight"]
        net.conv.weight.data = net.conv.weight.data.contiguous(memory_format=torch.channels_last)
        after = masks(found, settings.sparsity, settings)["conv.weight"]
        net.conv.weight.data = net.conv.weight.data.contiguous()
        assert torch.equal(before, after)
