"""Memory between training steps: kept by the process while a training runs, given back at its end."""

from __future__ import annotations

import json
import platform
import subprocess
import sys

import pytest
import torch

from accel.compress.training import memory

STEPS = """
import json, resource
import torch
from accel.compress.training.memory import kept_memory

def held():  # bytes
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def step():  # 160 MiB of activations in pieces of 4 MiB, freed at its end
    [torch.ones(1 << 20) for _ in range(40)]

found = {}
with kept_memory(torch.device("cpu")):
    step()
    found["within"] = held()
found["ended"] = held()
try:
    with kept_memory(torch.device("cpu")):
        step()
        raise KeyError
except KeyError:
    found["raised"] = held()
print(json.dumps(found))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc has no mallopt")
def test_what_a_step_frees_stays_while_a_training_runs_on_a_cpu_and_is_given_back() -> None:
    run = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(run.stdout)
    assert found["within"] - found["ended"] > 120 << 20
    assert found["within"] - found["raised"] > 120 << 20


def test_a_training_on_a_gpu_leaves_the_c_library_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: pytest.fail("asked for the C library"))
    with memory.kept_memory(torch.device("cuda")):
        pass


def test_another_c_library_is_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: None)
    with memory.kept_memory(torch.device("cpu")):
        pass
