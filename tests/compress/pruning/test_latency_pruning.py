"""Channels are spent where they buy time: on made-up latency laws, whose answers are known, and once on a real runtime."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from accel.compress.pruning.channel_widths import Rules
from accel.compress.pruning.channels import find_groups
from accel.compress.pruning.importance import score_groups
from accel.compress.pruning.latency_pruning import Plan, fit
from accel.compress.pruning.latency_search import Choice, choose, isotonic, most_saved_ms, savings, widths_between
from accel.compress.pruning.latency_table import AT_ONCE, Variant, measure, structure
from accel.contracts import Job, NumberFormat
from accel.errors import PassFault
from accel.model import KeepChannels, Model, Signature, Target, TensorSpec, TorchModel
from accel.probe import TargetProbe
from accel.timed_inputs import Sample

LAYERS = ("one", "two", "three")
Law = Callable[[Mapping[str, int]], float]


class Net(nn.Module):
    """Three convolutions of 32 channels in a row."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.one = nn.Conv2d(1, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)
        self.three = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.two(torch.relu(self.one(image))))
        logits: torch.Tensor = self.head(torch.relu(self.three(inner)).mean((2, 3)))
        return logits


def network(width: int = 32) -> TorchModel:
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("image", ("batch", 1, 8, 8), "float32"),), (TensorSpec("logits", ("batch", 4), "float32"),)
    )
    return TorchModel(module=Net(width).eval(), signature=signature)


def widths_of(model: Model) -> dict[str, int]:
    assert isinstance(model, TorchModel)
    return {name: model.module.get_submodule(name).out_channels for name in LAYERS}  # type: ignore[misc]


class LawfulProbe:
    """Latency by a formula of the layers' widths."""

    precision: NumberFormat = "int8"
    identity: Mapping[str, Any] = {"target": "a formula"}

    def __init__(self, law: Law, refuses: int = 0) -> None:
        self.law = law
        self.refuses = refuses
        self.calls: list[int] = []
        self.formats: set[NumberFormat | None] = set()

    def latencies_ms(self, models: Sequence[Model], precision: NumberFormat | None = None) -> list[float]:
        self.calls.append(len(models))
        self.formats.add(precision)
        if len(self.calls) == self.refuses:
            raise PassFault("candidate 2 of 9: cannot be compiled")
        return [self.law(widths_of(model)) for model in models]


def pruned(law: Law | LawfulProbe, goal: float, tmp_path: Path, *, rules: Rules | None = None, **settings: Any) -> TorchModel:
    """``goal``: the part of the whole network's latency that may remain."""
    model = network()
    example = [torch.randn(2, 1, 8, 8)]
    groups = find_groups(model.module, example).groups
    scores = score_groups(model.module, groups, "magnitude")
    probe = law if isinstance(law, LawfulProbe) else LawfulProbe(law)
    plan = Plan(lambda whole: goal * whole, rules or Rules({}, max_pruning_ratio=0.75, round_to=8), None)
    return fit(model, Job.local(tmp_path, probe=probe, **settings), groups, scores, example, plan)


def linear(**weights: float) -> Law:
    """``1 + weight * width / 32`` for each layer: savings that really add up."""
    return lambda widths: 1.0 + sum(weights[name] * widths[name] / 32 for name in LAYERS)


def note(model: TorchModel, start: str) -> str:
    (found,) = [text for text in model.notes if text.startswith(start)]
    return found


def test_the_table_is_made_monotone_with_the_least_change() -> None:
    assert isotonic([1.0, 3.0, 2.0, 4.0]) == [1.0, 2.5, 2.5, 4.0]
    assert isotonic([3.0, 2.0, 1.0]) == [2.0, 2.0, 2.0]
    assert savings([0.5, 0.7, 0.699, 1.02], 1.0, 0.01) == pytest.approx((0.5, 0.3005, 0.3005, 0.0, 0.0))
    assert savings([0.999, 0.9995], 1.0, 0.003) == (0.0, 0.0, 0.0)


def test_measured_widths_are_multiples_between_the_least_and_the_whole() -> None:
    assert widths_between(8, 32, 8, 4) == (8, 16, 24, 32)
    assert widths_between(30, 30, 8, 4) == (30,)
    assert widths_between(16, 40, 16, 4) == (16, 32, 40)


def test_of_many_widths_those_that_fill_registers_are_measured() -> None:
    assert widths_between(32, 128, 8, 8) == (32, 48, 64, 80, 96, 112, 128)
    assert widths_between(64, 256, 8, 8) == (64, 96, 128, 160, 192, 224, 256)
    assert widths_between(1, 64, 1, 4) == (1, 16, 32, 48, 64)
    assert widths_between(5, 37, 1, 8) == (5, 8, 16, 24, 32, 37)
    assert widths_between(7, 21, 7, 1) == (7, 21)


def test_all_lose_a_little_before_one_loses_much(tmp_path: Path) -> None:
    """A quarter of each costs less than half of the one that buys more time."""
    assert widths_of(pruned(linear(one=2.0, two=3.0, three=0.01), 4.81 / 6.01, tmp_path)) == {"one": 24, "two": 24, "three": 32}


def choice(name: str, saved: Sequence[float], kept: Sequence[float]) -> Choice:
    return Choice(name, tuple(8 * (index + 1) for index in range(len(saved))), tuple(saved), tuple(kept))


def test_the_search_takes_what_saves_most_for_what_it_loses() -> None:
    slow = choice("slow", (6.0, 4.0, 2.0, 0.0), (0.2, 0.5, 0.8, 1.0))
    quick = choice("quick", (0.6, 0.4, 0.2, 0.0), (0.2, 0.5, 0.8, 1.0))
    assert choose([slow, quick], 2.0) == {"slow": 24}
    assert choose([slow, quick], 4.0) == {"slow": 16}
    assert choose([slow, quick], most_saved_ms([slow, quick])) == {"slow": 8, "quick": 8}
    assert choose([slow, quick], 6.7) is None


def test_the_search_gives_back_what_it_did_not_need() -> None:
    # The step to 8 is the best buy, but all that was needed is what 16 saves.
    only = choice("only", (10.0, 3.0, 0.0), (0.9, 0.95, 1.0))
    assert choose([only], 2.5) == {"only": 16}


def test_a_step_that_saves_nothing_is_never_taken() -> None:
    idle = choice("idle", (0.0, 0.0, 0.0), (0.99, 0.995, 1.0))
    flat = choice("flat", (1.0, 1.0, 0.0), (0.5, 0.75, 1.0))
    assert choose([idle, flat], 1.0) == {"flat": 16}


def test_channels_go_where_they_buy_time_and_the_goal_is_reached(tmp_path: Path) -> None:
    law = linear(one=0.1, two=4.0, three=0.1)
    result = pruned(law, 0.6, tmp_path)
    assert law(widths_of(result)) <= 0.6 * 5.2
    assert widths_of(result)["two"] < 32
    assert widths_of(result)["one"] == widths_of(result)["three"] == 32
    assert "16 channels" in note(result, "two") or "8 channels" in note(result, "two")
    said = note(result, "latency: ")
    assert "5.2 ms -> 3.1" not in said and f"{law(widths_of(result)):.4g} ms measured" in said
    assert f"{law(widths_of(result)):.4g} ms predicted" in said  # the law is what the search believes: savings add up
    assert "one, three left whole: other groups save more" in note(result, "one, three")
    assert "two 3 ms (58%)" in note(result, "latency table")
    (edit,) = result.edits
    assert isinstance(edit, KeepChannels)
    assert result.module(torch.randn(3, 1, 8, 8)).shape == (3, 4)


def test_a_layer_with_steps_is_cut_to_the_edge_of_a_step(tmp_path: Path) -> None:
    def law(widths: Mapping[str, int]) -> float:  # kernels that fill registers of 16 channels
        return 1.0 + sum(-(-widths[name] // 16) for name in LAYERS)

    result = pruned(law, 5.9 / 7, tmp_path)
    assert sorted(widths_of(result).values()) == [16, 16, 32] or sorted(widths_of(result).values()) == [16, 32, 32]
    assert law(widths_of(result)) <= 5.9 + 0.2


def test_what_does_not_add_up_is_corrected_by_one_measurement(tmp_path: Path) -> None:
    def law(widths: Mapping[str, int]) -> float:  # a convolution costs inputs times outputs
        return 0.5 + (widths["one"] * widths["two"] + widths["two"] * widths["three"]) / 32**2

    probe = LawfulProbe(law)
    result = pruned(probe, 0.5, tmp_path)
    assert law(widths_of(result)) <= 0.5 * 2.5 * 1.02
    searches = [text for text in result.notes if text.startswith("search ")]
    assert len(searches) >= 2, result.notes
    first = searches[0].split()
    assert float(first[2]) < float(first[5])  # the table alone promised too much
    assert probe.formats == {"int8"}  # the probe's own


def test_noise_changes_little(tmp_path: Path) -> None:
    draw = random.Random(1)
    law = linear(one=0.0, two=3.0, three=1.0)
    result = pruned(lambda widths: law(widths) * draw.uniform(0.999, 1.001), 0.6, tmp_path)
    assert law(widths_of(result)) <= 0.6 * 5 * 1.03
    assert widths_of(result)["one"] == 32
    assert note(result, "one left whole").endswith("narrowing saves no time on this target")


def test_a_goal_out_of_reach_says_what_can_be_reached(tmp_path: Path) -> None:
    with pytest.raises(PassFault, match=r"2 ms by the table.*is noise.*40%.*1\.5 ms.*method: depth"):
        pruned(linear(one=1.0, two=2.0, three=1.0), 0.3, tmp_path)


def test_a_goal_that_only_the_table_reaches_is_refused_by_measurement(tmp_path: Path) -> None:
    def law(widths: Mapping[str, int]) -> float:  # narrowing one layer alone helps, all three no more than one
        return 4.0 + min(widths.values()) / 32

    with pytest.raises(PassFault, match=r"4\.25 ms measured.*3 ms"):
        pruned(law, 0.6, tmp_path)


def test_a_goal_that_is_met_already_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassFault, match="nothing to prune"):
        pruned(linear(one=1.0, two=1.0, three=1.0), 1.5, tmp_path)


def test_groups_that_may_not_shrink_leave_no_choice(tmp_path: Path) -> None:
    with pytest.raises(PassFault, match=r"round_to.*method: depth"):
        pruned(linear(one=1.0, two=1.0, three=1.0), 0.5, tmp_path, rules=Rules({}, round_to=64))


def test_a_layers_own_ratio_is_the_most_it_may_lose(tmp_path: Path) -> None:
    rules = Rules({"two": 0.0, "three": 0.25}, max_pruning_ratio=0.75, round_to=8)
    result = pruned(linear(one=1.0, two=3.0, three=3.0), 0.85, tmp_path, rules=rules)
    assert widths_of(result)["two"] == 32 and widths_of(result)["three"] == 24


def test_a_candidate_that_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassFault, match=r"'one': 8.*candidate 2 of 9: cannot be compiled"):
        pruned(LawfulProbe(linear(one=1.0, two=1.0, three=1.0), refuses=1), 0.6, tmp_path)


def test_without_a_probe_it_says_where_one_comes_from(tmp_path: Path) -> None:
    with pytest.raises(PassFault, match="this job has no probe"):
        measure(network(), [Variant("itself", network)], Job.local(tmp_path), None)


class Memory:
    """A memo that outlives a run."""

    def __init__(self) -> None:
        self.kept: list[tuple[Mapping[str, Any], Any]] = []

    def __call__(self, key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        for known, value in self.kept:
            if known == key:
                return value
        self.kept.append((key, compute()))
        return self.kept[-1][1]


def test_the_table_is_measured_once(tmp_path: Path) -> None:
    memory = Memory()
    probe = LawfulProbe(linear(one=1.0, two=3.0, three=1.0))
    first = pruned(probe, 0.6, tmp_path, memo=memory)
    measured = len(probe.calls)
    again = pruned(probe, 0.6, tmp_path, memo=memory)
    assert len(probe.calls) == measured
    assert again.notes == first.notes
    assert all(torch.equal(a, b) for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True))


def test_a_killed_measurement_goes_on_where_it_was(tmp_path: Path) -> None:
    model = network()
    variants = [Variant(number, network) for number in range(AT_ONCE + 3)]
    memory = Memory()
    probe = LawfulProbe(linear(one=1.0, two=1.0, three=1.0), refuses=2)
    with pytest.raises(PassFault):
        measure(model, variants, Job.local(tmp_path, probe=probe, memo=memory), None)
    assert probe.calls == [AT_ONCE + 2, 5]
    found = measure(model, variants, Job.local(tmp_path, probe=probe, memo=memory), None)
    assert probe.calls == [AT_ONCE + 2, 5, 5]
    assert found.variants_ms == pytest.approx([4.0] * (AT_ONCE + 3))


def test_a_machine_that_slows_down_between_portions_does_not_show_in_the_table(tmp_path: Path) -> None:
    variants = [Variant(number, network) for number in range(AT_ONCE + 3)]
    probe = LawfulProbe(lambda widths: float(len(probe.calls)))
    found = measure(network(), variants, Job.local(tmp_path, probe=probe), None)
    assert found.variants_ms == pytest.approx([found.whole_ms] * len(variants))


def test_what_a_twin_differs_by_is_noise(tmp_path: Path) -> None:
    numbers = iter([4.0, 4.1, 3.9, 3.0])
    probe = LawfulProbe(lambda widths: next(numbers))
    found = measure(network(), [Variant("a", network), Variant("b", network)], Job.local(tmp_path, probe=probe), None)
    assert found.variants_ms == (3.9, 3.0) and found.noise_ms == pytest.approx(0.2)


def test_a_network_is_known_by_its_structure_not_its_weights() -> None:
    model = network()
    trained = replace(model, module=Net().eval())
    assert structure(model) == structure(trained)
    assert structure(model) != structure(network(16))
    strided = Net().eval()
    strided.two.stride = (2, 2)
    assert structure(model) != structure(replace(model, module=strided))


def test_a_network_is_known_by_the_code_beside_its_forward(tmp_path: Path) -> None:
    """``forward`` of many networks only calls another method, or a function."""
    text = (
        "from torch import nn\n"
        "def act(x):\n    return x.relu()\n"
        "class Own(nn.Linear):\n    def forward(self, x):\n        return self.inner(x)\n"
        "    def inner(self, x):\n        return act(super().forward(x))\n"
    )
    found = []
    for number, body in enumerate((text, text, text.replace("relu", "tanh"))):
        file = tmp_path / f"{number}.py"
        file.write_text(body)
        spec = importlib.util.spec_from_file_location("of_a_test", file)
        assert spec is not None and spec.loader is not None
        sys.modules["of_a_test"] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
            found.append(structure(replace(network(), module=module.Own(2, 2))))
        finally:
            del sys.modules["of_a_test"]
    assert found[0] == found[1] != found[2]


def test_on_a_real_runtime_the_network_gets_faster(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(8, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 8, 3, padding=1))
    signature = Signature(
        (TensorSpec("x", ("batch", 8, 32, 32), "float32"),), (TensorSpec("y", ("batch", 8, 32, 32), "float32"),)
    )
    model = TorchModel(module=net.eval(), signature=signature)
    example = [torch.randn(2, 8, 32, 32)]
    groups = find_groups(model.module, example).groups
    probe = TargetProbe(Target("here", "onnxruntime"), folder=tmp_path, sample=Sample(None, 1, 0), seconds=0.1)
    plan = Plan(lambda whole: 0.7 * whole, Rules({}, max_pruning_ratio=0.75, round_to=16), "fp32", widths=2)
    scores = score_groups(model.module, groups, "magnitude")
    result = fit(model, Job.local(tmp_path, probe=probe), groups, scores, example, plan)
    assert result.module.get_submodule("0").out_channels in (32, 64)
    whole, found = (float(text.split()[0]) for text in note(result, "latency: ").removeprefix("latency: ").split(" -> "))
    assert found < 0.75 * whole
