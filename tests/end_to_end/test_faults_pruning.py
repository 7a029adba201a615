"""Faults 33 and 34 of the fault list, through the command a user types: pruning what cannot be pruned. See tests/FAULTS.md."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
  factory: network.py:{factory}
  weights: weights.safetensors
  inputs: [{{name: image, shape: [batch, 3, 24, 24]}}]
targets: [{{name: torch, backend: eager}}]
passes:
  - {entry}
"""
LINE = RECIPE.count("\n")

NETWORKS = """

class Chunked(nn.Module):
    def __init__(self):
        super().__init__()
        self.both = nn.Conv2d(3, 16, 3, padding=1)
        self.free = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        a, b = torch.relu(self.both(x)).chunk(2, 1)
        return self.head(torch.relu(self.free(a * b)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.free = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.last = nn.Conv2d(16, 12, 3, padding=1, stride=2)
        self.lstm = nn.LSTM(12, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        y = self.last(torch.relu(self.free(x))).flatten(2).transpose(1, 2)
        return self.head(self.lstm(y)[0][:, -1])


class OutputOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


class LstmOnly(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 12, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        return self.head(self.lstm(x.flatten(2).transpose(1, 2))[0][:, -1])
"""


def write(project: Project, factory: str, entry: str) -> None:
    """The recipe, and weights of the network that it names."""
    from safetensors.torch import save_file

    source = project.folder / "network.py"
    if "Chunked" not in source.read_text():
        with source.open("a") as file:
            file.write(NETWORKS)
    if factory != "net":
        space: dict[str, Any] = {}
        exec(source.read_text(), space)
        save_file(space[factory]().state_dict(), project.folder / "weights.safetensors")
    project.recipe.write_text(RECIPE.format(factory=factory, entry=entry))


def said(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error that a run ended with, once it is sure that it ended with one, in a sentence."""
    assert done.returncode == code, done.stderr
    assert "Traceback (most recent call last)" not in done.stderr
    assert "this is a bug" not in done.stderr
    assert done.stdout == ""
    return done.stderr[("\n" + done.stderr).index("\naccel: ") :]


def notes(project: Project) -> list[str]:
    (step,) = json.loads((project.out / "report.json").read_text())["steps"]
    return list(step["notes"])


# -- 33: what must not go --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "shrinks", "stays"),
    [
        ("Chunked", "free: 16 -> 8 channels", ("both left alone: with fewer channels it computes something else",)),
        (
            "Recurrent",
            "free: 16 -> 8 channels",
            (
                "last left alone: they pass through lstm (LSTM), whose channels cannot be cut",
                "lstm left alone: no channels can be cut from a LSTM",
            ),
        ),
    ],
)
def test_33_what_cannot_be_cut_is_left_alone_and_told(
    project: Project, network: str, shrinks: str, stays: tuple[str, ...]
) -> None:
    from accel.compress import saved
    from accel.imports import ImportPolicy

    write(project, network, "{type: prune, pruning_ratio: 0.5}")
    before = project.inputs()
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    told = notes(project)
    assert shrinks in told
    for reason in (*stays, "head left alone: the model's output 0 would shrink from "):
        assert any(note.startswith(reason) for note in told), told
    module: Any = saved.load(project.out / "targets" / "torch", policy=ImportPolicy(project.folder))
    assert module.free.out_channels == 8
    assert module.head.out_features == 4
    assert project.inputs() == before
    assert project.litter() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("OutputOnly", "head left alone: the model's output 0 would shrink from "),
        ("LstmOnly", "lstm left alone: no channels can be cut from a LSTM"),
    ],
)
def test_33_a_model_that_has_nothing_to_cut(project: Project, network: str, reason: str) -> None:
    write(project, network, "{type: prune}")
    before = project.inputs()
    error = said(project.accel("optimize", "recipe.yaml", "--no-benchmark"), 4)
    assert error.startswith("accel: prune: no channel of this model can be cut: "), error
    assert reason in error
    assert project.inputs() == before
    assert project.litter() == []
    assert not project.out.exists()


@pytest.fixture(scope="module")
def pruned(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """All but one channel of every group are gone. What is run in it afterwards fails, and leaves its output alone."""
    project = new_project(tmp_path_factory.mktemp("pruned") / "a project")
    write(project, "net", "{type: prune, pruning_ratio: 0.99}")
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    return project


@pytest.mark.slow
def test_33_a_group_is_never_emptied(pruned: Project) -> None:
    told = notes(pruned)
    assert "stem (and block.conv2): 16 -> 1 channels" in told
    assert "block.conv1: 16 -> 1 channels" in told
    assert pruned.litter() == []


@pytest.mark.slow
def test_what_ships_for_eager_is_read_back(pruned: Project, tmp_path: Path) -> None:
    """``edits.json`` and ``model.safetensors`` say it all: what is left are channels of the weights that went in."""
    import torch
    from safetensors.torch import load_file

    from accel.compress import saved
    from accel.imports import ImportPolicy
    from accel.model import KeepChannels

    shipped = pruned.out / "targets" / "torch"
    assert sorted(path.name for path in shipped.iterdir()) == ["edits.json", "manifest.json", "model.safetensors"]
    model = saved.load_model(shipped, policy=ImportPolicy(pruned.folder))
    assert [type(edit) for edit in model.edits] == [KeepChannels]
    before, after = load_file(pruned.folder / "weights.safetensors"), dict(model.module.named_parameters())
    assert after["stem.weight"].shape == (1, 3, 3, 3)
    kept = [index for index in range(16) if torch.equal(before["stem.weight"][index], after["stem.weight"][0])]
    assert len(kept) == 1
    assert torch.equal(before["head.weight"][:, kept], after["head.weight"])
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(shipped, elsewhere)
    space: dict[str, Any] = {"__name__": "network"}
    exec((pruned.folder / "network.py").read_text(), space)
    with torch.no_grad():
        outputs = model.module(images)
        assert torch.equal(saved.load(elsewhere, factory=space["net"])(images), outputs)
    assert outputs.shape == (2, 4)
    assert torch.isfinite(outputs).all()


# -- 34: what is asked for -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (
            "{type: prune, pruning_ratio_dict: {head: 0.5}}",
            "pruning_ratio_dict: 'head' names no layer whose channels can be cut",
        ),
        ("{type: prune, pruning_ratio: 0.01}", "no channel would be removed (the widest group has 16); raise pruning_ratio"),
        (
            "{type: prune, round_to: 64}",
            "round_to 64: no group is wider than that (the widest has 16 channels); lower round_to",
        ),
        ("{type: prune, ignored_layers: [blok]}", "ignored_layers: 'blok' matches no module"),
        ("{type: prune, constraint: {macs: 1}}", "macs cannot be brought to 1 of 725,824: with the fewest channels everywhere"),
        ("{type: prune, constraint: {params: 1000000}}", "constraint params: the model has 5,188, not more than the 1,000,000"),
    ],
    ids=["output layer", "too little", "round_to", "matches nothing", "out of reach", "is met"],
)
def test_34_a_goal_that_cannot_be_reached(pruned: Project, entry: str, reason: str) -> None:
    before, published = pruned.inputs(), pruned.published()
    error = said(pruned.accel("optimize", "recipe.yaml", "--no-benchmark", f"passes=[{entry}]"), 4)
    assert error.startswith("accel: prune: "), error
    assert reason in error
    assert pruned.inputs() == before
    assert pruned.published() == published
    assert pruned.litter() == []


REFUSED = {
    # entry, where in it the caret stands, what is said
    "ratio of 0": ("{type: prune, pruning_ratio: 0}", "0}", "passes.0.pruning_ratio: found 0, must be greater than 0"),
    "ratio of 1": ("{type: prune, pruning_ratio: 1}", "1}", "passes.0.pruning_ratio: found 1, must be less than 1"),
    "own ratio of 1": ("{type: prune, pruning_ratio_dict: {stem: 1}}", "1}", "pruning_ratio_dict.stem: found 1, must be less"),
    "NaN": ("{type: prune, pruning_ratio: .nan}", ".nan", "'.nan' is not a finite number"),
    "round_to 0": ("{type: prune, round_to: 0}", "0}", "passes.0.round_to: found 0, must be greater than or equal to 1"),
    "0%": ('{type: prune, constraint: {macs: "0%"}}', '"0%"', 'such as "40%" (more than 0%, less than 100%), nor a number'),
    "200%": ('{type: prune, constraint: {macs: "200%"}}', '"200%"', "passes.0.constraint.macs: found '200%'"),
    "forty": ("{type: prune, constraint: {params: forty}}", "forty", "'forty' is not a part that remains"),
    "below 0": ("{type: prune, constraint: {macs: -3}}", "-3", "passes.0.constraint.macs: found -3, must be greater than 0"),
    "no goal": ("{type: prune, constraint: {}}", "{}", "give one of macs, params and latency_ms"),
    "two units": ('{type: prune, constraint: {macs: "50%", params: "50%"}}', "{macs", "not macs and params"),
    "both": ('{type: prune, pruning_ratio: 0.5, constraint: {macs: "50%"}}', "{type", "are two goals; give one"),
    "no such target": (
        '{type: prune, constraint: {latency_ms: "50%", target: nowhere}}',
        "nowhere",
        "passes.0.constraint.target: there is no target 'nowhere'; the targets are torch",
    ),
    "target of macs": (
        '{type: prune, constraint: {macs: "50%", target: torch}}',
        "{macs",
        "target and precision are for latency",
    ),
    "no training data": (
        "{type: prune, importance: taylor}",
        "{type",
        "passes.0: prune needs training data; add data.training",
    ),
    "sparsity": ("{type: prune, sparsity: 0.5}", "sparsity", "a share of channels is `pruning_ratio`"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_34_what_cannot_be_meant_is_refused_at_its_place(project: Project, typed: Typed, what: str) -> None:
    entry, fragment, message = REFUSED[what]
    write(project, "net", entry)
    if what == "no training data":
        project.rewrite(
            "targets:", "data: {validation: {arrays: {path: images.npz}}}\ntask: {type: image_classification}\ntargets:"
        )
    line = LINE + (2 if what == "no training data" else 0)
    typed("optimize", "recipe.yaml").refused(2, f"recipe.yaml:{line}:{5 + entry.rindex(fragment)}: ", message)
    assert not project.out.exists()
    assert not project.cache.exists()
