"""kill -9 and Ctrl-C in the middle of every training pass: the run after them goes on from the last checkpoint, and ends with
the weights of an undisturbed run, byte for byte (fault 51)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from safetensors import safe_open

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # nine runs, one after the other

STEPS = 60
"""Of each training."""

RECIPE = f"""\
version: 1
name: small
seed: 3
model:
  factory: network.py:net
  weights: weights.safetensors
  inputs: [{{name: image, shape: [batch, 3, 24, 24]}}]
task: {{type: image_classification, metrics: [top1], preprocess: {{color: rgb, mean: [0.5], std: [0.25]}}}}
data:
  training: {{arrays: {{path: images.npz}}, num_samples: 64, batch_size: 16}}
  calibration: {{arrays: {{path: images.npz}}, num_samples: 32}}
  validation: {{arrays: {{path: images.npz}}, skip: 64}}
passes:
  - type: finetune
    train: {{steps: {STEPS}, lr: 0.003, optimizer: adamw, ema: 0.9, keep: best, checkpoint_every_s: 0,
            augmentation: {{flip: true, crop_padding: 2, mixup: 0.3}}}}
  - type: sparsify
    sparsity: 0.8
    schedule: cubic
    update_every: 5
    train: {{steps: {STEPS}, lr: 0.01, checkpoint_every_s: 0.01}}
  - type: distill
    teacher: {{factory: network.py:net, kwargs: {{channels: 24}}}}
    losses: [{{type: logits}}, {{type: task}}, {{type: feature, student_layer: block, weight: 0.1}}]
    train: {{steps: {STEPS}, lr: 0.01, checkpoint_every_s: 0}}
  - type: quantize
    approach: qat
    train: {{steps: {STEPS}, lr: 0.001, checkpoint_every_s: 0}}
targets: [{{name: torch, backend: eager}}]
"""


@dataclass(frozen=True)
class Moment:
    """When a run is stopped: ``step`` of ``training``, the name in its checkpoint's folder; or as the ``stage`` begins."""

    name: str
    number: signal.Signals = signal.SIGKILL
    training: str = ""
    step: int = 0
    stage: str = ""


MOMENTS = (
    Moment("in finetune", training="finetune", step=15),
    Moment("Ctrl-C in finetune", signal.SIGINT, training="finetune", step=30),
    Moment("in sparsify", training="sparsify", step=20),
    Moment("in distill", training="distill", step=20),
    Moment("between distill and quantize", stage="quantize/qat"),
    Moment("in quantize", training="quantize", step=20),
    Moment("Ctrl-C in quantize, frozen", signal.SIGINT, training="quantize", step=46),
)


@dataclass(frozen=True)
class Stopped:
    """What there was to see of a run that was stopped. ``step``: of the checkpoint it left; 0 without one.

    ``seen``: training to the steps that its checkpoint was seen at, in the order of time.
    """

    code: int
    err: str
    stages: tuple[str, ...]
    step: int
    done: bool
    published: bool
    workers: list[str]
    seen: dict[str, list[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    killed: Project
    undisturbed: Project
    stops: dict[str, Stopped]
    last: Stopped


class Running:
    """``accel optimize`` in a process group of its own, and the steps that its checkpoints were seen at."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.seen: dict[str, list[int]] = {}
        self._said = project.folder / "said.txt"
        with self._said.open("w") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "accel", "optimize", "recipe.yaml", "--no-benchmark"],
                stdout=subprocess.DEVNULL,
                stderr=said,
                cwd=project.folder,
                env=project.environment(),
                start_new_session=True,
            )

    @property
    def err(self) -> str:
        return self._said.read_text()

    def look(self) -> None:
        for name, record in checkpoints(self.project).items():
            steps = self.seen.setdefault(name, [])
            if not steps or steps[-1] != record["step"]:
                steps.append(record["step"])

    def until(self, there: Callable[[], bool]) -> None:
        """Returns when ``there()`` or when the run has ended."""
        deadline = time.monotonic() + 240
        while self.process.poll() is None and not there():
            assert time.monotonic() < deadline, self.err
            time.sleep(0.002)
            self.look()

    def stop(self, moment: Moment) -> Stopped:
        def there() -> bool:
            if moment.stage:
                return f"torch: {moment.stage}" in self.err
            return max(self.seen.get(moment.training, [0])) >= moment.step

        try:
            self.until(there)
            os.killpg(self.process.pid, moment.number)
            return self.ended(moment.training)
        finally:
            self.abandon()

    def ended(self, training: str = "") -> Stopped:
        try:
            self.until(lambda: False)
        finally:
            self.abandon()
        record = checkpoints(self.project).get(training, {"step": 0})
        stages = tuple(line for line in self.err.splitlines() if line.startswith("torch: "))
        return Stopped(
            self.process.returncode,
            self.err,
            stages,
            int(record["step"]),
            bool(record.get("done")),
            self.project.out.exists(),
            workers_of(self.project),
            self.seen,
        )

    def abandon(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def checkpoints(project: Project) -> dict[str, dict[str, Any]]:
    """Name of the training to what its checkpoint in the store's scratch records."""
    found: dict[str, dict[str, Any]] = {}
    with suppress(OSError):  # a step that is finished meanwhile takes its folder along
        for path in (project.cache / "accel" / "scratch").glob("*/training_*/checkpoint.safetensors"):
            with safe_open(path, "np") as file:  # "pt" opens the path a second time, and it may be another file by then
                found[path.parent.name.split("_")[1]] = json.loads(file.metadata()["record"])
    return found


def workers_of(project: Project) -> list[str]:
    """Processes of this project that are alive: the kernel ends children with their parent, which takes it a moment."""
    deadline = time.monotonic() + 10
    while (found := project.processes("accel")) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def history(new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory) -> History:
    """One project, stopped at each moment in turn, and another with the same recipe that was left in peace."""
    killed, undisturbed = (new_project(tmp_path_factory.mktemp(name) / "a project") for name in ("killed", "undisturbed"))
    for project in (killed, undisturbed):
        project.recipe.write_text(RECIPE)
    done = Running(undisturbed).ended()
    assert done.code == 0, done.err
    stops = {moment.name: Running(killed).stop(moment) for moment in MOMENTS}
    return History(killed, undisturbed, stops, Running(killed).ended())


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.name)
def test_it_was_stopped_there_and_left_no_process_and_no_output(history: History, moment: Moment) -> None:
    stop = history.stops[moment.name]
    assert stop.code == (130 if moment.number == signal.SIGINT else -signal.SIGKILL), stop.err
    assert moment.step <= stop.step < STEPS
    assert not stop.done
    assert not stop.published
    assert stop.workers == []
    assert "Traceback" not in stop.err
    if moment.number == signal.SIGINT:
        assert "accel: stopped by SIGINT; the next run goes on after the last finished step" in stop.err


@pytest.mark.parametrize("index", [index for index, moment in enumerate(MOMENTS) if moment.training])
def test_the_next_run_goes_on_from_the_checkpoint(history: History, index: int) -> None:
    """A run that began again would be seen at an earlier step: each of its steps writes a checkpoint."""
    training = MOMENTS[index].training
    runs = [*history.stops.values(), history.last]
    reached = runs[index].step
    following = runs[index + 1].seen.get(training, [])
    assert following, "the checkpoint was thrown away"
    assert min(following) >= reached
    assert max(following) > reached


def test_a_finished_pass_is_not_done_again(history: History) -> None:
    between = history.stops["between distill and quantize"]
    assert "torch: distill (3 of 4)" in between.stages
    assert "quantize" not in between.seen
    after = history.stops["in quantize"]
    assert after.stages == (
        *(f"torch: {name} ({number} of 4): reused" for number, name in enumerate(("finetune", "sparsify", "distill"), 1)),
        "torch: quantize/qat (4 of 4)",
    )


def test_every_pass_ends_with_the_weights_of_an_undisturbed_run(history: History) -> None:
    assert history.last.code == 0, history.last.err
    reports = [json.loads((project.out / "report.json").read_text()) for project in (history.killed, history.undisturbed)]
    mine, wanted = ({step["name"]: step for step in report["steps"]} for report in reports)
    assert list(mine) == ["finetune", "sparsify", "distill", "quantize/qat"]
    for name, step in wanted.items():
        assert mine[name]["key"] == step["key"]
        found, expected = (
            {path.name: path.read_bytes() for path in (project.cache / "accel" / "steps" / step["key"] / "files").iterdir()}
            for project in (history.killed, history.undisturbed)
        )
        assert set(found) == {"model.safetensors", "edits.json"}
        assert found == expected, name
    shipped, untouched = (
        (project.out / "targets" / "torch" / "model.safetensors").read_bytes()
        for project in (history.killed, history.undisturbed)
    )
    assert shipped == untouched


def test_each_training_changed_the_weights(history: History) -> None:
    """Or equal weights would say nothing."""
    report = json.loads((history.undisturbed.out / "report.json").read_text())
    steps = history.undisturbed.cache / "accel" / "steps"
    weights = [(steps / step["key"] / "files" / "model.safetensors").read_bytes() for step in report["steps"]]
    assert len(set(weights)) == len(weights) == 4


def test_nothing_is_left_behind(history: History) -> None:
    assert history.killed.litter() == []
    assert history.undisturbed.litter() == []
    assert workers_of(history.killed) == []
