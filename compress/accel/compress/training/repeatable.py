"""Random numbers that depend on the seed and the step only, so that a run that was cut off goes on as if it had not been."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from accel.origin import seeded


def derived_seed(seed: int, *parts: int | str) -> int:
    """A number in [0, 2**63) that is another one for any other ``parts``."""
    return int.from_bytes(hashlib.sha256(repr((seed, *parts)).encode()).digest()[:8], "little") >> 1


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The indices of ``count`` samples in the order of epoch ``epoch``."""
    return np.random.default_rng(derived_seed(seed, "order", epoch)).permutation(count)


def seed_step(seed: int, step: int, rank: int, device: torch.device) -> None:
    """torch's, numpy's and Python's global random numbers start anew for this step: dropout and the like draw from them.

    Those of the CPU and of ``device``: ``torch.manual_seed`` is for every kind of device, and formats the call stack once for
    each that is not in use, which takes 1.5 ms a step.
    """
    number = derived_seed(seed, "step", step, rank)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(number)
    np.random.seed(number % 2**32)
    random.seed(number)


@contextmanager
def repeatable(device: torch.device, seed: int) -> Iterator[None]:
    """The caller's random numbers go on afterwards as if nothing had drawn from them; cuDNN takes deterministic algorithms."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), seeded(seed):
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            cudnn.deterministic, cudnn.benchmark = before
