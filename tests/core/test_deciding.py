"""The question that ends the timing: are the gates decided?"""

from __future__ import annotations

import numpy as np

from accel.benchmarks.gate_settings import GateSettings
from accel.deciding import enough
from accel.model import Target
from accel.rows import Subject, Turns


def turns(milliseconds: float, spread: float = 0.001) -> Turns:
    generator = np.random.default_rng(int(1000 * milliseconds))
    scale = generator.normal(1.0, spread, size=(6, 1, 1)) * generator.normal(1.0, spread, size=(6, 6, 20))
    return [[[int(value) for value in turn] for turn in rounds] for rounds in 1e6 * milliseconds * scale]


def subjects() -> list[Subject]:
    target = Target("ort", "onnxruntime")
    return [
        Subject("ort fp32 baseline", "baseline", "ort", target, {}, None),
        Subject("ort", "result", "ort", target, {}, None),
    ]


def test_nothing_is_asked_without_a_gate_on_the_median() -> None:
    assert enough([], subjects()) is None
    others = [GateSettings(metric="size", max_drop=0), GateSettings(metric="latency", max_drop=0, vs="main.json")]
    assert enough(others, subjects()) is None


def test_clear_ratios_are_enough_and_unclear_ones_are_not() -> None:
    decided = enough([GateSettings(metric="latency", max_drop=0.05)], subjects())
    assert decided is not None
    for ratio in (0.5, 1.0, 1.2):
        assert decided({"ort fp32 baseline": turns(1.0), "ort": turns(ratio)})
    assert not decided({"ort fp32 baseline": turns(1.0, 0.02), "ort": turns(1.05, 0.02)})
    assert not decided({"ort": turns(1.0)}), "the baseline was lost on the way"
