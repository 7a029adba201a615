"""The pass ``prune`` by channels and ``prune_channels``: goals, settings, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from accel.compress.edits import add_edit_, edits_of, replay_
from accel.compress.prune import Prune, prune_channels
from accel.compress.prune_settings import Constraint
from accel.compress.pruning.channel_costs import count_macs, count_params
from accel.contracts import Batch, Job, Split
from accel.errors import DataFault, PassFault, UsageError
from accel.model import KeepChannels, Masks, QuantizeAware, Signature, TensorSpec, TorchModel

network: Callable[[str], tuple[nn.Module, Tensor]] = run_path(str(Path(__file__).with_name("prunable_networks.py")))["network"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Images:
    """A task with training data only, which counts what is read."""

    def __init__(self) -> None:
        self.read = 0

    def has(self, split: Split) -> bool:
        return split == "training"

    def training(self) -> Iterable[Batch]:
        drawn = np.random.default_rng(0)
        for _ in range(10):
            self.read += 8
            yield Batch({"image": drawn.standard_normal((8, 3, 12, 12)).astype(np.float32)}, drawn.integers(0, 4, 8))


def model_of(name: str) -> TorchModel:
    module, example = network(name)
    spec = (TensorSpec("image", ("batch", *example.shape[1:]), "float32"),)
    return TorchModel(module=module, signature=Signature(spec, (TensorSpec("logits", ("batch", 4), "float32"),)))


def macs(module: nn.Module) -> int:
    return count_macs(module, [torch.zeros(1, 3, 12, 12)])


def widths(module: nn.Module) -> dict[str, int]:
    return {path: part.out_channels for path, part in module.named_modules() if isinstance(part, nn.Conv2d)}


@pytest.mark.parametrize("name", ["plain, flatten", "residual", "depthwise, squeeze-excite", "groups, group norm"])
def test_the_pass_gives_a_smaller_model_with_its_edits_and_leaves_its_own(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    before = {key: value.clone() for key, value in model.module.state_dict().items()}
    small = Prune()(model, Job.local(tmp_path))
    assert small.signature == model.signature and small.origin is model.origin
    assert all(torch.equal(before[key], value) for key, value in model.module.state_dict().items()) and model.edits == ()
    (edit,) = small.edits
    assert isinstance(edit, KeepChannels)
    again = replay_(deepcopy(model.module), small.edits, model.signature)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in small.module.state_dict().items()}
    assert all(torch.equal(again.state_dict()[key], value) for key, value in small.module.state_dict().items())
    counted = f"multiply-adds {macs(model.module):,} -> {macs(small.module):,}"
    assert any(counted in note for note in small.notes)
    assert any(f"parameters {count_params(model.module):,} -> {count_params(small.module):,}" in note for note in small.notes)


def test_each_group_and_each_layer_that_stays_is_noted(tmp_path: Path) -> None:
    notes = Prune(pruning_ratio=0.25)(model_of("residual"), Job.local(tmp_path)).notes
    assert "one.conv1: 16 -> 12 channels" in notes
    assert "stem (and one.conv2): 16 -> 12 channels" in notes
    assert any(note.startswith("fc left alone: the model's output 0") for note in notes)


@pytest.mark.parametrize(
    "name", ["plain, flatten", "residual", "depthwise, squeeze-excite", "concatenation", "multi-head attention"]
)
@pytest.mark.parametrize("remains", [25, 50, 80])
@pytest.mark.parametrize("unit", ["macs", "params"])
def test_a_constraint_is_met_within_a_point(name: str, remains: int, unit: str) -> None:
    module, example = network(name)
    notes: list[str] = []
    small = prune_channels(module, example, constraint={unit: f"{remains}%"}, tell=notes.append)
    whole, left = (macs(each) if unit == "macs" else count_params(each) for each in (module, small))
    off = abs(left / whole - remains / 100)
    assert off < 0.03
    assert any(f"reached {left:,}" in note for note in notes)
    # These networks have 8 to 32 channels a layer: one step can be more than a point, and is then told.
    assert off <= 0.01 or any("the nearest that can be reached" in note for note in notes)


def test_a_constraint_can_be_a_number_and_global() -> None:
    module, example = network("residual")
    small = prune_channels(module, example, constraint={"params": 5000}, global_pruning=True)
    assert abs(count_params(small) - 5000) < 0.01 * count_params(module)
    macs_small = prune_channels(module, example, constraint=Constraint(macs=100_000), importance="fpgm")
    assert abs(macs(macs_small) - 100_000) < 0.01 * macs(module)


def test_widths_are_multiples_of_round_to_and_the_miss_is_told() -> None:
    module, example = network("residual")
    notes: list[str] = []
    small = prune_channels(module, example, constraint={"macs": "45%"}, round_to=8, tell=notes.append)
    assert all(width % 8 == 0 for width in widths(small).values())
    (goal,) = [note for note in notes if note.startswith("constraint macs")]
    missed = abs(macs(small) / macs(module) - 0.45) > 0.01
    assert ("the nearest that can be reached with round_to 8" in goal) == missed


def test_a_constraint_out_of_reach_says_what_remains_at_least() -> None:
    module, example = network("residual")
    with pytest.raises(PassFault, match=r"macs cannot be brought to 1,000 of .* remain"):
        prune_channels(module, example, constraint={"macs": 1000})
    with pytest.raises(PassFault, match="max_pruning_ratio"):
        prune_channels(module, example, constraint={"macs": "10%"}, max_pruning_ratio=0.25)
    with pytest.raises(PassFault, match="not more than"):
        prune_channels(module, example, constraint={"params": 10**9})


def test_extreme_ratios_keep_at_least_one_channel() -> None:
    module, example = network("depthwise, squeeze-excite")
    small = prune_channels(module, example, pruning_ratio=0.99)
    assert set(widths(small).values()) == {1}
    with torch.no_grad():
        assert small(example).shape == (2, 4)
    grouped = prune_channels(network("groups, group norm")[0], example, pruning_ratio=0.99)
    assert widths(grouped) == {"stem": 4, "grouped": 8, "conv": 1}


@pytest.mark.parametrize("ratio", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_a_ratio_that_cannot_be_meant_is_refused(ratio: float) -> None:
    module, example = network("residual")
    with pytest.raises(UsageError, match="pruning_ratio"):
        prune_channels(module, example, pruning_ratio=ratio)
    with pytest.raises(ValidationError):
        TypeAdapter(Prune).validate_python({"pruning_ratio": ratio})


def test_a_ratio_too_small_to_change_anything_is_an_error() -> None:
    module, example = network("residual")
    with pytest.raises(PassFault, match=r"no channel would be removed \(the widest group has 24\)"):
        prune_channels(module, example, pruning_ratio=0.01)


def test_round_to_more_than_the_channels() -> None:
    module, example = network("residual")
    with pytest.raises(PassFault, match=r"round_to 64: no group is wider than that \(the widest has 24 channels\)"):
        prune_channels(module, example, round_to=64)
    notes: list[str] = []
    small = prune_channels(module, example, round_to=16, tell=notes.append)
    assert widths(small)["stem"] == 16 and widths(small)["two.conv1"] == 16
    assert "stem: all 16 channels stay: fewer would be no multiple of 16" in notes


def test_layers_with_a_ratio_of_their_own() -> None:
    module, example = network("residual")
    notes: list[str] = []
    small = prune_channels(
        module, example, pruning_ratio=0.5, pruning_ratio_dict={"one": 0, r"two\.conv1": 0.75}, tell=notes.append
    )
    assert widths(small) == {"stem": 16, "one.conv1": 16, "one.conv2": 16, "two.conv1": 6, "two.conv2": 12, "two.down.0": 12}
    assert "one.conv1: all 16 channels stay: pruning_ratio_dict gives it 0" in notes


def test_names_that_match_nothing_are_errors() -> None:
    module, example = network("residual")
    with pytest.raises(PassFault, match=r"ignored_layers: 'one\.conv9' matches no module.*did you mean 'one\.conv2'"):
        prune_channels(module, example, ignored_layers=["one.conv9"])
    with pytest.raises(PassFault, match=r"ignored_layers: 'tw\(' is no module, and no regular expression"):
        prune_channels(module, example, ignored_layers=["tw("])
    with pytest.raises(PassFault, match=r"pruning_ratio_dict: 'three' matches no module"):
        prune_channels(module, example, pruning_ratio_dict={"three": 0.5})
    with pytest.raises(PassFault, match=r"pruning_ratio_dict: 'fc' names no layer whose channels can be cut"):
        prune_channels(module, example, pruning_ratio_dict={"fc": 0.5})


def test_ignored_layers_by_regular_expression_and_with_all_below() -> None:
    module, example = network("residual")
    small = prune_channels(module, example, ignored_layers=[r".*\.conv1"])
    assert widths(small)["one.conv1"] == 16 and widths(small)["two.conv1"] == 24 and widths(small)["stem"] == 8
    with pytest.raises(PassFault, match="no channel of this model can be cut: stem left alone: ignored_layers names"):
        prune_channels(module, example, ignored_layers=["one", "two"])


def test_global_pruning_takes_where_it_matters_least_within_the_limit() -> None:
    module, example = network("residual")
    with torch.no_grad():
        module.get_parameter("two.conv1.weight")[4:] *= 0.01
        module.get_parameter("two.conv2.weight")[:, 4:] *= 0.01
        module.get_parameter("two.bn1.weight")[4:] *= 0.01
    free = widths(prune_channels(module, example, pruning_ratio=0.25, global_pruning=True))
    assert free["two.conv1"] == 4 and free["stem"] == 16
    bound = widths(prune_channels(module, example, pruning_ratio=0.25, global_pruning=True, max_pruning_ratio=0.5))
    assert bound["two.conv1"] == 12


def test_the_least_important_channels_go() -> None:
    module, example = network("residual")
    with torch.no_grad():
        for name, dim in (("one.conv1.weight", 0), ("one.conv2.weight", 1), ("one.bn1.weight", 0)):
            module.get_parameter(name).index_fill_(dim, torch.tensor([1, 7]), 1e-4)
    (edit,) = edits_of(prune_channels(module, example, pruning_ratio=0.125))
    assert isinstance(edit, KeepChannels)
    assert set(range(16)) - set(edit.kept["one.conv1.weight"][0]) == {1, 7}


def test_iterative_steps_rank_anew_and_reach_the_same_widths() -> None:
    module, example = network("residual")
    once = prune_channels(module, example, constraint={"macs": "30%"})
    steps = prune_channels(module, example, constraint={"macs": "30%"}, iterative_steps=4)
    assert abs(macs(once) - macs(steps)) < 0.02 * macs(module)
    (edit,) = edits_of(steps)
    assert edit != edits_of(once)[0]
    local = prune_channels(module, example, pruning_ratio=0.5, iterative_steps=3)
    assert widths(local) == widths(prune_channels(module, example, pruning_ratio=0.5))


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
def test_data_driven_importance_reads_training_samples_and_no_more(importance: Any, tmp_path: Path) -> None:
    step = Prune(importance=importance, num_samples=16)
    assert step.needs == {"training"}
    task = Images()
    small = step(model_of("residual"), Job.local(tmp_path, task))  # type: ignore[arg-type]
    assert task.read in (16, 24) and widths(small.module)["one.conv1"] == 8
    again = step(model_of("residual"), Job.local(tmp_path, Images()))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(small.module.parameters(), again.module.parameters(), strict=True))
    with pytest.raises(DataFault, match="needs training data"):
        step(model_of("residual"), Job.local(tmp_path))


def test_data_driven_importance_in_training_code() -> None:
    module, example = network("residual")
    with pytest.raises(UsageError, match="needs batches"):
        prune_channels(module, example, importance="taylor")
    batches = ((example, torch.tensor([0, 1])) for _ in range(3))
    own: list[int] = []

    def loss(inputs: Any, outputs: Any, labels: Any) -> Tensor:
        own.append(len(labels))
        total: Tensor = outputs.square().sum()
        return total

    small = prune_channels(module, example, importance="taylor", batches=batches, loss=loss, num_samples=4)  # type: ignore[arg-type]
    assert own == [2, 2] and widths(small)["stem"] == 8


def test_bn_scale_leaves_groups_without_batch_norm_and_says_so(tmp_path: Path) -> None:
    model = model_of("residual")
    small = Prune(importance="bn_scale")(model, Job.local(tmp_path))
    assert widths(small.module)["one.conv1"] == 8
    with pytest.raises(PassFault, match="no batch norm scales its channels"):
        Prune(importance="bn_scale")(model_of("chunk"), Job.local(tmp_path))


def test_models_without_anything_to_cut_are_refused_with_the_reasons(tmp_path: Path) -> None:
    head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 4))
    model = TorchModel(module=head, signature=model_of("residual").signature)
    with pytest.raises(PassFault, match=r"no channel of this model can be cut: 1 left alone: the model's output 0"):
        Prune()(model, Job.local(tmp_path))
    with pytest.raises(PassFault, match="no convolution or linear layer"):
        prune_channels(nn.ReLU(), torch.randn(2, 3), pruning_ratio=0.5)


def test_a_model_prepared_for_quantization_is_refused() -> None:
    module, example = network("residual")
    add_edit_(module, QuantizeAware({}, "2", "0"))
    with pytest.raises(PassFault, match="prune it before quantize"):
        prune_channels(module, example)


def test_the_cut_network_trains_on() -> None:
    module, example = network("residual")
    small = prune_channels(module.train(), example)
    assert small.training
    optimizer = torch.optim.SGD(small.parameters(), lr=0.1)
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(small(example), torch.tensor([0, 3]))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pruning_ratio": 0.5, "constraint": {"macs": "40%"}}, "two goals; give one"),
        ({"constraint": {"macs": "40%", "params": "40%"}}, "give one of macs, params and latency_ms, not macs and params"),
        ({"constraint": {}}, "give one of macs, params and latency_ms"),
        ({"constraint": {"macs": "0%"}}, "more than 0%"),
        ({"constraint": {"macs": "100%"}}, "less than 100%"),
        ({"constraint": {"macs": "lots"}}, "not a part that remains"),
        ({"constraint": {"macs": -4}}, "greater than 0"),
        ({"constraint": {"macs": "40%", "target": "cpu"}}, "target and precision are for latency_ms"),
        ({"pruning_ratio_dict": {"stem": 1.0}}, "less than 1"),
        ({"importance": "l1"}, "magnitude"),
        ({"round_to": 0}, "greater than or equal to 1"),
        ({"iterative_steps": 0}, "greater than or equal to 1"),
        ({"constraint": {"latency_ms": "40%"}}, "latency_ms is measured on a target"),
    ],
)
def test_settings_that_contradict_each_other(settings: Mapping[str, Any], words: str) -> None:
    module, example = network("plain, flatten")
    with pytest.raises(UsageError, match=words):
        prune_channels(module, example, **settings)


def test_an_example_that_is_no_tensor_is_refused() -> None:
    module, _ = network("residual")
    with pytest.raises(UsageError, match="found dict"):
        prune_channels(module, {"image": torch.zeros(1, 3, 12, 12)})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="found nothing"):
        prune_channels(module, [])


def test_what_the_pass_needs_follows_from_its_settings() -> None:
    assert Prune().needs == frozenset()
    assert Prune(method="depth").needs == {"selection"}
    timed = Prune(constraint=Constraint(latency_ms="40%", target="cpu"), importance="hessian")
    assert timed.needs == {"training", "probe"} and timed.probe_target == "cpu"
    assert Prune(constraint=Constraint(macs="40%")).needs == frozenset() and Prune().probe_target is None
    adapter = TypeAdapter(Prune)
    assert adapter.validate_json(adapter.dump_json(timed)) == timed


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "depth", "round_to": 8}, "round_to has no part in method: depth"),
        ({"method": "depth", "importance": "taylor", "p": 1.0}, "importance and p have no part"),
        ({"constraint": {"latency_ms": "50%"}, "global_pruning": True}, "global_pruning has no part in constraint: latency_ms"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(Prune).validate_python(settings)


def test_channels_are_not_cut_out_of_an_n_m_mask() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
    add_edit_(net, Masks("2:4", ("2.weight",)))
    with pytest.raises(PassFault, match="prune before sparsify"):
        prune_channels(net, torch.zeros(2, 3, 10, 10), pruning_ratio=0.5)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"importance": "fpgm", "p": 1.0}, "p has no part in importance: fpgm"),
        ({"num_samples": 8}, "num_samples has no part in importance: magnitude"),
        ({"method": "depth", "p": 1.0, "num_samples": 8}, "p and num_samples have no part in method: depth"),
        ({"constraint": {"latency_ms": 1}, "global_pruning": True}, "global_pruning has no part in constraint: latency_ms"),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(settings: Mapping[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(Prune).validate_python(settings)


def test_lamp_takes_more_from_a_wide_layer_than_from_a_narrow_one() -> None:
    """Its scores are comparable as they are (Lee et al. 2021): with means of 1 both would lose the same part."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.uniform_(0.9, 1.1)
    small = prune_channels(module, torch.randn(2, 4), importance="lamp", global_pruning=True, pruning_ratio=0.5)
    assert small.get_submodule("2").out_features == 8 and small.get_submodule("0").out_features == 28
