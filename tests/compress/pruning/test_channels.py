"""Groups of channels and cuts: each network ties channels in its own way, and torch-pruning alone breaks many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from runpy import run_path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from accel.compress.edits import edits_of, from_json, keep_channels_, to_json
from accel.compress.pruning.channel_check import Silenced, leaves
from accel.compress.pruning.channel_costs import Costs, count_macs, count_params
from accel.compress.pruning.channel_groups import Group, best_positions, edit_for, edit_of
from accel.compress.pruning.channels import find_groups, narrow
from accel.compress.pruning.importance import score_groups
from accel.errors import ModelFault, PassFault
from accel.model import KeepChannels

NETWORKS = run_path(str(Path(__file__).parents[1] / "prunable_networks.py"))
CASES: Mapping[str, Any] = NETWORKS["CASES"]
network: Callable[[str], tuple[nn.Module, Tensor]] = NETWORKS["network"]
RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def halves(groups: tuple[Group, ...]) -> dict[str, int]:
    return {group.name: group.positions // 2 * group.divisor for group in groups}


def states(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def require_same_states(first: nn.Module, second: nn.Module) -> None:
    one, two = first.state_dict(), second.state_dict()
    assert list(one) == list(two)
    for name in one:
        assert one[name].shape == two[name].shape and one[name].dtype == two[name].dtype, name
        assert torch.equal(one[name], two[name]), name


@pytest.mark.parametrize("name", CASES)
def test_what_is_cut_and_what_stays_with_its_reason(name: str) -> None:
    module, example = network(name)
    found = find_groups(module, [example])
    assert tuple(group.name for group in found.groups) == CASES[name].cut
    told = dict(note.split(" left alone: ", 1) for note in found.notes)
    for layer, words in CASES[name].kept.items():
        reasons = [reason for layers, reason in told.items() if layer == layers or layer in layers.split(", ")]
        assert reasons and words in reasons[0], (layer, found.notes)
    assert len(told) == len(CASES[name].kept), found.notes


@pytest.mark.parametrize("name", CASES)
def test_the_cut_network_runs_has_smaller_shapes_and_is_what_its_edit_replays(name: str) -> None:
    module, example = network(name)
    found = find_groups(module, [example])
    scores = score_groups(module, found.groups, "magnitude")
    cut = narrow(module, [example], found.groups, halves(found.groups), scores)
    parts = dict(cut.module.named_modules())
    for group in found.groups:
        for layer in group.layers:
            part = parts[layer]
            width = getattr(part, "out_channels", getattr(part, "out_features", None))
            if layer == group.name:
                assert (
                    width == halves(found.groups)[group.name] == part.weight.shape[1 if getattr(part, "transposed", 0) else 0]
                )
    for batch in (1, 3):
        inputs = example[:1].expand(batch, *example.shape[1:])
        with torch.no_grad():
            pairs = zip(leaves(cut.module(inputs)), leaves(module(inputs)), strict=True)
        assert all(small.shape == whole.shape and bool(torch.isfinite(small).all()) for small, whole in pairs)
    assert edits_of(cut.module) == (cut.edit,) and edits_of(module) == ()
    again = deepcopy(module)
    (edit,) = from_json(to_json(edits_of(cut.module)))
    assert isinstance(edit, KeepChannels)
    keep_channels_(again, edit)
    require_same_states(again, cut.module)
    assert repr(again) == repr(cut.module)  # the attributes that repr shows: in_channels, num_features, normalized_shape, ...
    assert count_params(cut.module) < count_params(module)


@pytest.mark.parametrize("name", CASES)
def test_costs_are_predicted_as_they_are_counted(name: str) -> None:
    module, example = network(name)
    found = find_groups(module, [example])
    costs = Costs(module, [example], found.groups)
    assert costs.macs == count_macs(module, [example])
    scores = score_groups(module, found.groups, "random")
    widths = halves(found.groups)
    cut = narrow(module, [example], found.groups, widths, scores, check=False).module
    assert costs.params_at(widths) == count_params(cut)
    assert costs.macs_at(widths) == count_macs(cut, [example])


def test_multiply_adds_are_those_of_the_textbook() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 10))
    assert count_macs(net, [torch.zeros(5, 3, 4, 4)]) == 3 * 8 * 9 * 16 + 128 * 10
    depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    assert count_macs(depthwise, [torch.zeros(1, 8, 4, 4)]) == 8 * 9 * 16
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert count_macs(attention, [torch.zeros(2, 5, 8)]) == 5 * (4 * 8 * 8 + 2 * 8 * 16) + 2 * 5 * 5 * 8


@pytest.mark.parametrize("name", ["residual", "shared weights", "parametrization", "multi-head attention"])
def test_the_given_module_stays_as_it_was(name: str) -> None:
    module, example = network(name)
    module.train()
    next(module.children()).eval()
    first = next(module.parameters())
    first.requires_grad_(False)
    calls: list[int] = []
    handle = module.register_forward_hook(lambda *_: None)
    before, flags = states(module), [part.training for part in module.modules()]
    grads = [parameter.requires_grad for parameter in module.parameters()]
    ids = [id(parameter) for parameter in module.parameters()]
    random = torch.random.get_rng_state()
    found = find_groups(module, [example])
    cut = narrow(module, [example], found.groups, halves(found.groups), score_groups(module, found.groups, "magnitude"))
    assert [part.training for part in module.modules()] == flags
    assert [parameter.requires_grad for parameter in module.parameters()] == grads
    assert [id(parameter) for parameter in module.parameters()] == ids
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert handle.id in module._forward_hooks and len(module._forward_hooks) == 1 and not calls
    assert not any(part._forward_pre_hooks for part in module.modules())
    assert torch.equal(torch.random.get_rng_state(), random)
    assert [part.training for part in cut.module.modules()] == flags
    assert next(cut.module.parameters()).requires_grad is False


def test_a_cut_at_wrong_indices_that_runs_is_found_out() -> None:
    """What torch-pruning does to a zero-padded shortcut: every shape fits, and the network computes something else."""
    module, example = network("padded shortcut")
    few, many = (tuple(index for index in range(size) if index != 3) for size in (8, 16))
    wrong = KeepChannels(
        kept={
            "narrow.weight": {0: few},
            "narrow.bias": {0: few},
            "wide.weight": {0: many, 1: few},
            "wide.bias": {0: many},
            "fc.weight": {1: many},
        },
        attributes={
            "narrow": {"out_channels": 7},
            "wide": {"out_channels": 15, "in_channels": 7},
            "fc": {"in_features": 15},
        },
    )
    cut = deepcopy(module)
    keep_channels_(cut, wrong)
    with torch.no_grad():
        assert cut(example).shape == (2, 4)
    silenced = Silenced(module, [example], seed=0)
    objection = silenced.objection(wrong)
    assert objection is not None and "computes something else" in objection
    (group,) = find_groups(module, [example]).groups
    right = edit_of([group], {"narrow": frozenset({3})})
    assert silenced.objection(right) is None
    assert 7 not in right.kept["wide.weight"][0] and 3 in right.kept["wide.weight"][0]


def test_a_network_without_an_effect_of_its_channels_is_not_believed() -> None:
    """All weights zero: whatever is cut, the outputs are equal; noise on the weights tells the indices apart all the same."""
    module, _ = network("padded shortcut")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    found = find_groups(module, [torch.zeros(2, 3, 12, 12)])
    (group,) = found.groups
    wide = next(member for member in group.members if member.tensor == "wide.weight" and member.dim == 0)
    assert wide.channels == (-1, -1, -1, -1, 0, 1, 2, 3, 4, 5, 6, 7, -1, -1, -1, -1)


def test_resnet20_of_the_recipe_inner_channels_and_padded_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPES))
    import cifar10_resnet  # type: ignore[import-not-found, unused-ignore]

    torch.manual_seed(0)
    module = cifar10_resnet.resnet20()
    example = [torch.zeros(2, 3, 32, 32)]  # an example that shows nothing must not hide a wrong index
    found = find_groups(module, example)
    inner = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1, 2)]
    assert [group.name for group in found.groups] == ["conv1", *inner]
    for group in found.groups[1:]:
        assert group.layers == (group.name,) and group.readers == (group.name.replace("conv1", "conv2"),)
    assert count_macs(module, example) == 40_551_040 and count_params(module) == 269_722
    scores = score_groups(module, found.groups, "magnitude")
    cut = narrow(module, example, found.groups, halves(found.groups), scores).module
    assert isinstance(cut.layer2[0].conv2, nn.Conv2d)  # type: ignore[index, union-attr]
    assert cut.layer2[0].conv2.weight.shape == (24, 16, 3, 3)  # type: ignore[index, union-attr]
    (note,) = found.notes
    assert note.startswith("linear left alone: the model's output 0")


def test_ignored_layers_and_all_that_is_tied_to_them_stay() -> None:
    module, example = network("residual")
    found = find_groups(module, [example], ignored_layers=["one.conv2", "two.conv1"])
    assert [group.name for group in found.groups] == ["one.conv1", "two.conv2"]
    assert "stem left alone: ignored_layers names one.conv2, tied to it" in found.notes
    assert "two.conv1 left alone: ignored_layers" in found.notes


def test_heads_groups_and_blocks_lose_the_same_positions() -> None:
    module, example = network("multi-head attention")
    stream = find_groups(module, [example]).groups[0]
    assert (stream.width, stream.divisor, stream.positions) == (32, 4, 8)
    assert stream.layers == ("patches", "attention", "mlp.2")
    edit = edit_for([stream], {"patches": 24}, {"patches": torch.arange(32.0)})
    assert edit.kept["patches.weight"][0] == tuple(channel for channel in range(32) if channel % 8 >= 2)
    assert edit.attributes["attention"] == {"embed_dim": 24, "kdim": 24, "vdim": 24, "head_dim": 6}
    assert len(edit.kept["attention.in_proj_weight"][0]) == 72
    assert edit.attributes["norm1"] == {"normalized_shape": 24}
    with pytest.raises(ValueError, match="a multiple of 4"):
        best_positions(stream, 22, torch.ones(32))
    with pytest.raises(ValueError, match="from 4 to 32"):
        best_positions(stream, 0, torch.ones(32))


def test_equal_scores_keep_the_first_and_the_order_stays() -> None:
    group = Group("a", ("a",), (), 6, 1, (), ())
    assert best_positions(group, 3, torch.tensor([1.0, 1.0, 5.0, 1.0, 1.0, 9.0])) == (0, 2, 5)


def test_a_second_cut_follows_the_first() -> None:
    module, example = network("residual")
    for _ in range(2):
        found = find_groups(module, [example])
        scores = score_groups(module, found.groups, "magnitude")
        module = narrow(module, [example], found.groups, halves(found.groups), scores).module
    assert len(edits_of(module)) == 2
    again = network("residual")[0]
    for edit in edits_of(module):
        assert isinstance(edit, KeepChannels)
        keep_channels_(again, edit)
    require_same_states(again, module)


def test_nothing_to_remove_is_an_error() -> None:
    module, example = network("residual")
    groups = find_groups(module, [example]).groups
    with pytest.raises(PassFault, match="no channel would be removed"):
        narrow(module, [example], groups, {group.name: group.width for group in groups}, {})


class NotCopied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.kept = self.conv.weight * 2  # a tensor with a gradient history

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


class Detached(nn.Sequential):
    def forward(self, x: Tensor) -> Any:
        for part in self:
            x = part(x)
        return x.argmax(1)


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.conv(x).mean((2, 3)).view(2, -1))
        return logits


def test_modules_that_cannot_be_worked_on_are_refused_with_the_reason() -> None:
    with pytest.raises(PassFault, match="cannot be copied"):
        find_groups(NotCopied(), [torch.randn(1, 3, 4, 4)])
    with pytest.raises(PassFault, match="no output depends on the weights"):
        find_groups(Detached(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)), [torch.randn(1, 3, 8, 8)])
    with pytest.raises(PassFault, match=r"does not run on the example: RuntimeError"):
        find_groups(network("residual")[0], [torch.randn(2, 5, 12, 12)])


def test_a_network_that_takes_one_batch_size_only_is_cut_at_that() -> None:
    module, example = FixedBatch().eval(), [torch.randn(2, 3, 6, 6)]
    (group,) = find_groups(module, example).groups
    cut = narrow(module, example, [group], {"conv": 3}, score_groups(module, [group], "magnitude"))
    assert cut.module(example[0]).shape == (2, 4)
    assert count_macs(module, example) == 3 * 8 * 9 * 16 + 32


def test_weights_that_are_no_numbers_are_the_models_fault() -> None:
    module, example = network("residual")
    groups = find_groups(module, [example]).groups
    with torch.no_grad():
        module.get_parameter("two.conv2.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelFault, match=r"two\.conv1"):
        score_groups(module, groups, "magnitude")


def test_the_same_seed_gives_the_same_groups() -> None:
    module, example = network("depthwise, squeeze-excite")
    assert find_groups(module, [example], seed=3) == find_groups(module, [example], seed=3)


def test_layers_that_make_outputs_are_found_by_cheap_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight layers, four of them outputs: one comparison in numbers, however many trials of shapes."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.ModuleList(nn.Linear(6, 6) for _ in range(4))
            self.heads = nn.ModuleList(nn.Linear(6, 4) for _ in range(4))

        def forward(self, x: Tensor) -> list[Tensor]:
            found = []
            for layer, head in zip(self.trunk, self.heads, strict=True):
                x = torch.tanh(layer(x))
                found.append(head(x))
            return found

    compared: list[KeepChannels] = []
    whole = Silenced.objection

    def objection(self: Silenced, edit: KeepChannels) -> str | None:
        compared.append(edit)
        return whole(self, edit)

    monkeypatch.setattr(Silenced, "objection", objection)
    torch.manual_seed(0)
    found = find_groups(Heads(), [torch.randn(2, 6)])
    assert [group.name for group in found.groups] == [f"trunk.{number}" for number in range(4)]
    assert len(compared) == 1
    assert sum("would shrink from [1, 4] to [1, 2]" in note for note in found.notes) == 4
