from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.benchmarks import class_outputs
from accel.benchmarks.differing import differing
from accel.report import Differing


def logits(*first: float) -> NDArray[np.float64]:
    """Of two classes; ``first``: the share of the first one, for each sample."""
    shares = np.array(first)
    found: NDArray[np.float64] = np.log(np.stack([shares, 1 - shares], axis=1))
    return found


def test_other_answers_come_first_then_the_largest_distance() -> None:
    before = logits(0.9, 0.6, 0.55, 0.2, 0.9, 0.9)
    after = logits(0.6, 0.4, 0.45, 0.9, 0.9, 0.895)
    found = differing(after, before, 10)
    assert [each.sample for each in found] == [3, 1, 2, 0]  # 4 is the same, 5 by less than a hundredth
    assert found[0] == Differing(sample=3, predicted=0, reference=1, distance=found[0].distance)
    assert [each.distance for each in found] == pytest.approx([0.7, 0.2, 0.1, 0.3])
    assert [each.sample for each in differing(after, before, 2)] == [3, 1]
    assert differing(after, before, 0) == []


def test_a_close_call_that_turned_is_shown_however_close() -> None:
    (found,) = differing(logits(0.4999), logits(0.5001), 5)
    assert (found.predicted, found.reference) == (1, 0)
    assert found.distance < 0.001


def test_equal_distances_stand_in_the_order_of_the_samples() -> None:
    assert [each.sample for each in differing(logits(*[0.3] * 9), logits(*[0.7] * 9), 4)] == [0, 1, 2, 3]


def test_probabilities_are_not_squashed_once_more() -> None:
    before, after = np.array([[0.99, 0.01], [0.5, 0.5]]), np.array([[0.01, 0.99], [0.5, 0.5]])
    assert [each.distance for each in differing(after, before, 5)] == pytest.approx([0.98])


def test_identical_rows_show_nothing() -> None:
    scores = np.random.default_rng(0).normal(size=(40, 5))
    assert differing(scores, scores, 6) == []


def test_nan_and_infinity_are_no_crash_and_no_answer() -> None:
    before = np.array([[1.0, 0], [1, 0], [1, 0], [np.nan, 0], [-np.inf, -np.inf]])
    after = np.array([[np.nan, 0], [-np.inf, 0], [np.inf, np.inf], [0, 1], [np.inf, 0]])
    found = differing(after, before, 9)
    assert [(each.sample, each.predicted) for each in found] == [(1, 1), (4, 0), (2, 0)]
    assert all(0 <= each.distance <= 1 for each in found)


def test_no_classifier_has_none() -> None:
    assert differing(np.zeros((4, 3, 8)), np.ones((4, 3, 8)), 6) == []
    assert differing(np.zeros((4, 1)), np.ones((4, 1)), 6) == []


def test_files_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    before = generator.normal(size=(300, 6)).astype(np.float32)
    after = before + generator.normal(scale=0.5, size=before.shape).astype(np.float32)
    np.save(tmp_path / "before.npy", before)
    np.save(tmp_path / "after.npy", after)
    whole = differing(after, before, 12)
    monkeypatch.setattr(class_outputs, "PIECE_VALUES", 100)
    assert differing(tmp_path / "after.npy", tmp_path / "before.npy", 12) == whole
    assert len(whole) == 12
