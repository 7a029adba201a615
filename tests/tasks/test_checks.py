from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.contracts import Split
from accel.errors import DataFault
from accel.tasks.checks import Watch

RANDOM = np.random.default_rng(0)
GOOD = [RANDOM.normal(size=(1, 4, 4)).astype(np.float32) for _ in range(12)]


def watched(
    samples: list[Any], labels: list[int | None] | None = None, split: Split = "calibration", declared: bool = False
) -> list[str]:
    watch = Watch(split, declared)
    for index, sample in enumerate(samples):
        watch.see(sample, labels[index] if labels else None, f"sample {index}")
    return watch.remarks()


def test_good_data_draws_no_remark() -> None:
    assert watched(GOOD, [0, 1, 2, 3] * 3) == []
    assert watched([RANDOM.integers(0, 255, (4, 4), np.uint8) for _ in range(12)], declared=True) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_sample_and_place(value: float) -> None:
    """Fault 38."""
    bad = GOOD[0].copy()
    bad[0, 2, 1] = value
    with pytest.raises(DataFault, match=rf"sample 1: {value} at \(0, 2, 1\); remove or repair"):
        watched([GOOD[0], bad])


@pytest.mark.parametrize("label", [-1, 2**31])
def test_a_label_that_is_no_class_index_names_the_sample(label: int) -> None:
    with pytest.raises(DataFault, match=f"sample 1: label {label} is no class index"):
        watched(GOOD[:2], [0, label])


def test_an_empty_sample_is_refused() -> None:
    with pytest.raises(DataFault, match=r"sample 0: is empty, shape \(0, 4\)"):
        watched([np.zeros((0, 4), np.float32)])


def test_one_sample_draws_a_remark() -> None:
    assert watched(GOOD[:1], split="validation") == ["data.validation: has 1 sample only; nothing can be concluded from it"]


def test_few_samples_draw_a_remark_in_calibration_only() -> None:
    assert watched(GOOD[:9]) == ["data.calibration: has 9 samples only; ranges from so few are a guess, give 100 or more"]
    assert watched(GOOD[:9], split="validation") == []


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_samples_draw_a_remark(value: float) -> None:
    constant = np.full((1, 4, 4), value, np.float32)
    found = watched([constant] * 12)
    assert found[0] == "data.calibration: all 12 samples are constant (every value the same); is this the data?"
    assert watched([*GOOD[:3], constant, *GOOD[3:]]) == ["data.calibration: 1 of 13 samples are constant (first: sample 3)"]


def test_the_same_sample_again_and_again_draws_a_remark() -> None:
    assert watched([GOOD[0]] * 12) == ["data.calibration: all 12 samples are the same"]


def test_raw_pixels_where_none_were_declared_draw_a_remark() -> None:
    raw = [sample * 255 for sample in GOOD]
    assert "are they raw pixels (0..255)?" in watched(raw)[0]
    assert watched(raw, declared=True) == []


def test_pixels_of_zero_and_one_draw_a_remark() -> None:
    found = watched([RANDOM.integers(0, 2, (4, 4)).astype(np.uint8) for _ in range(12)], declared=True)
    assert found == ["data.calibration: pixels are 0 or 1 as uint8; were they scaled to 0..1 and then rounded?"]


def test_labels_of_one_class_draw_a_remark() -> None:
    assert watched(GOOD, [4] * 12) == ["data.calibration: all labels are 4; accuracy on one class says little"]
