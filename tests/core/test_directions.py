from __future__ import annotations

import numpy as np
import pytest

from accel import directions
from accel.directions import cosines, nearest


def test_cosines_by_hand() -> None:
    ours = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0], [-3.0, 0.0], [0.0, 0.0], [0.0, 0.0], [np.nan, 1.0]])
    theirs = np.array([[5.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert cosines(ours, theirs) == pytest.approx([1.0, 0.0, 0.5**0.5, -1.0, 0.0, 1.0, 0.0])


def test_the_nearest_is_another_sample_and_of_equals_the_first() -> None:
    vectors = np.array([[1.0, 0.0], [9.0, 1.0], [0.0, 1.0], [0.1, 0.9], [0.0, 0.0], [np.nan, 1.0]])
    assert nearest(vectors).tolist() == [1, 0, 5, 2, 0, 2]


def test_a_piece_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    whole = nearest(vectors), cosines(vectors, vectors[::-1])
    monkeypatch.setattr(directions, "_PIECE", 7)
    assert np.array_equal(nearest(vectors), whole[0]) and np.array_equal(cosines(vectors, vectors[::-1]), whole[1])
