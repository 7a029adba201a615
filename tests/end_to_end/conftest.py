"""A small project of a user: a network, its data and a recipe, and the command line run as a user would."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.cli import main

NETWORK = """
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(x + self.bn2(self.conv2(y)))


class Net(nn.Module):
    def __init__(self, channels=16):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.block = Block(channels)
        self.head = nn.Linear(channels, 4)

    def forward(self, x):
        return self.head(self.block(torch.relu(self.stem(x))).mean((2, 3)))


def net(channels=16):
    print("user code prints to standard output")
    torch.manual_seed(7)
    return Net(channels)
"""

RECIPE = """\
version: 1
name: small
seed: 3
about: {version: "1.2", author: A Person, description: four kinds of noise}
model:
  factory: network.py:net
  weights: weights.safetensors
  inputs:
    - {name: image, shape: [batch, 3, 24, 24], dtype: float32}
task:
  type: image_classification
  metrics: [top1]
  classes: [circle, square, "<b>bold</b>", star]
  preprocess: {color: rgb, mean: [0.5], std: [0.25]}
data:
  calibration: {arrays: {path: images.npz}, num_samples: 32}
  validation: {arrays: {path: images.npz}, skip: 32}
passes:
  - type: export_onnx
  - {type: simplify, allow_noop: true}
  - type: quantize
    approach: static
targets:
  - {name: ort, backend: onnxruntime}
  - {name: ov, backend: openvino}
benchmark: {min_duration_s: 0.5, min_iterations: 50, max_duration_s: 1}
report: {layers: false, roofline: false}
"""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def refused(self, code: int, *said: str) -> None:
        """It ended with ``code``, said all of ``said`` on standard error in whole sentences, and nothing on standard output."""
        assert self.code == code, self.err
        for part in said:
            assert part in self.err, f"{part!r} is not in: {self.err}"
        assert "\naccel: " in "\n" + self.err
        assert "Traceback (most recent call last)" not in self.err
        assert "this is a bug" not in self.err
        assert self.out == "" or list(json.loads(self.out)) == ["error"], "with --json, the error is the one document"


# In a process between: a child's peak counts the memory of whom it was forked from, and this process may be large.
_WATCH = """
import json, resource, subprocess, sys
done = subprocess.run([sys.executable, "-m", "accel", *sys.argv[1:]], capture_output=True, text=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([done.returncode, done.stdout, done.stderr, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024]))
"""


def digests(folder: Path, *left_out: str) -> dict[str, str]:
    """sha256 of every file below ``folder``, but for what is below a folder of a name in ``left_out``."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not set(left_out) & set(path.relative_to(folder).parts)
    }


@dataclass(frozen=True)
class Project:
    """A folder with a recipe, and an ``accel`` whose cache and home lie beside it."""

    folder: Path

    @property
    def recipe(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out" / "small"

    @property
    def cache(self) -> Path:
        return self.folder / ".cache"

    def environment(self, **more: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "PYTEST"))}
        return {**kept, "HOME": str(self.folder), "XDG_CACHE_HOME": str(self.cache), "OMP_NUM_THREADS": "1", **more}

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "accel", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.folder,
            env=self.environment(**more),
        )

    def accel(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=240)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def watched(self, *arguments: str) -> tuple[Ended, float, int]:
        """A command in a process of its own, the processor time it took in seconds, and the most memory it had in bytes."""
        done = subprocess.run(
            [sys.executable, "-c", _WATCH, *arguments],
            capture_output=True,
            check=True,
            cwd=self.folder,
            env=self.environment(),
            timeout=240,
        )
        code, out, err, cpu_s, peak_bytes = json.loads(done.stdout)
        return Ended(code, out, err), cpu_s, peak_bytes

    def inputs(self) -> dict[str, str]:
        """sha256 of every file that the user made, by its path."""
        return digests(self.folder, ".cache", "out", "__pycache__")

    def published(self) -> dict[str, str]:
        """sha256 of every file of the output folder, by its path."""
        return digests(self.out)

    def litter(self, *names: str, scratch: bool = True) -> list[str]:
        """What is in the store, or beside the outputs ``names``, and belongs to nothing.

        ``scratch=False``: what a step that was stopped or failed keeps for the next run is none.
        """
        store = self.cache / "accel"
        kinds = ("work", "runs", "locks", "scratch") if scratch else ("work", "runs", "locks")
        found = [path for kind in kinds for path in (store / kind).rglob("*")]
        found += [path for path in store.rglob("*") if path.name.endswith(".partial")]
        if self.out.parent.exists():
            found += [path for path in self.out.parent.iterdir() if path.name not in (names or (self.out.name,))]
        return [path.relative_to(self.folder).as_posix() for path in found]

    def processes(self, kind: str = "accel.worker") -> list[str]:
        """Command lines of the living processes that were started for this project."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (place / "environ").read_bytes(), (place / "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if str(self.cache).encode() in environment and kind.encode() in command:
                found.append(command.decode(errors="replace"))
        return found

    def rewrite(self, old: str, new: str) -> None:
        text = self.recipe.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in the recipe"
        self.recipe.write_text(text.replace(old, new), encoding="utf-8")


@cache
def _weights() -> bytes:
    """What ``net()`` draws."""
    from safetensors.torch import save

    names: dict[str, Any] = {}
    exec(NETWORK.replace("print(", "str("), names)
    return bytes(save(names["net"]().state_dict()))


def make_project(folder: Path) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.py").write_text(NETWORK)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "weights.safetensors").write_bytes(_weights())
    generator = np.random.default_rng(0)
    labels = np.arange(96) % 4
    images = generator.integers(0, 120, (96, 24, 24, 3)) + labels[:, None, None, None] * 40
    np.savez(folder / "images.npz", inputs=images.astype(np.uint8), labels=labels.astype(np.int64))
    return Project(folder)


@pytest.fixture(scope="session")
def new_project() -> Callable[[Path], Project]:
    """Makes a project in a folder."""
    return make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path / "a project")


@pytest.fixture
def typed(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """What a user types, in the project's folder: the entry point of the command, in this process to save its start.

    Children that it starts are real ones.
    """

    def run(*arguments: str) -> Ended:
        with monkeypatch.context() as patch:
            patch.chdir(project.folder)
            patch.setattr("sys.argv", ["accel", *arguments])
            patch.setattr("signal.signal", lambda number, handler: None)
            patch.setenv("HOME", str(project.folder))
            patch.setenv("XDG_CACHE_HOME", str(project.cache))
            patch.setenv("OMP_NUM_THREADS", "1")
            capsys.readouterr()
            with pytest.raises(SystemExit) as ending:
                main()
        said = capsys.readouterr()
        assert isinstance(ending.value.code, int)
        return Ended(ending.value.code, said.out, said.err)

    return run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose recipe has run once, without measuring. Read it only."""
    project = make_project(tmp_path_factory.mktemp("finished") / "a project")
    done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert done.returncode == 0, done.stderr
    return project


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose recipe has run once, measured. Read it only."""
    project = make_project(tmp_path_factory.mktemp("measured") / "a project")
    project.rewrite("report: {layers: false, roofline: false}\n", "")
    done = project.accel("optimize", "recipe.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (project.folder / "stdout.json").write_text(done.stdout)
    return project
