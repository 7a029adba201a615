"""Faults 13 (what trains), 36 and 37 of the fault list, through the command a user types. See tests/FAULTS.md."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess

    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

RECIPE = """\
version: 1
name: small
seed: 3
model:
  factory: network.py:net
  weights: weights.safetensors
  inputs: [{name: image, shape: [batch, 3, 24, 24]}]
task: {type: image_classification, metrics: [top1], preprocess: {color: rgb, mean: [0.5], std: [0.25]}}
data:
  training: {arrays: {path: images.npz}, num_samples: 32, batch_size: 8}
  calibration: {arrays: {path: images.npz}, num_samples: 16}
  validation: {arrays: {path: images.npz}, skip: 32}
targets: [{name: torch, backend: eager}]
passes:
"""

TEACHERS = """

class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 7)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def wide():
    return Wide()
"""


def with_passes(project: Project, *entries: str) -> None:
    project.recipe.write_text(RECIPE + "".join(f"  - {entry}\n" for entry in entries))


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error that a run ended with, once it is sure that it ended with one, in a sentence."""
    assert done.returncode == code, done.stderr
    assert "Traceback (most recent call last)" not in done.stderr
    assert "this is a bug" not in done.stderr
    assert done.stdout == ""
    return done.stderr[("\n" + done.stderr).index("\naccel: ") :]


# -- 13: what the recipe alone tells ---------------------------------------------------------------------------------------

EXPORT = "{type: export_onnx}"
QAT = "{type: quantize, approach: qat}"

REFUSED: dict[str, tuple[tuple[str, ...], int, str, str]] = {
    # passes, the one that is refused, where in it the caret stands, what is said
    "losses empty": (("{type: distill, losses: []}",), 0, "[]", "losses: found a list, allowed: at least 1 of them"),
    "loss unknown": (("{type: distill, losses: [{type: kd}]}",), 0, "kd", "allowed: task, logits, dkd, feature, attention"),
    "temperature below zero": (
        ("{type: distill, losses: [{type: logits, temperature: -1}]}",),
        0,
        "-1",
        "losses.0.temperature: found -1, must be greater than 0",
    ),
    "weight of zero": (("{type: distill, losses: [{type: logits, weight: 0}]}",), 0, "0}", "weight: found 0, must be greater"),
    "feature without layer": (
        ("{type: distill, losses: [{type: feature}]}",),
        0,
        "{type: feature}",
        "feature compares layers: give student_layer",
    ),
    "features for qat": (
        ("{type: quantize, approach: qat, teacher: baseline, losses: [{type: feature, student_layer: block}]}",),
        0,
        "{",
        "use logits or dkd here, and feature or attention in a distill pass before",
    ),
    "epochs and steps": (("{type: distill, train: {epochs: 1, steps: 2}}",), 0, "{epochs", "give one of epochs and steps"),
    "no epochs": (("{type: finetune, train: {epochs: 0}}",), 0, "0}", "train.epochs: found 0, must be greater than 0"),
    "no steps": (("{type: finetune, train: {steps: 0}}",), 0, "0}", "train.steps: found 0, must be greater than 0"),
    "no rate": (("{type: finetune, train: {lr: 0}}",), 0, "0}", "train.lr: found 0, must be greater than 0"),
    "rate below its end": (("{type: finetune, train: {lr: 0.01, min_lr: 0.1}}",), 0, "{lr", "min_lr 0.1 is above lr 0.01"),
    "epoch for epochs": (("{type: finetune, train: {epoch: 2}}",), 0, "epoch", "unknown key 'epoch'; did you mean 'epochs'?"),
    "cubic without train": (("{type: sparsify, schedule: cubic}",), 0, "{", "give train, such as {epochs: 10}"),
    "cubic keeps best": (
        ("{type: sparsify, schedule: cubic, train: {keep: best}}",),
        0,
        "{",
        "best may keep weights from before the last are removed",
    ),
    "sparsity of one": (("{type: sparsify, sparsity: 1}",), 0, "1}", "sparsity: found 1, must be less than 1"),
    "4:2": (('{type: sparsify, pattern: "4:2"}',), 0, '"4:2"', "neither 'unstructured' nor n:m with 0 < n < m"),
    "teacher that nobody asks": (
        ("{type: finetune, teacher: baseline}",),
        0,
        "{",
        "teacher: no term of losses asks it; add one, such as {type: logits, weight: 0.9}, or leave teacher out",
    ),
    "distill from labels alone": (("{type: distill, losses: [{type: task}]}",), 0, "{", "teacher: no term of losses asks it"),
    "logits without a teacher": (
        ("{type: finetune, losses: [{type: logits}]}",),
        0,
        "{",
        "logits learn from a teacher, and there is none; set teacher: baseline, or name a model",
    ),
    "distill without a teacher": (("{type: distill, teacher: null}",), 0, "null", "teacher: found nothing, allowed: "),
    "teacher of two sources": (
        ('{type: distill, teacher: {factory: "network.py:net", torchvision: resnet18}}',),
        0,
        "{factory",
        "takes exactly one of factory, torchvision; found factory and torchvision",
    ),
    "teacher of none": (
        ("{type: distill, teacher: {weights: weights.safetensors}}",),
        0,
        "{weights",
        "takes exactly one of factory, torchvision; found none",
    ),
    "teacher's weights outside": (
        ('{type: distill, teacher: {factory: "network.py:net", weights: ../w.pt}}',),
        0,
        "../w.pt",
        "passes.0.teacher.weights: '../w.pt' leaves the recipe's folder",
    ),
    "teacher's file missing": (
        ('{type: distill, teacher: {factory: "nowhere.py:net"}}',),
        0,
        '"nowhere.py:net"',
        "passes.0.teacher.factory: nowhere.py:net: no file nowhere.py in the recipe's folder",
    ),
    "qat after the export": (
        (EXPORT, QAT),
        1,
        "{",
        "quantize takes a TorchModel, but export_onnx before it gives an OnnxModel; move it before the pass that makes the",
    ),
    "qat and static": (
        (QAT, EXPORT, "{type: quantize, approach: static}"),
        2,
        "{",
        "the model is quantized already, by passes.0; keep one of the two",
    ),
    **{
        f"{name} after the export": (
            (EXPORT, f"{{type: {name}}}"),
            1,
            "{",
            f"{name} takes a TorchModel, but export_onnx before it gives an OnnxModel; move it before the pass that makes",
        )
        for name in ("prune", "sparsify", "finetune", "distill", "bn_reestimate")
    },
}


@pytest.mark.parametrize("what", REFUSED)
def test_13_what_cannot_be_trained_is_refused_at_its_place(project: Project, typed: Typed, what: str) -> None:
    entries, index, fragment, message = REFUSED[what]
    with_passes(project, *entries)
    line = RECIPE.count("\n") + 1 + index
    column = 5 + entries[index].rindex(fragment) if fragment != "{" else 5
    typed("optimize", "recipe.yaml").refused(2, f"recipe.yaml:{line}:{column}: passes.{index}", message)
    assert not project.out.exists()
    assert not project.cache.exists()


@pytest.mark.parametrize("entry", ["{type: finetune}", "{type: distill}", QAT, "{type: sparsify, train: {steps: 2}}"])
def test_13_no_data_to_train_on(project: Project, typed: Typed, entry: str) -> None:
    with_passes(project, entry)
    project.rewrite("  training: {arrays: {path: images.npz}, num_samples: 32, batch_size: 8}\n", "")
    name = re.findall(r"\w+", entry)[1]
    typed("optimize", "recipe.yaml").refused(
        2, "recipe.yaml:14:5: ", f"passes.0: {name} needs training data; add data.training"
    )


def test_13_qat_has_to_begin_from_something(project: Project, typed: Typed) -> None:
    with_passes(project, QAT)
    project.rewrite("  calibration: {arrays: {path: images.npz}, num_samples: 16}\n", "")
    typed("optimize", "recipe.yaml").refused(2, "passes.0: quantize needs calibration data; add data.calibration")


@pytest.mark.parametrize(
    "entry",
    ["{type: prune}", "{type: sparsify}", "{type: finetune}", "{type: distill}", QAT, "{type: bn_reestimate}"],
)
def test_13_a_runtime_wants_a_file(project: Project, typed: Typed, entry: str) -> None:
    with_passes(project, entry)
    project.rewrite("backend: eager", "backend: onnxruntime")
    name = re.findall(r"\w+", entry)[1]
    typed("optimize", "recipe.yaml").refused(
        2,
        "recipe.yaml:13:11: targets.0: ",
        f"onnxruntime takes an OnnxModel, but {name} before it gives a TorchModel; put `- type: export_onnx` before it",
    )


# -- 36: the loss becomes NaN ----------------------------------------------------------------------------------------------

TRAINED = (
    "{type: finetune, train: {steps: 6, lr: 0.01, checkpoint_every_s: 0}}",
    "{type: sparsify, schedule: cubic, update_every: 1, train: {steps: 6, lr: 0.01, checkpoint_every_s: 0}}",
    "{type: distill, train: {steps: 6, lr: 0.01, checkpoint_every_s: 0}}",
    "{type: quantize, approach: qat, train: {steps: 6, checkpoint_every_s: 0}}",
)
NAMES = ("finetune", "sparsify", "distill", "quantize")


@pytest.fixture(scope="module")
def trained(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A chain of all that trains, run once. What is run in it afterwards fails, and has to leave its output alone."""
    project = new_project(tmp_path_factory.mktemp("trained") / "a project")
    with_passes(project, *TRAINED)
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    return project


@pytest.mark.slow
@pytest.mark.parametrize("index", range(4), ids=NAMES)
def test_36_a_loss_that_is_no_number_stops_at_its_step(trained: Project, index: int) -> None:
    before, published = trained.inputs(), trained.published()
    done = trained.accel("optimize", "recipe.yaml", "--no-benchmark", f"passes.{index}.train.lr=1e12")
    error = said(done, 4)
    found = re.match(rf"accel: {NAMES[index]}: step ([2-6]) of 6 \(epoch [12]\): ", error)
    assert found, error
    assert re.search(r"the loss is (nan|inf)|holds (NaN|Inf)", error), error
    assert "; try a lower train.lr, train.clip_norm: 1.0" in error
    _require_good_state(error, int(found[1]))
    assert trained.inputs() == before
    assert trained.published() == published
    assert trained.litter(scratch=False) == []


def _require_good_state(error: str, step: int) -> None:
    """What the error names is a checkpoint from before ``step``, and all of it is finite."""
    import torch

    from accel.compress.training import checkpoint as training_checkpoint

    named = re.search(r"the last good state is in (.*)/checkpoint\.safetensors$", error.strip())
    assert named, error
    kept = training_checkpoint.read(Path(named[1]))
    assert kept is not None
    assert 0 < kept.record["step"] < step
    assert kept.tensors["module"]
    assert all(torch.isfinite(value).all() for value in kept.tensors["module"].values())


@pytest.mark.slow
def test_36_the_same_again_with_a_sane_rate_works(
    new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """After the failure, and in the same store."""
    project = new_project(tmp_path_factory.mktemp("again") / "a project")
    with_passes(project, TRAINED[0])
    said(project.accel("optimize", "recipe.yaml", "--no-benchmark", "passes.0.train.lr=1e12"), 4)
    assert not project.out.exists()
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    (step,) = json.loads((project.out / "report.json").read_text())["steps"]
    assert "6 steps of 8 samples" in step["notes"][0]
    cleared = project.accel("cache", "clear")
    assert cleared.returncode == 0, cleared.stderr
    assert list((project.cache / "accel" / "scratch").iterdir()) == [], "a checkpoint is kept until the cache is cleared"


@pytest.mark.slow
def test_36_data_of_another_scale(trained: Project) -> None:
    """It is no number from the first step on: there is no good state to name."""
    published = trained.published()
    error = said(trained.accel("optimize", "recipe.yaml", "--no-benchmark", "task.preprocess.std=[1e-37]"), 4)
    assert error.startswith("accel: finetune: step 1 of 6 (epoch 1): the loss is nan; try a lower train.lr"), error
    assert "last good state" not in error
    assert trained.published() == published
    assert trained.litter(scratch=False) == []


@pytest.mark.slow
def test_what_ships_for_eager_is_read_back_with_masks_and_rounding(trained: Project) -> None:
    """``edits.json`` and ``model.safetensors`` alone, by the code that the recipe names."""
    import torch

    from accel.compress import saved
    from accel.imports import ImportPolicy
    from accel.model import Masks, QuantizeAware

    model = saved.load_model(trained.out / "targets" / "torch", policy=ImportPolicy(trained.folder))
    assert [type(edit) for edit in model.edits] == [Masks, QuantizeAware]
    report = json.loads((trained.out / "report.json").read_text())
    step = trained.cache / "accel" / "steps" / report["steps"][-1]["key"] / "files"
    other = saved.load_model(step, policy=ImportPolicy(trained.folder))
    images = torch.rand(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model.module(images), other.module(images))
    weights = dict(model.module.named_parameters())
    masked = [value for name, value in weights.items() if name.endswith("conv1.weight")]
    assert [round(float((value == 0).float().mean()), 1) for value in masked] == [0.5]


@pytest.mark.slow
def test_36_statistics_that_overflow_are_no_result(trained: Project) -> None:
    """A running variance of infinity makes every output of its layer 0: finite, and dead."""
    published = trained.published()
    passes = "passes=[{type: finetune, train: {steps: 3, lr: 1e6, amp: 'off'}}]"
    error = said(trained.accel("optimize", "recipe.yaml", "--no-benchmark", passes), 4)
    assert error.startswith("accel: finetune: step 3 of 3 (epoch 1): "), error
    assert "holds Inf" in error
    assert trained.published() == published


# -- 37: a teacher that cannot teach ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = new_project(tmp_path_factory.mktemp("taught") / "a project")
    with (project.folder / "network.py").open("a") as file:
        file.write(TEACHERS)
    with_passes(project, "{type: distill, train: {steps: 2, checkpoint_every_s: 0}}")
    return project


@pytest.mark.slow
@pytest.mark.parametrize(
    ("teacher", "code", "words"),
    [
        (
            "{factory: 'network.py:wide'}",
            4,
            ("distill: losses: the student gives outputs of shape (4, 4), the teacher of (4, 7)", "logits compare them class"),
        ),
        (
            "{factory: 'network.py:wide', weights: weights.safetensors}",
            4,
            ("weights.safetensors: its keys are not the model's",),
        ),
        (
            "{factory: 'network.py:net', kwargs: {channels: 24}, weights: weights.safetensors}",
            4,
            ("weights.safetensors: shapes are not the model's", "block.bn1.bias [16], the model has [24]"),
        ),
        ("{factory: 'network.py:net', kwargs: {channel: 8}}", 2, ("network.py:net", "unexpected keyword argument 'channel'")),
        ("{factory: 'network.py:nett'}", 2, ("network.py has no 'nett'", "wide")),
        ("{factory: 'network.py:net', weights: nowhere.pt}", 2, ("passes.0.teacher.weights: there is no such file",)),
        ("{factory: 'somebody.models:net'}", 5, ("recipes may not import 'somebody.models'", "--allow-import somebody")),
        ("{factory: 'os:system'}", 5, ("recipes may not import 'os'",)),
    ],
    ids=["classes", "keys", "shapes", "kwargs", "name", "weights", "package", "os.system"],
)
def test_37_a_teacher_that_cannot_teach(taught: Project, teacher: str, code: int, words: tuple[str, ...]) -> None:
    before = taught.inputs()
    error = said(taught.accel("optimize", "recipe.yaml", "--no-benchmark", f"passes.0.teacher={teacher}"), code)
    for part in words:
        assert part in error
    assert not re.search(r"step \d", error), "it was found out in training"
    assert list(taught.cache.rglob("checkpoint.safetensors")) == []
    assert taught.inputs() == before
    assert taught.litter(scratch=False) == []
    assert not taught.out.exists()
