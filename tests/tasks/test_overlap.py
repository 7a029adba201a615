from __future__ import annotations

import pytest

from accel.tasks import overlap
from accel.tasks.overlap import shared_samples


def named(*numbers: int) -> set[bytes]:
    return {bytes([number]) for number in numbers}


def test_counts_what_two_splits_share() -> None:
    contents = {"training": named(1, 2, 3, 4), "calibration": named(3, 4, 5), "validation": named(9)}
    found = shared_samples(contents, {"training": 4, "calibration": 3, "validation": 1})
    assert found == ["training and calibration share 2 of 3 samples (by content)"]


def test_says_that_it_looked_at_a_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MOST", 2)
    found = shared_samples({"calibration": named(1, 2), "validation": named(2, 3)}, {"calibration": 2, "validation": 9})
    assert found == ["calibration and validation share 1 of 2 samples (by content, looking at the first 2 of each)"]
