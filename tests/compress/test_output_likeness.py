from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.compress import output_likeness
from accel.compress.output_likeness import Compared, Remembered
from accel.contracts import AnswerKind
from accel.errors import PassFault

Floats = NDArray[np.float32]
WANTED = np.array([[3.0, 4.0], [4.0, 3.0]], np.float32)


def compared(output: Floats, kind: AnswerKind = "classes", wanted: Sequence[Floats] = (WANTED,)) -> Compared:
    found = Compared(wanted, kind, "it")
    found.append(output)
    return found


def test_classes_are_alike_where_the_largest_is_and_vectors_as_far_as_they_point_the_same_way() -> None:
    turned = np.array([[30.0, 40.0], [3.0, 4.0]], np.float32)
    assert compared(turned).likeness() == 0.5
    assert compared(turned, "embeddings").likeness() == pytest.approx((1.0 + 24 / 25) / 2)


def test_noise_is_squared_error_over_squared_output() -> None:
    assert compared(WANTED + np.float32(1)).noise() == pytest.approx(4 / 50)
    assert compared(WANTED).noise() == 0.0
    assert compared(WANTED, wanted=(np.zeros((2, 2), np.float32),)).noise() is None


def test_what_is_no_number_is_like_nothing() -> None:
    for kind in output_likeness.LIKENESS:
        found = compared(np.full((2, 2), np.nan, np.float32), kind)
        assert found.likeness() is None and found.noise() is None


def test_outputs_without_answers_have_noise_only() -> None:
    tokens = np.ones((2, 3, 4), np.float32)
    found = compared(tokens * 2, "embeddings", (tokens,))
    assert found.likeness() is None and found.noise() == 1.0


def test_another_shape_is_refused_and_what_is_not_remembered_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PassFault, match=r"^it gives \[1, 2\] instead of \[2, 2\]"):
        compared(WANTED[:1])
    monkeypatch.setattr(output_likeness, "REMEMBERED", 6)
    kept = Remembered()
    for _ in range(2):
        kept.append(WANTED)
    assert len(kept.batches) == 1
    found = compared(WANTED, wanted=kept.batches)
    assert found.done
    found.append(WANTED + 1)
    assert found.noise() == 0.0
