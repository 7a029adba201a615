"""The passes ``finetune`` and ``distill``: settings, training on a tiny task, and every fault before the first step."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from accel import catalog
from accel.compress.edits import add_edit_
from accel.compress.finetune import Distill, Finetune
from accel.compress.loss_settings import LossTerm
from accel.compress.train_settings import Augmentation, Train
from accel.compress.training.device import native_bf16
from accel.contracts import Batch, Job, Predict, Score, Split
from accel.errors import DataFault, ModelFault, PassFault, RecipeError, UsageError
from accel.model import Masks, Signature, TensorSpec, TorchModel
from accel.model_source import ModelSource
from accel.recipe.reader import read

Array = NDArray[Any]
CLASSES = 4
STEPS = Train(steps=40, batch_size=32, lr=0.05, amp="off")
FEW = replace(STEPS, steps=6)
LOGITS, TASK = LossTerm("logits", temperature=2.0), LossTerm("task")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn(count: int, seed: int) -> tuple[Array, Array]:
    """One pattern a class, and noise."""
    patterns = np.random.default_rng(0).standard_normal((CLASSES, 1, 8, 8))
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    return (patterns[labels] + generator.normal(0, 1.5, (count, 1, 8, 8))).astype(np.float32), labels.astype(np.int64)


class Patterns:
    """Training and selection data."""

    def __init__(self, labelled: bool = True) -> None:
        self.labelled = labelled
        self.images, self.labels = drawn(128, 1)

    def has(self, split: Split) -> bool:
        return split in ("training", "selection")

    def digest(self, split: Split) -> str:
        return split

    def training(self) -> Iterable[Batch]:
        for start in range(0, len(self.images), 16):
            yield Batch({"x": self.images[start : start + 16]}, self.labels[start : start + 16] if self.labelled else None)

    def selection(self) -> Iterable[Batch]:
        images, labels = drawn(128, 2)
        yield Batch({"x": images}, labels)

    def calibration(self) -> Iterable[Batch]:
        raise AssertionError("not to be read")

    validation = calibration

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        assert split == "selection"
        (batch,) = self.selection()
        assert batch.labels is not None
        hits = (np.asarray(predict(batch.inputs)[0]).argmax(1) == batch.labels).astype(np.float64)
        return {"top1": Score(float(hits.mean()), hits)}


class Net(nn.Module):
    def __init__(self, width: int, classes: int = CLASSES) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, 2, 1)
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width * 16, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.relu(self.bn(self.conv(x))).flatten(1))
        return out


def model(seed: int = 0, width: int = 4, classes: int = CLASSES) -> TorchModel:
    torch.manual_seed(seed)
    signature = Signature((TensorSpec("x", ("batch", 1, 8, 8), "float32"),), (TensorSpec("y", ("batch", classes), "float32"),))
    return TorchModel(module=Net(width, classes).eval(), signature=signature)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TorchModel:
    torch.set_num_threads(1)
    return Finetune(STEPS)(model(5, width=12), Job.local(tmp_path_factory.mktemp("teacher"), Patterns()))


def job(folder: Path, task: Patterns | None = None, **settings: Any) -> Job:
    folder.mkdir(exist_ok=True)
    return Job.local(folder, task or Patterns(), **settings)


def accuracy(trained: TorchModel) -> float:
    def predict(inputs: Mapping[str, Array]) -> list[Array]:
        with torch.no_grad():
            return [trained.module(torch.from_numpy(inputs["x"])).numpy()]

    return Patterns().score(predict, "selection")["top1"].value


def state(trained: TorchModel) -> dict[str, Tensor]:
    return copy.deepcopy(trained.module.state_dict())


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# -- settings -----------------------------------------------------------------------------------------------------------


def test_needs_follow_from_the_settings() -> None:
    assert Finetune().needs == {"training"}
    assert Finetune(Train(keep="best")).needs == {"training", "selection"}
    assert Finetune(losses=(LOGITS, TASK), teacher="baseline").needs == {"training", "teacher"}
    assert Distill().needs == {"training", "teacher"}
    assert Distill(teacher=ModelSource(factory="a.py:b")).needs == {"training", "teacher"}


@pytest.mark.parametrize("kind", [Finetune, Distill])
def test_settings_survive_a_round_trip(kind: type[Any]) -> None:
    source = ModelSource(factory="a.py:b", kwargs={"width": 3}, weights="w.pt")
    feature = LossTerm("feature", weight=0.5, student_layer="conv", teacher_layer="stem.0")
    step = kind(STEPS, (TASK, LossTerm("dkd", beta=2.0, standardize=True), feature), source)
    adapter = TypeAdapter(kind)
    assert adapter.validate_json(adapter.dump_json(step), strict=True) == step
    assert hash(step) == hash(adapter.validate_python(adapter.dump_python(step)))


@pytest.mark.parametrize(
    ("kind", "given", "says"),
    [
        (Finetune, {"losses": [{"type": "logits"}]}, "logits learn from a teacher, and there is none"),
        (Finetune, {"losses": [{"type": "task"}, {"type": "dkd"}, {"type": "feature", "student_layer": "a"}]}, "dkd, feature"),
        (Finetune, {"teacher": "baseline"}, "no term of losses asks it"),
        (Finetune, {"losses": []}, "at least 1 item"),
        (Finetune, {"losses": [{"weight": 1.0}]}, "Field required"),
        (Finetune, {"losses": [{"type": "logit"}]}, "'task', 'logits', 'dkd', 'feature' or 'attention'"),
        (Finetune, {"losses": [{"type": "task", "weight": 0.0}]}, "greater than 0"),
        (Finetune, {"losses": [{"type": "task", "weight": float("inf")}]}, "finite number"),
        (Distill, {"teacher": None}, "teacher"),
        (Distill, {"teacher": "base"}, "'baseline'"),
        (Distill, {"losses": [{"type": "task"}]}, "no term of losses asks it"),
        (Distill, {"losses": [{"type": "logits", "temperature": 0.0}]}, "greater than 0"),
        (Distill, {"losses": [{"type": "feature"}]}, "give student_layer"),
        (
            Distill,
            {"losses": [{"type": "feature", "student_layer": "a", "temperature": 2.0}]},
            "temperature belongs to terms of",
        ),
        (Distill, {"losses": [{"type": "attention", "student_layer": "a", "standardize": True}]}, "standardize belongs"),
        (Distill, {"losses": [{"type": "logits", "student_layer": "a"}]}, "student_layer belongs to terms of type feature"),
        (Distill, {"losses": [{"type": "logits", "teacher_layer": "a"}]}, "teacher_layer belongs"),
        (Distill, {"losses": [{"type": "logits", "beta": 2.0}]}, "beta belongs to terms of type dkd"),
        (Distill, {"losses": [{"type": "dkd", "alpha": 0.0, "beta": 0.0}]}, "leaves nothing to learn"),
        (Distill, {"losses": [{"type": "dkd"}], "train": {"augmentation": {"mixup": 0.2}}}, "which mixup blurs"),
        (Distill, {"losses": [{"type": "logits"}], "train": {"label_smoothing": 0.1}}, "losses has none"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(kind: type[Any], given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        TypeAdapter(kind).validate_python(given)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{type: finetune, losses: [{type: logits}]}", "logits learn from a teacher, and there is none; set teacher: baseline"),
        ("{type: distill, teacher: null}", "passes.0.teacher: found nothing"),
        ("{type: distill, teacher: {factory: 'a.py:b', torchvision: resnet18}}", "exactly one of factory, torchvision"),
        ("{type: distill, losses: [{type: feature}]}", "feature compares layers: give student_layer"),
        ("{type: distill, losses: []}", "passes.0.losses: found a list, allowed: at least 1"),
        ("{type: distill, losses: [{type: kd}]}", "found 'kd', allowed: task, logits, dkd, feature, attention"),
    ],
)
def test_a_recipe_that_distils_without_teacher_or_sense_is_refused_when_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str, says: str
) -> None:
    """Fault 13, the part of distillation: at the place in the file, before anything runs."""
    keys = {"finetune": "accel.compress.finetune:Finetune", "distill": "accel.compress.finetune:Distill"}
    monkeypatch.setattr(catalog, "PASSES", {**catalog.PASSES, **keys})
    (tmp_path / "d.npz").touch()
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "version: 1\nmodel: {torchvision: resnet18, inputs: [{name: x, shape: [batch, 3, 32, 32]}]}\n"
        "task: {type: image_classification}\ndata: {training: {arrays: d.npz}}\ntargets: [{backend: onnxruntime}]\n"
        f"passes:\n  - {entry}\n  - {{type: export_onnx}}\n"
    )
    with pytest.raises(RecipeError) as caught:
        read(path)
    assert [problem.line for problem in caught.value.problems] == [7]
    assert says in caught.value.problems[0].message


# -- training -----------------------------------------------------------------------------------------------------------


def test_finetune_trains_a_copy(tmp_path: Path) -> None:
    given = model()
    before = state(given)
    result = Finetune(STEPS)(given, job(tmp_path))
    assert same(state(given), before)
    assert accuracy(result) > accuracy(given) + 0.2
    assert not any(part.training for part in result.module.modules())
    assert result.signature == given.signature
    assert any("loss" in note and "40 steps" in note for note in result.notes)


@pytest.mark.parametrize(
    "losses",
    [
        Distill().losses,
        (LossTerm("dkd", beta=2.0, temperature=2.0), TASK),
        (LossTerm("logits", temperature=2.0, standardize=True), LossTerm("feature", weight=0.5, student_layer="conv")),
        (LOGITS, LossTerm("attention", weight=100.0, student_layer="conv")),
    ],
    ids=lambda losses: "+".join(term.type for term in losses),
)
def test_distill_beats_the_untrained_student_and_leaves_the_teacher_alone(
    tmp_path: Path, teacher: TorchModel, losses: tuple[LossTerm, ...]
) -> None:
    given, before = model(), state(teacher)
    result = Distill(STEPS, losses)(given, job(tmp_path, teacher=teacher))
    assert accuracy(result) > accuracy(given) + 0.2
    assert same(state(teacher), before)
    assert not any(part._forward_hooks for net in (teacher, given, result) for part in net.module.modules())
    assert all(parameter.requires_grad for parameter in result.module.parameters())


def test_a_student_learns_from_logits_where_nothing_is_labelled(tmp_path: Path, teacher: TorchModel) -> None:
    result = Distill(STEPS, (LOGITS,))(model(), job(tmp_path, Patterns(labelled=False), teacher=teacher))
    assert accuracy(result) > accuracy(model()) + 0.2


def test_edits_travel_and_masked_weights_stay_zero(tmp_path: Path, teacher: TorchModel) -> None:
    given = model()
    assert isinstance(given.module, Net)
    with torch.no_grad():
        given.module.head.weight[:, ::2] = 0
    add_edit_(given.module, Masks("unstructured", ("head.weight",)))
    result = Distill(FEW)(given, job(tmp_path, teacher=teacher))
    assert result.edits == given.edits == (Masks("unstructured", ("head.weight",)),)
    weight = result.module.get_parameter("head.weight")
    assert torch.equal(weight == 0, given.module.head.weight == 0)
    assert not torch.equal(weight, given.module.head.weight)


def test_the_same_seed_gives_the_same_weights(tmp_path: Path, teacher: TorchModel) -> None:
    step = Distill(FEW, (LOGITS, LossTerm("feature", student_layer="conv")))

    def trained(name: str, seed: int) -> dict[str, Tensor]:
        return state(step(model(), job(tmp_path / name, teacher=teacher, seed=seed)))

    first, second, other = trained("a", 3), trained("b", 3), trained("c", 4)
    assert same(first, second)
    assert not same(first, other)


class Killed(BaseException):
    pass


def test_a_killed_distillation_goes_on_and_ends_with_the_same_weights(tmp_path: Path, teacher: TorchModel) -> None:
    """The adapter is in the checkpoint too: without it the rest of the training would differ."""
    train = replace(FEW, steps=10, checkpoint_every_s=0.0)
    step = Distill(train, (LOGITS, LossTerm("feature", weight=2.0, student_layer="conv")))
    whole = step(model(), job(tmp_path / "whole", teacher=teacher))

    def kill(done: int, total: int, what: str) -> None:
        if total and done >= 5:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("accel.compress.training.run._PROGRESS_S", 0.0)
        step(model(), job(tmp_path / "killed", teacher=teacher, progress=kill))
    seen: list[str] = []
    again = step(model(), job(tmp_path / "killed", teacher=teacher, progress=lambda done, total, what: seen.append(what)))
    assert any("step 4" in what for what in seen), seen
    assert same(state(again), state(whole))
    assert again.notes[1:] == whole.notes and "went on after step 4" in again.notes[0]


def test_other_losses_do_not_go_on_from_the_same_checkpoint(tmp_path: Path, teacher: TorchModel) -> None:
    first = Distill(FEW)(model(), job(tmp_path, teacher=teacher))
    other = Distill(FEW, (LossTerm("logits", temperature=1.0),))(model(), job(tmp_path, teacher=teacher))
    assert not same(state(first), state(other))


PROCESS = """
import importlib.util, sys
from pathlib import Path
import torch, torch.distributed as dist
from accel.compress.training.state import state_digest, tensors_of

spec = importlib.util.spec_from_file_location("tiny", sys.argv[1])
tiny = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=int(sys.argv[2]), world_size=2)
torch.rand(int(sys.argv[2]) + 1)  # processes whose random numbers stand elsewhere
losses = (tiny.LOGITS, tiny.TASK, tiny.LossTerm("feature", student_layer="conv"))
step = tiny.Distill(tiny.replace(tiny.STEPS, steps=20), losses)
result = step(tiny.model(), tiny.job(Path(sys.argv[4]), teacher=tiny.model(5, width=12)))
print(state_digest(tensors_of(result.module)))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_distil_to_the_same_weights(tmp_path: Path) -> None:
    script = tmp_path / "process.py"
    script.write_text(PROCESS)
    (tmp_path / "job").mkdir()
    command = [sys.executable, str(script), __file__]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meeting"), str(tmp_path / "job")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert said[0][0] == said[1][0] != ""


# -- faults, each before the first step ---------------------------------------------------------------------------------


def untrained(folder: Path) -> bool:
    return not list(folder.glob("scratch/training_d*_*/checkpoint*"))


def test_a_teacher_of_other_classes_is_refused_before_training(tmp_path: Path) -> None:
    """Fault 37."""
    given, steps = model(), []

    def progress(done: int, total: int, what: str) -> None:
        steps.append(what)

    with pytest.raises(PassFault, match=r"distill: .*shape \(4, 4\), the teacher of \(4, 7\)"):
        Distill(FEW)(given, job(tmp_path, teacher=model(1, classes=7), progress=progress))
    assert steps == []
    assert untrained(tmp_path)


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        ((LossTerm("feature", student_layer="cnov", teacher_layer="conv"),), "distill: student_layer: .*did you mean 'conv'"),
        ((LossTerm("feature", student_layer="conv", teacher_layer="hed"),), "distill: teacher_layer: .*did you mean 'head'"),
    ],
)
def test_a_layer_that_is_not_there_is_refused(
    tmp_path: Path, teacher: TorchModel, losses: tuple[LossTerm, ...], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        Distill(FEW, losses)(model(), job(tmp_path, teacher=teacher))


def test_a_teacher_that_gives_nan_is_refused(tmp_path: Path) -> None:
    bad = model(1)
    with torch.no_grad():
        bad.module.get_parameter("head.bias")[0] = float("nan")
    with pytest.raises(ModelFault, match="distill: the teacher gives NaN"):
        Distill(FEW)(model(), job(tmp_path, teacher=bad))
    assert untrained(tmp_path)


def test_a_job_without_teacher_or_training_data_is_refused(tmp_path: Path, teacher: TorchModel) -> None:
    with pytest.raises(UsageError, match="distill: losses need a teacher, and the job has none"):
        Distill(FEW)(model(), job(tmp_path))
    steps: list[Finetune | Distill] = [Distill(FEW), Finetune(FEW)]
    for step in steps:
        with pytest.raises(DataFault, match="there is no training data"):
            step(model(), replace(job(tmp_path, teacher=teacher), task=None))


def test_labels_are_missed_by_terms_that_read_them(tmp_path: Path, teacher: TorchModel) -> None:
    steps: list[Finetune | Distill] = [Finetune(FEW), Distill(FEW, (LossTerm("dkd"),))]
    for number, step in enumerate(steps):
        with pytest.raises(DataFault, match="no labels"):
            step(model(), job(tmp_path / str(number), Patterns(labelled=False), teacher=teacher))


def test_the_teacher_computes_in_the_precision_of_the_student(tmp_path: Path, teacher: TorchModel) -> None:
    seen: list[torch.dtype] = []

    class Watched(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.inner(x)
            seen.append(out.dtype)
            return out

        def __deepcopy__(self, memo: dict[int, Any]) -> Watched:
            return Watched(copy.deepcopy(self.inner, memo))

    watched = replace(teacher, module=Watched(teacher.module).eval())
    result = Distill(replace(FEW, amp="bf16"))(model(), job(tmp_path, teacher=watched))
    assert seen[-6:] == [torch.bfloat16] * 6
    assert all(value.dtype == torch.float32 for value in result.module.parameters())


class OnlyFloat32(Net):
    def forward(self, x: Tensor) -> Tensor:
        if self.conv(x).dtype != torch.float32:
            raise RuntimeError('"special" not implemented for BFloat16')
        return super().forward(x)


@pytest.mark.skipif(not native_bf16(torch.device("cpu")), reason="this CPU has no bfloat16, so auto means FP32 anyway")
def test_a_teacher_that_cannot_compute_in_bfloat16_teaches_in_fp32(tmp_path: Path) -> None:
    given = model()
    taught = replace(given, module=OnlyFloat32(4).eval())
    for number, student in enumerate([given, taught]):
        result = Distill(replace(FEW, amp="auto"))(student, job(tmp_path / str(number), teacher=taught))
        assert any(f"in {'bfloat16' if student is given else 'FP32'} on cpu" in note for note in result.notes)


def test_mixed_labels_reach_the_teacher_and_the_task(tmp_path: Path, teacher: TorchModel) -> None:
    train = replace(STEPS, augmentation=Augmentation(mixup=0.2), label_smoothing=0.05)
    result = Distill(train)(model(), job(tmp_path, teacher=teacher))
    assert accuracy(result) > accuracy(model()) + 0.2
