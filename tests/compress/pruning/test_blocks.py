"""Whole residual blocks: which a network has, which go first, and what is left."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from accel.compress.edits import replay_
from accel.compress.prune import Prune
from accel.compress.prune_settings import Constraint
from accel.compress.pruning.block_costs import Worth
from accel.compress.pruning.blocks import removals, remove_blocks
from accel.compress.pruning.channel_costs import count_macs, count_params
from accel.compress.pruning.residual_blocks import find_blocks
from accel.contracts import Batch, Job, NumberFormat, Predict, Score, Split
from accel.errors import DataFault, PassFault
from accel.model import Model, Origin, RemoveBlock, Signature, TensorSpec, TorchModel
from accel.torchvision_guard import import_torchvision

torch.set_num_threads(1)
Array = NDArray[Any]
RECIPES = Path(__file__).parents[3] / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Block(nn.Module):
    """``x + strength * branch(x)``: removing it costs the more, the larger ``strength``."""

    def __init__(self, width: int, strength: float, inner: int | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner or width, 3, padding=1)
        self.conv2 = nn.Conv2d(inner or width, width, 3, padding=1)
        self.strength = strength

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.strength * self.conv2(torch.relu(self.conv1(x)))
        return out


class Net(nn.Module):
    def __init__(self, *strengths: float, inner: Sequence[int | None] = ()) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.blocks = nn.Sequential(
            *(Block(8, strength, width) for strength, width in zip(strengths, inner or [None] * len(strengths), strict=True))
        )
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.stem(image)).mean((2, 3)))
        return logits


def model_of(net: nn.Module, shape: Sequence[int] = (1, 10, 10), outputs: int = 5) -> TorchModel:
    signature = Signature(
        (TensorSpec("image", ("batch", *shape), "float32"),), (TensorSpec("logits", ("batch", outputs), "float32"),)
    )
    return TorchModel(module=net.eval(), signature=signature)


def network(*strengths: float, **settings: Any) -> TorchModel:
    torch.manual_seed(0)
    return model_of(Net(*strengths, **settings))


class Data:
    """Noise; labels are what ``judge`` answers, which therefore scores 1."""

    def __init__(self, judge: nn.Module | None, splits: Sequence[str], lower_is_better: bool = False) -> None:
        self.images = np.random.default_rng(0).standard_normal((64, 1, 10, 10)).astype(np.float32)
        self.splits = splits
        self.scored = 0
        self.lower = lower_is_better
        with torch.no_grad():
            self.labels = None if judge is None else judge(torch.from_numpy(self.images)).argmax(1).numpy()

    def batches(self) -> Iterable[Batch]:
        for start in range(0, 64, 32):
            labels = None if self.labels is None else self.labels[start : start + 32]
            yield Batch({"image": self.images[start : start + 32]}, labels)

    training = calibration = selection = batches

    def validation(self) -> Iterable[Batch]:
        raise AssertionError("nothing is chosen on validation data")

    def has(self, split: Split) -> bool:
        return split in self.splits

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        assert split == "selection"
        self.scored += 1
        right = [predict(batch.inputs)[0].argmax(1) == batch.labels for batch in self.batches()]
        share = float(np.concatenate(right).mean())
        return {"error": Score(1 - share, higher_is_better=False)} if self.lower else {"top1": Score(share)}


def removed(model: TorchModel) -> list[str]:
    return [edit.path for edit in model.edits if isinstance(edit, RemoveBlock)]


def blocks_of(net: nn.Module, *shape: int) -> tuple[str, ...]:
    return find_blocks(net.eval(), [torch.randn(2, *shape)]).blocks


# -- which blocks there are -------------------------------------------------------------------------------------------


def test_the_recipes_networks_have_their_identity_blocks() -> None:
    cifar = recipe("cifar10_resnet")
    stages = ("layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2")
    assert blocks_of(cifar.resnet20(), 3, 32, 32) == stages
    assert len(blocks_of(cifar.resnet56(), 3, 32, 32)) == 25
    assert blocks_of(recipe("digits_network").digits_network(), 1, 28, 28) == ("blocks.0", "blocks.2")


def test_inverted_residuals_and_encoder_layers_are_blocks_and_their_parts_are_not() -> None:
    models = import_torchvision().models
    mobile = blocks_of(models.mobilenet_v3_small(weights=None), 3, 32, 32)
    assert mobile == tuple(f"features.{number}" for number in (3, 5, 6, 8, 10, 11))
    transformer = models.VisionTransformer(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    assert blocks_of(transformer, 3, 16, 16) == tuple(f"encoder.layers.encoder_layer_{number}" for number in (0, 1))


def test_a_block_that_ends_in_a_normalization_is_found_and_a_plain_chain_is_not() -> None:
    class PostNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.back, self.norm = nn.Linear(16, 32), nn.Linear(32, 16), nn.LayerNorm(16)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(x + self.back(torch.relu(self.wide(x))))
            return out

    net = nn.Sequential(nn.Linear(4, 16), PostNorm(), PostNorm(), nn.Linear(16, 3))
    assert blocks_of(net, 4) == ("1", "2")
    plain = nn.Sequential(nn.Linear(4, 16), nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)), nn.Linear(16, 3))
    assert blocks_of(plain, 4) == ()


def test_a_gate_is_not_a_block() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 2), nn.Linear(2, 8)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x * torch.sigmoid(self.two(torch.relu(self.one(x))))
            return out

    assert blocks_of(nn.Sequential(nn.Linear(4, 8), Gate(), nn.Linear(8, 3)), 4) == ()


def test_a_block_that_is_used_twice_or_takes_more_than_its_input_is_refused_with_the_reason() -> None:
    shared = Block(8, 1.0)

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.again, self.alone, self.tied = nn.Conv2d(1, 8, 3), Block(8, 1.0), Block(8, 1.0), shared
            self.other = shared

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.other(self.alone(self.again(self.again(self.stem(x)))))
            return out

    found = find_blocks(Twice().eval(), [torch.randn(2, 1, 8, 8)])
    assert found.blocks == ("alone",)
    assert "called 2 times" in found.refused["again"] and "it is also other" in found.refused["tied"]
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    found = find_blocks(encoder.eval(), [torch.randn(2, 3, 4)])
    assert found.blocks == () and all("more arguments than its input" in why for why in found.refused.values())
    assert list(found.refused) == ["1.layers.0", "1.layers.1"]


# -- which go ---------------------------------------------------------------------------------------------------------


def test_the_cheapest_blocks_go_first_and_the_given_model_stays_as_it_was(tmp_path: Path) -> None:
    model = network(1.0, 0.01, 0.5, 0.02)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    result = Prune(method="depth", pruning_ratio=0.5)(model, Job.local(tmp_path, Data(model.module, ["selection"])))
    assert removed(result) == ["blocks.1", "blocks.3"]
    assert "2 of 4 residual blocks removed: selection top1 1.0000 before" in result.notes[0]
    (kept,) = [text for text in result.notes if text.startswith("blocks.0 kept: without it alone selection top1 0.")]
    assert "output SQNR" in kept
    assert model.edits == () and set(before) == set(model.module.state_dict())
    assert all(torch.equal(value, model.module.state_dict()[name]) for name, value in before.items())


def test_the_edits_replay_on_what_the_factory_builds(tmp_path: Path) -> None:
    model = network(1.0, 0.01, 0.5)
    result = remove_blocks(model, Job.local(tmp_path, Data(model.module, ["selection"])), Prune(method="depth"))
    again = replay_(Net(1.0, 0.01, 0.5), result.edits, model.signature)
    again.load_state_dict(result.module.state_dict())
    image = torch.randn(3, 1, 10, 10)
    with torch.no_grad():
        assert torch.equal(again.eval()(image), result.module(image))
        assert not torch.equal(model.module(image), result.module(image))


def test_scores_decide_before_noise_and_noise_where_scores_are_equal() -> None:
    worths = {"a": Worth(0.9, 0.1), "b": Worth(0.95, 0.5), "c": Worth(0.95, 0.2), "d": Worth(None, 0.0)}

    def judge(gone: Iterable[str]) -> Worth:
        found = [worths[path] for path in gone]
        score = 1.0 - sum(1.0 - (one.score if one.score is not None else 0.0) for one in found)
        return Worth(None if "d" in gone else score, sum(one.noise for one in found))

    assert list(removals("abcd", judge, dict.fromkeys("abcd", 1.0))) == ["c", "b", "a", "d"]
    # Blocks that save nothing stay; what costs twice as much and saves four times as much goes first.
    assert list(removals("abc", judge, {"a": 4.0, "b": 1.0, "c": 0.0})) == ["a", "b"]


def test_costs_are_computed_anew_only_for_what_looks_cheapest() -> None:
    asked: list[int] = []

    def judge(gone: Iterable[str]) -> Worth:
        places = list(gone)
        asked.append(len(places))
        return Worth(1.0 - sum(0.01 * (int(path) + 1) ** 2 for path in places), 0.0)

    order = removals([str(number) for number in range(8)], judge, {str(number): 1.0 for number in range(8)})
    assert [next(order) for _ in range(4)] == ["0", "1", "2", "3"]
    assert asked == [0, *[1] * 8, 2, 3, 4]  # not 8 + 7 + 6 + 5


def test_a_metric_where_lower_is_better(tmp_path: Path) -> None:
    model = network(1.0, 0.01)
    result = remove_blocks(model, Job.local(tmp_path, Data(model.module, ["selection"], True)), Prune(method="depth"))
    assert removed(result) == ["blocks.1"] and "selection error 0.0000 before" in result.notes[0]


@pytest.mark.parametrize("splits", [["calibration"], ["selection", "calibration"]])
def test_without_labels_agreement_with_the_unpruned_network_decides(tmp_path: Path, splits: list[str]) -> None:
    model = network(1.0, 0.01, 0.5)
    data = Data(None, splits)
    result = remove_blocks(model, Job.local(tmp_path, data), Prune(method="depth", pruning_ratio=0.4))
    assert removed(result) == ["blocks.1"] and data.scored == 0
    assert "agreement with the unpruned network 1.0000 before" in result.notes[0]


def test_without_data_it_is_refused(tmp_path: Path) -> None:
    for task in (None, Data(None, [])):
        with pytest.raises(DataFault, match=r"set data\.training or data\.calibration"):
            remove_blocks(network(1.0, 0.5), Job.local(tmp_path, task), Prune(method="depth"))


class Memory:
    def __init__(self, dies_after: int | None = None) -> None:
        self.kept: list[tuple[Mapping[str, Any], Any]] = []
        self.dies_after = dies_after

    def __call__(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        for known, value in self.kept:
            if known == key:
                return value
        if self.dies_after == len(self.kept):
            raise KeyboardInterrupt
        self.kept.append((key, compute()))
        return self.kept[-1][1]


def test_a_killed_run_goes_on_where_it_was_and_chooses_the_same(tmp_path: Path) -> None:
    model = network(1.0, 0.01, 0.5, 0.02)
    straight = Data(model.module, ["selection"])
    whole = remove_blocks(model, Job.local(tmp_path, straight, memo=Memory()), Prune(method="depth"))
    data, memory = Data(model.module, ["selection"]), Memory(dies_after=4)
    with pytest.raises(KeyboardInterrupt):
        remove_blocks(model, Job.local(tmp_path, data, memo=memory), Prune(method="depth"))
    memory.dies_after = None
    resumed = remove_blocks(model, Job.local(tmp_path, data, memo=memory), Prune(method="depth"))
    assert resumed.notes == whole.notes and removed(resumed) == removed(whole)
    assert data.scored <= straight.scored + 2  # the unpruned network's outputs are needed again
    data.scored = 0
    remove_blocks(model, Job.local(tmp_path, data, memo=memory), Prune(method="depth"))
    assert data.scored == 0


def test_what_is_remembered_is_known_by_the_code_that_computes_it(tmp_path: Path) -> None:
    model = network(1.0, 0.01, 0.5)
    data, memory = Data(model.module, ["selection"]), Memory()
    for digest, scored in (("one", True), ("one", False), ("another", True)):
        data.scored = 0
        of_code = replace(model, origin=Origin("net.py:net", {}, None, digest))
        remove_blocks(of_code, Job.local(tmp_path, data, memo=memory), Prune(method="depth"))
        assert (data.scored > 0) == scored, digest


# -- how many go ------------------------------------------------------------------------------------------------------


def test_a_constraint_on_multiply_adds_or_parameters_is_met(tmp_path: Path) -> None:
    model = network(0.5, 0.4, 0.3, 0.2)
    job = Job.local(tmp_path, Data(model.module, ["selection"]))
    example = [torch.randn(1, 1, 10, 10)]
    small = remove_blocks(model, job, Prune(method="depth", constraint=Constraint(macs="60%")))
    assert 0.3 < count_macs(small.module, example) / count_macs(model.module, example) <= 0.6
    few = remove_blocks(model, job, Prune(method="depth", constraint=Constraint(params=3000)))
    assert 1500 < count_params(few.module) <= 3000 < count_params(model.module)
    assert any(text.startswith("parameters: ") and "asked: " in text for text in few.notes)


def test_blocks_that_need_not_go_come_back(tmp_path: Path) -> None:
    # The small block costs least and goes first; only the large one can meet the goal, and then the small one may stay.
    model = network(0.001, 0.5, inner=[2, 64])
    job = Job.local(tmp_path, Data(model.module, ["selection"]))
    result = remove_blocks(model, job, Prune(method="depth", constraint=Constraint(params="20%")))
    assert removed(result) == ["blocks.1"]


def test_a_goal_out_of_reach_says_what_is_left_without_all_blocks(tmp_path: Path) -> None:
    model = network(1.0, 0.5)
    job = Job.local(tmp_path, Data(model.module, ["selection"]))
    with pytest.raises(PassFault, match=r"without all 2 removable blocks .* \(1 %|without all 2 removable blocks"):
        remove_blocks(model, job, Prune(method="depth", constraint=Constraint(macs="1%")))
    with pytest.raises(PassFault, match="nothing to remove"):
        remove_blocks(model, job, Prune(method="depth", constraint=Constraint(params=1e9)))
    with pytest.raises(PassFault, match=r"0\.1 of 2 blocks is less than one; .* is 0\.250"):
        remove_blocks(model, job, Prune(method="depth", pruning_ratio=0.1))


def test_ignored_layers_keep_their_blocks(tmp_path: Path) -> None:
    model = network(1.0, 0.01, 0.5)
    job = Job.local(tmp_path, Data(model.module, ["selection"]))
    result = remove_blocks(model, job, Prune(method="depth", ignored_layers=("blocks.1.conv2",)))
    assert removed(result) and "blocks.1" not in removed(result)
    assert any(text == "blocks.1 kept: blocks.1.conv2 is in ignored_layers" for text in result.notes)
    with pytest.raises(PassFault, match=r"blocks\.0 kept: blocks\.0 is in ignored_layers.*use method: structured"):
        remove_blocks(model, job, Prune(method="depth", ignored_layers=(r"blocks\.\d",)))
    with pytest.raises(PassFault, match="matches no module"):
        remove_blocks(model, job, Prune(method="depth", ignored_layers=("bloks",)))


def test_a_network_without_blocks_and_one_that_needs_its_blocks_are_refused(tmp_path: Path) -> None:
    plain = model_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5)))
    with pytest.raises(PassFault, match=r"around a shortcut.*use method: structured"):
        remove_blocks(plain, Job.local(tmp_path, Data(plain.module, ["selection"])), Prune(method="depth"))

    class Looks(Net):
        def forward(self, image: Tensor) -> Tensor:
            first: Any = self.blocks[0]
            return super().forward(image) * float(first.strength)

    torch.manual_seed(0)
    looks = model_of(Looks(1.0, 0.01))
    result = remove_blocks(looks, Job.local(tmp_path, Data(looks.module, ["selection"])), Prune(method="depth"))
    assert removed(result) == ["blocks.1"]
    assert any("blocks.0 kept: the network does not run without it (AttributeError" in text for text in result.notes)


class BlockProbe:
    """A block takes 1 ms, or what ``law`` says of how many are left; the rest of the network 1 ms."""

    precision: NumberFormat = "fp32"
    identity: Mapping[str, Any] = {"target": "a formula"}

    def __init__(self, law: Callable[[int], float] = float, idle: Sequence[str] = ()) -> None:
        self.law = law
        self.idle = idle

    def latencies_ms(self, models: Sequence[Model], precision: NumberFormat | None = None) -> list[float]:
        return [1.0 + self.law(self._blocks(model)) for model in models]

    def _blocks(self, model: Model) -> int:
        assert isinstance(model, TorchModel)
        parts = dict(model.module.named_modules())
        return sum(isinstance(part, Block) and path not in self.idle for path, part in parts.items())


def test_a_latency_is_met_by_what_saves_time_and_predicted_beside_measured(tmp_path: Path) -> None:
    model = network(0.5, 0.01, 0.3, 0.2)
    probe = BlockProbe(idle=["blocks.1"])
    job = Job.local(tmp_path, Data(model.module, ["selection"]), probe=probe)
    result = remove_blocks(model, job, Prune(method="depth", constraint=Constraint(latency_ms=3.2)))
    assert len(removed(result)) == 1 and "blocks.1" not in removed(result)  # the cheapest, but it saves no time
    assert "latency: 4 ms -> 3 ms measured (75.0%), 3 ms predicted by the table; asked: 3.2 ms" in result.notes
    assert "blocks.1 kept: to remove it saves no time on this target" in result.notes


def test_measuring_the_whole_network_corrects_the_table(tmp_path: Path) -> None:
    model = network(0.5, 0.4, 0.3, 0.2)
    data = Data(model.module, ["selection"])
    # The first block that goes saves 1.0, each further one 0.5: the table promises twice of what there is.
    slow = BlockProbe(lambda left: 3.5 if left == 4 else left * 0.5 + 1.0)
    result = remove_blocks(
        model, Job.local(tmp_path, data, probe=slow), Prune(method="depth", constraint=Constraint(latency_ms=3.0))
    )
    assert slow.latencies_ms([result])[0] <= 3.0 * 1.01 and len(removed(result)) == 2
    with pytest.raises(PassFault, match=r"without all 4 blocks that save time the model takes 2 ms.*1\.5 ms are allowed"):
        remove_blocks(
            model, Job.local(tmp_path, data, probe=slow), Prune(method="depth", constraint=Constraint(latency_ms=1.5))
        )
    with pytest.raises(PassFault, match="this job has no probe"):
        remove_blocks(model, Job.local(tmp_path, data), Prune(method="depth", constraint=Constraint(latency_ms=1.5)))
