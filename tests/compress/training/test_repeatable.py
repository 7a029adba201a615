from __future__ import annotations

import random
import traceback
from typing import Any

import numpy as np
import pytest
import torch

from accel.compress.training.repeatable import repeatable, seed_step

CPU = torch.device("cpu")


def drawn(seed: int, step: int, rank: int) -> tuple[float, float, float]:
    seed_step(seed, step, rank, CPU)
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_seed_step_and_process_decide_all_three_kinds_of_random_numbers() -> None:
    with repeatable(CPU, 0):
        first = drawn(1, 2, 0)
        others = [drawn(2, 2, 0), drawn(1, 3, 0), drawn(1, 2, 1)]
        assert drawn(1, 2, 0) == first
    for kind in range(3):
        assert len({numbers[kind] for numbers in (first, *others)}) == 4


def test_a_step_asks_no_device_that_is_not_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch then keeps the call stack for later, at 0.5 ms a device and step."""

    def format_stack(*arguments: Any) -> list[str]:
        raise AssertionError("torch formats the call stack")

    with repeatable(CPU, 0):
        monkeypatch.setattr(traceback, "format_stack", format_stack)
        seed_step(1, 2, 0, CPU)
        monkeypatch.undo()
