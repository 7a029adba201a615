"""Accuracy control through the command line, on both CPU runtimes: a network built to break, and a budget nothing can keep."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

BROKEN = "third/Conv"

NETWORK = """
from pathlib import Path

import numpy as np
import torch
from torch import nn


class Breakable(nn.Module):
    # Channel 0 of what `second` gives is a thousand times larger than the others, and `third` weighs it a thousand times less.

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.fourth = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(288, 4)
        with torch.no_grad():
            self.second.weight[0] *= 1000
            self.second.bias[0] *= 1000
            self.third.weight[:, 0] /= 1000

    def forward(self, x):
        x = torch.relu(self.third(torch.relu(self.second(torch.relu(self.first(x))))))
        return self.head(torch.relu(x + self.fourth(x)).flatten(1))


def breakable():
    torch.manual_seed(11)
    return Breakable().eval()


def closeness(outputs, labels):
    # 0 where every output is one that the float network gives; what is in INT8 gives none of them.
    known = np.load(Path(__file__).with_name("logits.npy"))
    return -np.abs(outputs[0][:, None] - known[None]).mean(2).min(1)
"""

RECIPE = """\
version: 1
name: small
model:
  factory: network.py:breakable
  inputs: [{name: image, shape: [batch, 3, 12, 12]}]
task: {type: image_classification, metrics: [top1, "network.py:closeness"]}
data:
  calibration: {arrays: {path: images.npz}, num_samples: 48}
  selection: {arrays: {path: images.npz}, skip: 48, num_samples: 96}
  validation: {arrays: {path: images.npz}, skip: 144}
passes:
  - type: export_onnx
  - {type: simplify, allow_noop: true}
  - {type: quantize, approach: static, accuracy_control: {max_drop: 0.05, timeout: 120}}
targets:
  - {name: ort, backend: onnxruntime}
  - {name: ov, backend: openvino}
  - {name: torch, backend: eager}
benchmark: {min_duration_s: 0.1, min_iterations: 20, max_duration_s: 0.2}
report: {formats: [json, md, html], layers: false, roofline: false}
"""
IMPOSSIBLE = '{max_drop: 0, metric: "network.py:closeness", timeout: 100}'


def images() -> tuple[Any, Any, Any]:
    """Samples whose answer the float network gives clearly, that answer, and what it gives for them."""
    import torch

    space: dict[str, Any] = {}
    exec(NETWORK, space)
    chance = np.random.default_rng(1)
    drawn = (chance.standard_normal((480, 3, 12, 12)) + chance.normal(0, 1.5, (480, 3, 1, 1))).astype(np.float32)
    with torch.no_grad():
        logits = space["breakable"]()(torch.from_numpy(drawn)).numpy()
    best = np.sort(logits, axis=1)
    clear = np.sort(np.argsort(best[:, -2] - best[:, -1])[:240])
    return drawn[clear], logits[clear].argmax(1).astype(np.int64), logits[clear]


def fill(project: Project) -> Project:
    (project.folder / "network.py").write_text(NETWORK)
    project.recipe.write_text(RECIPE)
    inputs, labels, logits = images()
    np.savez(project.folder / "images.npz", inputs=inputs, labels=labels)
    np.save(project.folder / "logits.npy", logits)
    (project.folder / "weights.safetensors").unlink()
    return project


def report(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project.out / "report.json").read_text())
    return found


def outcomes(project: Project) -> dict[str, dict[str, Any]]:
    """Target to what accuracy control found for it."""
    return {step["target"]: step["accuracy"] for step in report(project)["steps"] if step["accuracy"] is not None}


@pytest.fixture(scope="module")
def done(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The recipe has run once, measured. Read it only."""
    project = fill(new_project(tmp_path_factory.mktemp("controlled") / "a project"))
    ended = project.accel("optimize", "recipe.yaml")
    assert ended.returncode == 0, ended.stderr
    return project


@pytest.mark.slow
def test_exactly_the_broken_layer_is_kept_back_on_each_target_and_the_result_passes(done: Project) -> None:
    found = outcomes(done)
    assert set(found) == {"ort", "ov"}
    for outcome in found.values():
        assert [layer["layer"] for layer in outcome["layers"] if layer["kept"]] == [BROKEN]
        assert outcome["passed"] and outcome["split"] == "selection" and outcome["seconds"] < 120
        assert outcome["tried"][0]["kept"] == [] and not outcome["tried"][0]["passed"]
        assert outcome["layers"][0]["layer"] == BROKEN and outcome["layers"][0]["sqnr_db"] is not None
    rows = {row["target"]: row for row in report(done)["rows"] if row["role"] == "result"}
    for target in found:
        assert rows[target]["status"] == "measured" and rows[target]["metrics"][0]["value"] >= 0.95
        assert (done.out / "targets" / target / "model.onnx").exists()
    gates = report(done)["gates"]
    assert [(gate["name"], gate["verdict"], gate["kind"]) for gate in gates] == [
        ("accuracy_control@ort", "pass", "accuracy"),
        ("accuracy_control@ov", "pass", "accuracy"),
    ]
    assert gates[0]["limit"] == "at least -5 points on selection data"
    assert done.litter() == [] and done.processes() == []


@pytest.mark.slow
def test_the_renderings_list_what_was_kept_back_and_why(done: Project) -> None:
    text = (done.out / "report.md").read_text()
    assert "## Layers kept in floating point" in text
    assert f"| {BROKEN} | Conv | " in text
    page = (done.out / "report.html").read_text()
    assert 'id="kept"' in page and BROKEN in page


@pytest.mark.slow
def test_an_impossible_budget_ends_as_the_best_effort_inside_its_time(done: Project, tmp_path: Path) -> None:
    shutil.copytree(done.folder, tmp_path / "copy", ignore=shutil.ignore_patterns("out"))
    project = type(done)(tmp_path / "copy")
    ended = project.accel(
        "optimize",
        "recipe.yaml",
        "--no-benchmark",
        f"passes.2.accuracy_control={IMPOSSIBLE}",
        "targets=[{backend: onnxruntime}]",
    )
    assert ended.returncode == 11, ended.stderr
    (found,) = outcomes(project).values()
    assert not found["passed"] and found["seconds"] < 100 and found["value"] < 0
    assert found["value"] == max(tried["value"] for tried in found["tried"])
    (row,) = [row for row in report(project)["rows"] if row["role"] == "result"]
    assert row["status"] == "built", "the best effort is there"
    (gate,) = report(project)["gates"]
    assert gate["failed"] and gate["kind"] == "accuracy" and "best effort" in gate["text"]
    assert "accuracy gate failed" in " ".join(report(project)["notes"])
    assert not (project.out / "targets" / "onnxruntime").exists()
    again = project.accel(
        "optimize",
        "recipe.yaml",
        "--no-benchmark",
        "--keep-failed",
        f"passes.2.accuracy_control={IMPOSSIBLE}",
        "targets=[{backend: onnxruntime}]",
    )
    assert again.returncode == 11, again.stderr
    assert (project.out / "targets" / "onnxruntime" / "model.onnx").exists(), "it was kept"


def answers(project: Project) -> dict[str, int]:
    """What the search asked and keeps, by the file that holds the answer: one that is asked again is another file."""
    return {
        path.parent.name: path.stat().st_ino
        for path in (project.cache / "accel" / "steps").glob("*/entry.json")
        if json.loads(path.read_text())["meta"]["name"] == "accuracy of a quantized model"
    }


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_where_it_was(new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    project = fill(new_project(tmp_path / "a project"))
    words = ("optimize", "recipe.yaml", "--no-benchmark", "targets=[{name: ort, backend: onnxruntime}]")
    with project.start(*words) as process:
        while len(answers(project)) < 3 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL and not project.out.exists()
    before = answers(project)
    ended = project.accel(*words)
    assert ended.returncode == 0, ended.stderr
    after = answers(project)
    assert len(before) >= 3 and before.items() < after.items(), "what was known was not asked again"
    assert [layer["layer"] for layer in outcomes(project)["ort"]["layers"] if layer["kept"]] == [BROKEN]
    assert project.litter() == [] and project.processes() == []


def test_a_metric_that_the_task_has_not_is_refused_at_its_place(project: Project, typed: Typed) -> None:
    fill(project)
    project.rewrite("max_drop: 0.05", "metric: top2")
    line = RECIPE[: RECIPE.index("approach: static")].count("\n") + 1
    typed("optimize", "recipe.yaml").refused(2, f"recipe.yaml:{line}:", "the task has no metric 'top2'", "top1")
    assert not project.out.exists()


def test_the_words_of_other_tools_are_taken(project: Project, typed: Typed) -> None:
    fill(project)
    project.rewrite("max_drop: 0.05", "tolerable_loss: 0.05, max_iter: 3")
    ended = typed("validate", "recipe.yaml")
    assert ended.code == 0, ended.err
