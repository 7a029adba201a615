"""kill -9, SIGTERM, Ctrl-C at any moment: the same command then ends with an undisturbed run's files, no litter (fault 51)."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

STEPS = (
    "ort: export_onnx",
    "ort: simplify",
    "ort: quantize",
    "ort: files for",
    "ov: quantize",
    "ov: files for",
)


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


@pytest.fixture
def interrupted(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    return new_project(tmp_path / "a project")


@pytest.mark.parametrize("step", STEPS)
def test_kill_in_a_step(interrupted: Project, finished: Project, step: str) -> None:
    with interrupted.start("optimize", "recipe.yaml", "--no-benchmark") as process:
        assert process.stderr is not None
        wait_for(process.stderr, step)
        time.sleep(0.0 if "files" in step else 0.15)  # in the middle of it
        process.send_signal(signal.SIGKILL)
    if process.returncode == -signal.SIGKILL and "ov: files" not in step:
        assert not interrupted.out.exists(), "nothing is published by a run that did not end"
    done = interrupted.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    assert shipped(interrupted) == shipped(finished)
    assert interrupted.litter() == []


def test_kill_at_random_moments_again_and_again(interrupted: Project, finished: Project) -> None:
    moments = random.Random(0)
    for _ in range(6):
        with interrupted.start("optimize", "recipe.yaml", "--no-benchmark") as process:
            try:
                process.wait(timeout=moments.uniform(0.2, 6.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
    done = interrupted.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    assert shipped(interrupted) == shipped(finished)
    assert interrupted.litter() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_children_and_says_how_to_go_on(interrupted: Project, number: int, code: int) -> None:
    with interrupted.start("optimize", "recipe.yaml", "--no-benchmark") as process:
        assert process.stderr is not None
        wait_for(process.stderr, "export_onnx")
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "the next run goes on after the last finished step" in err
    assert "Traceback" not in err
    assert interrupted.litter() == []
    assert interrupted.processes() == []


def test_ctrl_c_twice(interrupted: Project) -> None:
    with interrupted.start("optimize", "recipe.yaml", "--no-benchmark") as process:
        assert process.stderr is not None
        wait_for(process.stderr, "export_onnx")
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in err
    assert interrupted.processes() == []


def test_kill_while_measuring(interrupted: Project) -> None:
    with interrupted.start("optimize", "recipe.yaml") as process:
        assert process.stderr is not None
        wait_for(process.stderr, "scoring")
        process.send_signal(signal.SIGKILL)
    done = interrupted.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    assert interrupted.litter() == []
    assert interrupted.processes() == []


def test_two_runs_at_once_share_store_and_output(interrupted: Project, finished: Project) -> None:
    running = [interrupted.start("optimize", "recipe.yaml", "--no-benchmark") for _ in range(2)]
    ended = [process.communicate(timeout=240) for process in running]
    assert [process.returncode for process in running] == [0, 0], ended
    assert shipped(interrupted) == shipped(finished)
    assert interrupted.litter() == []
    made = [path.name for path in (interrupted.cache / "accel" / "steps").iterdir()]
    assert len(made) == len(set(made))
