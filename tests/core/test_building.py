"""The builder: what a pass is given, what names a step in the store, and what is said again where a step is stored."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import nn

from accel import catalog, onnx_file, probe
from accel.building import Builder
from accel.compress import saved
from accel.contracts import Job, Need
from accel.errors import PassFault, RecipeError
from accel.imports import ImportPolicy
from accel.model import KeepChannels, OnnxModel, RemoveBlock, TorchModel
from accel.model_source import ModelSource
from accel.recipe.reader import read
from accel.store import Store

torch.set_num_threads(1)

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 8, 3), nn.Sequential(Block(), Block())
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.relu(self.blocks(self.stem(x))).mean((2, 3)))


def net():
    torch.manual_seed(0)
    return Net()


def random():
    return Net()


def loads():
    made = Net()
    made.load_state_dict(torch.load(__file__.replace("network.py", "own.pt"), weights_only=True))
    return made
"""
METRIC = "def metric(outputs, labels):\n    return {value}\n"


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Watch:
    """Shows what it is given, and moves one bias."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    jobs: ClassVar[list[Job]] = []

    teacher: Literal["baseline"] | ModelSource | None = None
    reads: tuple[Literal["training", "calibration", "selection", "probe"], ...] = ()
    probe_target: str | None = None
    by: float = 1.0

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({*self.reads, *(("teacher",) if self.teacher is not None else ())})

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        self.jobs.append(job)
        module = copy.deepcopy(model.module)
        module.get_parameter("head.bias").data.add_(self.by)
        return replace(model, module=module).noting("moved")


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ToFile:
    """A file, whatever the model: quicker than an export."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[frozenset[Need]] = frozenset()

    def __call__(self, model: TorchModel, job: Job) -> OnnxModel:
        value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 1, 8, 8])
        out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1, 8, 8])
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out])
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.save(made, str(job.folder / "model.onnx"))
        return onnx_file.read(job.folder / "model.onnx")


@pytest.fixture(autouse=True)
def watch(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    assert sys.modules[Watch.__module__].Watch is Watch
    monkeypatch.setattr(
        catalog, "PASSES", {**catalog.PASSES, "watch": f"{Watch.__module__}:Watch", "to_file": f"{Watch.__module__}:ToFile"}
    )
    Watch.jobs.clear()
    return Watch.jobs


class Made:
    """A project of a user, and a builder for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[Mapping[str, Any]] = []
        (folder / "network.py").write_text(NETWORK)
        (folder / "metrics.py").write_text(METRIC.format(value=0.5))
        names: dict[str, Any] = {}
        exec(NETWORK, names)
        save_file(names["net"]().state_dict(), folder / "weights.safetensors")
        images = np.random.default_rng(0).standard_normal((24, 1, 8, 8)).astype(np.float32)
        np.savez(folder / "data.npz", inputs=images, labels=np.arange(24) % 3)
        Store(folder / "store").open()

    def builder(self, *passes: Mapping[str, Any], **sections: Any) -> Builder:
        document = {
            "version": 1,
            "model": {
                "factory": "network.py:net",
                "weights": "weights.safetensors",
                "inputs": [{"name": "x", "shape": ["batch", 1, 8, 8]}],
            },
            "task": {"type": "image_classification", "metrics": ["top1"]},
            "data": {"training": {"arrays": "data.npz", "batch_size": 8}, "calibration": {"arrays": "data.npz"}},
            "passes": passes,
            "targets": [{"name": "eager", "backend": "eager"}],
            **sections,
        }
        (self.folder / "recipe.yaml").write_text(json.dumps(document))
        return Builder(self.events.append, read(self.folder / "recipe.yaml"), self.folder / "store", ImportPolicy(self.folder))

    def build(self, *passes: Mapping[str, Any], target: str = "eager", **sections: Any) -> dict[str, Any]:
        self.events.clear()
        return self.builder(*passes, **sections).build(target)

    @property
    def warnings(self) -> list[str]:
        return [str(event["warning"]) for event in self.events if "warning" in event]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def bias(model: TorchModel) -> float:
    return model.module.get_parameter("head.bias")[0].item()


def cached(built: Mapping[str, Any]) -> list[bool]:
    return [step["cached"] for step in built["steps"]]


# -- teachers ---------------------------------------------------------------------------------------------------------


def test_the_baseline_teaches_as_it_was_before_the_first_pass(made: Made, watch: list[Job]) -> None:
    built = made.build({"type": "watch"}, {"type": "watch", "teacher": "baseline"})
    assert [job.teacher is None for job in watch] == [True, False]
    taught = watch[1].teacher
    assert taught is not None
    shipped = saved.load_model(Path(built["folder"]), policy=ImportPolicy(made.folder))
    assert bias(shipped) == pytest.approx(bias(taught) + 2) and not taught.module.training
    assert cached(made.build({"type": "watch"}, {"type": "watch", "teacher": "baseline"})) == [True, True]


def test_a_teacher_of_its_own_is_built_with_its_weights(made: Made, watch: list[Job]) -> None:
    other = {name: value + 5 for name, value in torch.load(_own(made, 5.0), weights_only=True).items()}
    save_file(other, made.folder / "teacher.safetensors")
    teacher = {"factory": "network.py:net", "weights": "teacher.safetensors"}
    made.build({"type": "watch", "teacher": teacher})
    assert watch[0].teacher is not None
    assert torch.equal(watch[0].teacher.module.get_parameter("head.bias"), other["head.bias"])
    assert cached(made.build({"type": "watch", "teacher": teacher})) == [True]
    save_file({name: value + 1 for name, value in other.items()}, made.folder / "teacher.safetensors")
    assert cached(made.build({"type": "watch", "teacher": teacher})) == [False]


def _own(made: Made, value: float) -> Path:
    names: dict[str, Any] = {}
    exec(NETWORK, names)
    module: nn.Module = names["net"]()
    module.get_parameter("head.bias").data.fill_(value)
    torch.save(module.state_dict(), made.folder / "own.pt")
    return made.folder / "own.pt"


def test_a_teacher_whose_factory_loads_its_weights_is_known_by_them(made: Made, watch: list[Job]) -> None:
    """The file is named in code alone; a step that learned from other weights is not this one."""
    teacher = {"factory": "network.py:loads"}
    _own(made, 1.0)
    assert cached(made.build({"type": "watch", "teacher": teacher})) == [False]
    assert cached(made.build({"type": "watch", "teacher": teacher})) == [True]
    _own(made, 2.0)
    assert cached(made.build({"type": "watch", "teacher": teacher})) == [False]
    assert watch[-1].teacher is not None and bias(watch[-1].teacher) == 2.0


def test_the_code_of_a_teachers_factory_counts(made: Made, tmp_path: Path) -> None:
    (made.folder / "teachers.py").write_text(NETWORK)
    teacher = {"factory": "teachers.py:net", "weights": "weights.safetensors"}
    made.build({"type": "watch", "teacher": teacher})
    (made.folder / "teachers.py").write_text(NETWORK.replace("torch.relu(self.blocks", "torch.tanh(self.blocks"))
    assert cached(made.build({"type": "watch", "teacher": teacher})) == [False]


def test_a_random_teacher_is_told_each_time(made: Made) -> None:
    for _ in range(2):
        made.build({"type": "watch", "teacher": {"factory": "network.py:random"}})
        assert [text for text in made.warnings if text.startswith("teacher: weights are random")], made.warnings


# -- data and judgement -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "split", "again"),
    [("training", "training", True), ("calibration", "calibration", True), ("training", "calibration", False)],
)
def test_how_many_samples_a_module_sees_together_names_the_step(made: Made, reads: str, split: str, again: bool) -> None:
    data = {"training": {"arrays": "data.npz", "batch_size": 8}, "calibration": {"arrays": "data.npz", "batch_size": 8}}
    made.build({"type": "watch", "reads": [reads]}, data=data)
    changed = {**data, split: {"arrays": "data.npz", "batch_size": 12}}
    assert cached(made.build({"type": "watch", "reads": [reads]}, data=changed)) == [not again]


def test_what_judges_selection_names_the_step_and_what_it_remembers(made: Made, watch: list[Job]) -> None:
    def build(metric: str, *reads: str) -> bool:
        task = {"type": "image_classification", "metrics": [metric]}
        return cached(made.build({"type": "watch", "reads": reads}, task=task))[0]

    assert [build("top1", "selection"), build("top1", "selection"), build("top5", "selection")] == [False, True, False]
    assert [build("metrics.py:metric", "selection"), build("metrics.py:metric", "selection")] == [False, True]
    counted = iter(range(3))
    found = [job.memo({"what": "a table"}, lambda: next(counted)) for job in (watch[-1], watch[-1], watch[0])]
    assert found == [0, 0, 1]  # by another metric it is another table
    assert [build("top1", "calibration"), build("top5", "calibration")] == [False, True]


def test_the_code_of_a_metric_counts(made: Made) -> None:
    task = {"type": "image_classification", "metrics": ["metrics.py:metric"]}
    step = {"type": "watch", "reads": ["selection"]}
    made.build(step, task=task)
    (made.folder / "metrics.py").write_text(METRIC.format(value=0.25))
    assert cached(made.build(step, task=task)) == [False]


def test_a_memo_outlives_the_run_and_keeps_what_json_holds(made: Made, watch: list[Job]) -> None:
    made.build({"type": "watch"})
    made.build({"type": "watch", "by": 2.0})
    first, second = watch
    key = {"what": "a table", "version": 1, "widths": {"one": 8}}
    assert first.memo(key, lambda: {"ms": [1.5, None]}) == {"ms": [1.5, None]}

    def fails() -> Any:
        raise AssertionError("it is known")

    assert second.memo(copy.deepcopy(key), fails) == {"ms": [1.5, None]}
    assert second.memo({**key, "version": 2}, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        second.memo({"what": "fails"}, lambda: 1 // 0)
    assert second.memo({"what": "fails"}, lambda: 1) == 1  # a failure is not remembered


# -- probes -----------------------------------------------------------------------------------------------------------

ORT = {"name": "ort", "backend": "onnxruntime"}
OV = {"name": "ov", "backend": "openvino"}


def timed(made: Made, target: str = "ort", named: str | None = None, **sections: Any) -> dict[str, Any]:
    """The step of a pass that times its candidates, built for ``target`` and told to measure on ``named``."""
    sections = {"targets": [ORT, OV], **sections}
    step = {"type": "watch", "reads": ["probe"], **({"probe_target": named} if named else {})}
    found: dict[str, Any] = made.build(step, {"type": "to_file"}, target=target, **sections)["steps"][0]
    return found


def test_a_probe_is_of_the_named_target_or_else_of_each(made: Made, watch: list[Job]) -> None:
    benchmark = {"batch_sizes": [4], "threads": 2}
    keys = [timed(made, target, named, benchmark=benchmark)["key"] for target, named in (("ort", None), ("ov", None))]
    assert keys[0] != keys[1] and len(watch) == 2
    for job, backend in zip(watch, ("onnxruntime", "openvino"), strict=True):
        assert job.probe is not None and job.target is None
        assert job.probe.precision == "fp32"  # no later pass quantizes
        timing = job.probe.identity["target"]
        assert (timing["backend"], timing["batch"], timing["threads"]) == (backend, 4, 2)
    named = [timed(made, target, "ov", benchmark=benchmark) for target in ("ort", "ov")]
    assert named[0]["key"] == named[1]["key"] and [step["cached"] for step in named] == [False, True]


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ({"targets": [{**ORT, "name": "other"}]}, False),
        ({"benchmark": {"threads": 2}}, True),
        ({"benchmark": {"batch_sizes": [2]}}, True),
        ({"targets": [{**ORT, "options": {"graph_optimization_level": "basic"}}]}, True),
    ],
)
def test_what_a_timing_depends_on_names_the_step(made: Made, change: dict[str, Any], again: bool) -> None:
    timed(made)
    assert timed(made, change.get("targets", [ORT])[0]["name"], **change)["cached"] != again


@pytest.mark.parametrize("changed", ["cpu_name", "library_version"])
def test_a_step_chosen_by_timing_is_not_that_of_another_machine_or_runtime(
    made: Made, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    assert [timed(made)["cached"], timed(made)["cached"]] == [False, True]
    monkeypatch.setattr(probe, changed, lambda *name: "another")
    assert not timed(made)["cached"]


def test_a_later_quantize_pass_makes_the_probe_one_of_int8(made: Made) -> None:
    builder = made.builder({"type": "watch", "reads": ["probe"]}, {"type": "export_onnx"}, {"type": "quantize"}, targets=[ORT])
    found = builder._probe(Watch(reads=("probe",)), builder._targets["ort"])
    assert found is not None and found.precision == "int8"


def test_a_timing_on_a_target_that_runs_no_files_is_refused_with_the_recipe(made: Made) -> None:
    step = {"type": "prune", "constraint": {"latency_ms": "50%"}}
    with pytest.raises(RecipeError, match=r"eager \(eager\) runs none; name another target"):
        made.builder(step)
    assert made.builder(step, {"type": "to_file"}, targets=[ORT])
    with pytest.raises(RecipeError, match="there is no target 'ord'; did you mean 'ort'"):
        made.builder({**step, "constraint": {"latency_ms": "50%", "target": "ord"}}, {"type": "to_file"}, targets=[ORT])


# -- what a step leaves -----------------------------------------------------------------------------------------------


def test_a_pruned_module_ships_with_its_weights_and_edits(made: Made) -> None:
    built = made.build({"type": "prune", "pruning_ratio": 0.25}, {"type": "prune", "method": "depth"})
    folder = Path(built["folder"])
    assert sorted(path.name for path in folder.iterdir()) == ["edits.json", "model.safetensors"]
    assert built["model"]["kind"] == "torch" and built["model"]["main"] is None
    shipped = saved.load_model(folder, policy=ImportPolicy(made.folder))
    channels, block = shipped.edits
    assert isinstance(channels, KeepChannels) and isinstance(block, RemoveBlock)
    assert shipped.module.get_parameter("stem.weight").shape[0] == 6
    assert isinstance(shipped.module.get_submodule(block.path), nn.Identity)
    assert str(made.folder) not in (folder / "edits.json").read_text()
    steps = [step["notes"] for step in built["steps"]]
    assert not set(steps[0]) & set(steps[1]) and all(steps)


def test_the_models_own_notes_are_said_again_where_its_steps_are_stored(made: Made) -> None:
    model = {"factory": "network.py:random", "inputs": [{"name": "x", "shape": ["batch", 1, 8, 8]}]}
    for again in (False, True):
        built = made.build({"type": "watch"}, {"type": "watch"}, model=model)
        assert cached(built) == [again, again]
        assert any("weights are random" in text for text in made.warnings)
        assert [step["notes"] for step in built["steps"]] == [["moved"], ["moved"]]


def test_a_pass_that_changes_nothing_is_refused_now_and_when_it_is_stored(made: Made) -> None:
    for _ in range(2):
        with pytest.raises(PassFault, match="watch: changed nothing"):
            made.build({"type": "watch", "by": 0.0})
    assert cached(made.build({"type": "watch", "by": 0.0, "allow_noop": True})) == [True]


def _without_origin(model: TorchModel, job: Job) -> TorchModel:
    return replace(model, origin=None)


def _in_training(model: TorchModel, job: Job) -> TorchModel:
    return replace(model, module=copy.deepcopy(model.module).train())


def _state_beside(model: TorchModel, job: Job) -> TorchModel:
    module = copy.deepcopy(model.module)
    module.get_submodule("blocks").register_forward_hook(lambda part, inputs, output: output * 2)
    return replace(model, module=module)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (_without_origin, "watch: gave a module without its origin"),
        (_in_training, "watch: left .* in training mode"),
        (_state_beside, "watch: the module does not read back as it was"),
    ],
)
def test_a_module_that_cannot_be_stored_names_its_pass(
    made: Made, monkeypatch: pytest.MonkeyPatch, call: Callable[[TorchModel, Job], TorchModel], says: str
) -> None:
    monkeypatch.setattr(Watch, "__call__", lambda self, model, job: call(model, job))
    monkeypatch.setattr("accel.recipe.checks.takes", lambda found: frozenset({"TorchModel"}))
    with pytest.raises(PassFault, match=says):
        made.build({"type": "watch"})
