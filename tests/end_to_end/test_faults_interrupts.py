"""SIGTERM and Ctrl-C in each step, runs side by side, and an IR after a kill (faults 51 and 52)."""

from __future__ import annotations

import hashlib
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

STEPS = ("ort: export_onnx", "ort: simplify", "ort: quantize", "ort: files for", "ov: quantize", "ov: files for")
SIGNALS = {"SIGTERM": 143, "SIGINT": 130}


def shipped(project: Project) -> dict[str, str]:
    """Digests of every file that ships; manifests and reports hold dates and timings."""
    return {
        path.relative_to(project.out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((project.out / "targets").rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def wait_for(stream: IO[str], text: str) -> None:
    for line in stream:
        if text in line:
            return
    raise AssertionError(f"the run ended without saying {text!r}")


@dataclass(frozen=True)
class Ended:
    code: int
    err: str
    litter: list[str]
    children: list[str]


@pytest.fixture(scope="module", params=SIGNALS)
def stopped(
    request: pytest.FixtureRequest, new_project: Callable[[Path], Project], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, str, dict[str, Ended]]:
    """One project, stopped in each step in turn: every run goes on where the one before was stopped."""
    project = new_project(tmp_path_factory.mktemp(request.param) / "a project")
    found = {}
    for step in STEPS:
        with project.start("optimize", "recipe.yaml", "--no-benchmark") as process:
            assert process.stderr is not None
            wait_for(process.stderr, step)
            if "files" not in step:  # those take a few milliseconds
                time.sleep(0.1)
            process.send_signal(signal.Signals[request.param])
            _, err = process.communicate(timeout=60)
        found[step] = Ended(process.returncode, err, project.litter(scratch=False), project.processes())
    return project, request.param, found


@pytest.mark.parametrize("step", STEPS)
def test_a_signal_in_a_step(stopped: tuple[Project, str, dict[str, Ended]], step: str) -> None:
    _, name, found = stopped
    ended = found[step]
    assert ended.code == SIGNALS[name], ended.err
    assert f"accel: stopped by {name}; the next run goes on after the last finished step" in ended.err
    assert "Traceback" not in ended.err
    assert ended.litter == []
    assert ended.children == []


def test_the_run_after_them_ends_with_the_files_of_an_undisturbed_one(
    stopped: tuple[Project, str, dict[str, Ended]], finished: Project
) -> None:
    project = stopped[0]
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    assert shipped(project) == shipped(finished)
    assert project.litter() == []


def test_two_recipes_at_once_share_a_store(finished: Project, new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    """They have the first two steps in common, which are made once, and differ in the third."""
    project = new_project(tmp_path / "a project")
    other = project.recipe.read_text().replace("name: small", "name: other")
    other = other.replace("approach: static\n", "approach: static\n    calibration: {method: percentile}\n")
    (project.folder / "other.yaml").write_text(other)
    ort = "targets=[{name: ort, backend: onnxruntime}]"
    running = [project.start("optimize", recipe, "--no-benchmark", ort) for recipe in ("recipe.yaml", "other.yaml")]
    ended = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    place = Path("targets") / "ort" / "model.onnx"
    assert (project.out / place).read_bytes() == (finished.out / place).read_bytes()
    assert project.litter("small", "other") == []
    alone = project.accel(
        "optimize", "other.yaml", "--no-benchmark", ort, "--output", "again", "--cache-dir", str(finished.cache / "accel")
    )
    assert alone.returncode == 0, alone.stderr
    other_model = (project.out.parent / "other" / place).read_bytes()
    assert other_model == (project.folder / "again" / "other" / place).read_bytes()
    assert other_model != (project.out / place).read_bytes()


def numbered(xml: bytes) -> bytes:
    """Without the counters that OpenVINO appends to names of nodes it makes."""
    return re.sub(rb"_\d+(?=[\"/,])", b"", xml)


def test_an_ir_is_the_same_after_a_kill(new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    target = "targets=[{name: ov, backend: openvino, options: {format: ir}}]"
    undisturbed, killed = (new_project(tmp_path / name / "a project") for name in ("undisturbed", "killed"))
    done = undisturbed.accel("optimize", "recipe.yaml", "--no-benchmark", target)
    assert done.returncode == 0, done.stderr
    for step in ("ov: quantize", "ov: files for"):
        with killed.start("optimize", "recipe.yaml", "--no-benchmark", target) as process:
            assert process.stderr is not None
            wait_for(process.stderr, step)
            time.sleep(0.3 if "files" in step else 0.1)
            process.send_signal(signal.SIGKILL)
    done = killed.accel("optimize", "recipe.yaml", "--no-benchmark", target)
    assert done.returncode == 0, done.stderr
    first, second = (project.out / "targets" / "ov" for project in (undisturbed, killed))
    assert {path.name for path in second.iterdir()} == {"model.xml", "model.bin", "manifest.json"}
    assert (first / "model.bin").read_bytes() == (second / "model.bin").read_bytes()
    assert numbered((first / "model.xml").read_bytes()) == numbered((second / "model.xml").read_bytes())
    assert killed.litter() == []
