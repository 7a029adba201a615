from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.imports import ImportPolicy
from accel.tasks.embedding_scores import nearest_label, score

VECTORS = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 1.0]], np.float32)


def test_the_nearest_other_sample_counts_and_not_the_sample_itself() -> None:
    found = nearest_label(VECTORS, np.array([0, 0, 1, 1, 5]))
    assert found.per_sample is not None and found.per_sample.tolist() == [1, 1, 1, 1, 0]
    assert found.value == pytest.approx(0.8)
    assert nearest_label(VECTORS, np.arange(5)).value == 0.0
    assert nearest_label(VECTORS[:1], np.array([0])).value == 0.0


def test_length_does_not_count() -> None:
    longer = VECTORS * np.array([[100], [1], [0.01], [1], [1]], np.float32)
    assert nearest_label(longer, np.array([0, 0, 1, 1, 5])).value == pytest.approx(0.8)


def test_padded_samples_are_not_scored_and_metrics_of_ones_own_get_all(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def width(outputs, labels):\n    return [float(len(outputs[0]))] * len(labels)\n")
    answers = [([VECTORS[:3]], np.array([0, 0, 1]), ["a", "b", "c"]), ([VECTORS[3:]], np.array([1, 1]), ["d"])]
    scores, remarks = score(answers, ("nearest_label", "mine.py:width"), ImportPolicy(tmp_path))
    assert scores["nearest_label"].value == 1.0 and scores["mine.py:width"].value == 4.0 and remarks == []
