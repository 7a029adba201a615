"""A network that stays in PyTorch: pruned, measured beside itself, shipped as weights and edits; and what ``plan`` tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from accel.compress import saved
from accel.imports import ImportPolicy
from accel.report import Report

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

PASSES = """\
passes:
  - type: export_onnx
  - {type: simplify, allow_noop: true}
  - type: quantize
    approach: static
targets:
  - {name: ort, backend: onnxruntime}
  - {name: ov, backend: openvino}
"""
TORCH = """\
passes:
  - {type: prune, constraint: {macs: "50%"}}
  - {type: bn_reestimate, data: calibration}
targets:
  - {name: here, backend: eager}
"""


def states(typed: Callable[..., Ended]) -> list[str]:
    planned = typed("plan", "recipe.yaml", "--json")
    assert planned.code == 0, planned.err
    targets: list[dict[str, Any]] = json.loads(planned.out)["targets"]
    return [step["state"] for step in targets[0]["steps"]]


def test_a_pruned_network_ships_and_is_measured_in_pytorch(project: Project, typed: Callable[..., Ended]) -> None:
    project.rewrite(PASSES, TORCH)
    project.rewrite("min_duration_s: 0.5, min_iterations: 50", "min_duration_s: 0.1, min_iterations: 5")
    assert states(typed) == ["to run", "known at run time"]
    done = typed("optimize", "recipe.yaml", "--json")
    assert done.code == 0, done.err
    rows = {row.name: row for row in Report.model_validate_json((project.out / "report.json").read_bytes()).rows}
    small, whole = rows["here"], rows["eager fp32"]
    assert small.status == whole.status == "measured"
    assert small.metrics and whole.metrics and small.size_bytes is not None
    shipped = project.out / "targets" / "here"
    assert {"model.safetensors", "edits.json"} <= {path.name for path in shipped.iterdir()}
    loaded = saved.load_model(shipped, policy=ImportPolicy(project.folder))
    assert loaded.edits and loaded.module.get_parameter("stem.weight").shape[0] < 16
    assert states(typed) == ["cached", "cached"]
    project.rewrite("num_samples: 32", "num_samples: 31")
    assert states(typed) == ["cached", "to run"]


@pytest.mark.parametrize(
    ("entry", "state"),
    [
        ("{type: prune, method: depth}", "to run"),
        ("{type: distill, train: {steps: 1}}", "to run"),
        ("{type: distill, train: {steps: 1}, teacher: {factory: 'network.py:net', weights: weights.safetensors}}", "to run"),
        ("{type: distill, train: {steps: 1}, teacher: {factory: 'network.py:net'}}", "known at run time"),
    ],
)
def test_plan_knows_what_it_can_know_without_running_code(
    project: Project, typed: Callable[..., Ended], entry: str, state: str
) -> None:
    project.rewrite(PASSES, f"passes: [{entry}]\ntargets: [{{backend: eager}}]\n")
    project.rewrite("data:\n", "data:\n  training: {arrays: {path: images.npz}}\n")
    assert states(typed) == [state]


def test_plan_says_that_a_pass_has_not_its_library(
    project: Project, typed: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    from accel import steps

    project.rewrite(PASSES, TORCH)
    known = steps.library_version
    monkeypatch.setattr(steps, "library_version", lambda name: None if name == "torch-pruning" else known(name))
    planned = json.loads(typed("plan", "recipe.yaml", "--json").out)["targets"][0]
    assert "prune needs torch-pruning, which is not installed; pip install 'accel-toolkit[prune]'" in planned["missing"]


def test_a_timed_step_is_known_at_run_time(project: Project, typed: Callable[..., Ended]) -> None:
    project.rewrite("passes:\n", "passes:\n  - {type: prune, constraint: {latency_ms: '60%'}}\n")
    assert states(typed) == ["known at run time"] * 4
