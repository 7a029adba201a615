"""Light by construction: what a command line does not need it does not import, and it answers at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from accel import catalog

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch",
    "onnx",
    "numpy",
    "onnxruntime",
    "openvino",
    "nncf",
    "neural_compressor",
    "onnxslim",
    "torchvision",
    "scipy",
    "PIL",
)


def imported_after(program: str) -> set[str]:
    """The heavy modules in sys.modules after ``program`` ran in a fresh interpreter."""
    tail = f"\nimport sys; print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program + tail], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.rpartition("HEAVY")[2].split())


@pytest.mark.parametrize("reference", sorted({**catalog.passes(), **catalog.backends(), **catalog.tasks()}.values()))
def test_a_catalogue_entry_imports_nothing_heavy(reference: str) -> None:
    assert imported_after(f"from accel.catalog import load; load({reference!r})") == set()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["validate", "recipes/quickstart.yaml"], ["list"], ["schema"], ["--version"], ["optimize", "--help"]],
    ids=" ".join,
)
def test_a_command_imports_nothing_heavy(arguments: list[str]) -> None:
    program = f"import sys; sys.argv = ['accel', *{arguments!r}]\nfrom accel.cli import _run; assert _run() == 0"
    assert imported_after(program) == set()


@pytest.mark.parametrize(("arguments", "limit_s"), [(["--help"], 0.4), (["validate", "recipes/quickstart.yaml"], 0.8)])
def test_a_command_answers_in_time(arguments: list[str], limit_s: float) -> None:
    fastest = float("inf")
    for _ in range(20):  # the machine may be busy with other tests, or slow for some seconds
        fastest = min(fastest, _seconds(arguments))
        if fastest < limit_s:
            break
    assert fastest < limit_s


def _seconds(arguments: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "accel", *arguments], check=True, capture_output=True, cwd=ROOT)
    return time.perf_counter() - began
