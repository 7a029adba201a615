from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.benchmarks import class_outputs
from accel.benchmarks.class_outputs import UNKNOWN, are_shares, class_scores, largest, predictions, shares, softmax


def test_what_is_a_classifier(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 3), np.float16))
    opened = class_scores(tmp_path / "a.npy")
    assert opened is not None
    assert opened.shape == (4, 3)
    pooled = class_scores(np.zeros((4, 3, 1, 1)))
    assert pooled is not None
    assert pooled.shape == (4, 3)
    for shape in [(4,), (4, 1), (4, 3, 8), ()]:
        assert class_scores(np.zeros(shape)) is None
    assert class_scores(np.zeros((4, 3), complex)) is None


def test_predictions_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).normal(size=(101, 7)).astype(np.float32)
    scores[5] = np.nan
    monkeypatch.setattr(class_outputs, "PIECE_VALUES", 30)
    found = predictions(scores)
    assert found[5] == UNKNOWN
    kept = np.arange(101) != 5
    assert (found[kept] == scores[kept].argmax(axis=1)).all()
    assert largest(np.array([[1.0, 1.0, 0.0], [-np.inf, np.inf, np.inf]])).tolist() == [0, 1]


def test_softmax_of_anything() -> None:
    inf, nan, huge = np.inf, np.nan, np.finfo(np.float64).max
    found = softmax(
        np.array(
            [[0.0, 0, 0], [1000, 0, -1000], [inf, 0, inf], [-inf, -inf, -inf], [-inf, 0, 0], [nan, 0, inf], [huge, -huge, 0]]
        )
    )
    third = [1 / 3] * 3
    expected = [third, [1, 0, 0], [0.5, 0, 0.5], third, [0, 0.5, 0.5], [nan] * 3, [1, 0, 0]]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-12)


def test_probabilities_are_told_from_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(50, 4))
    assert are_shares(softmax(logits).astype(np.float16))
    assert not are_shares(logits)
    assert not are_shares(np.log(softmax(logits)))
    assert not are_shares(np.full((2, 4), np.nan))
    assert not are_shares(np.zeros((0, 4)))


def test_rounded_probabilities_are_made_whole() -> None:
    found = shares(np.array([[0.5, 0.25, 0.0], [1.0, -0.01, 0.0], [0.0, 0, 0], [np.inf, 0, 0]]))
    np.testing.assert_allclose(found, np.array([[2 / 3, 1 / 3, 0], [1, 0, 0], [np.nan] * 3, [np.nan] * 3]))
