from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.benchmarks import fidelity
from accel.benchmarks.fidelity import compare
from accel.errors import BackendFault


def logits(samples: int = 200, classes: int = 10) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(samples, classes)).astype(np.float32)


def test_identical_outputs() -> None:
    found = compare([logits()], [logits()], vs="eager")
    assert (found.vs, found.top1_agreement, found.sqnr_db, found.max_abs_difference) == ("eager", 1.0, None, 0.0)
    assert found.nonfinite_values == 0
    assert "Infinity" not in found.model_dump_json()


def test_known_noise() -> None:
    reference = np.full((100, 4), 10.0)
    found = compare([reference + np.array([1.0, -1.0, 1.0, -1.0])], [reference], vs="eager")
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.max_abs_difference == pytest.approx(1.0)


def test_agreement_counts_samples() -> None:
    theirs = np.eye(4, dtype=np.float32)
    ours = theirs.copy()
    ours[0] = ours[0][::-1]
    assert compare([ours], [theirs], vs="eager").top1_agreement == 0.75


def test_files_are_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, noisy = logits(), logits() + np.float32(0.01) * logits()[::-1]
    np.save(tmp_path / "a.npy", noisy)
    np.save(tmp_path / "b.npy", reference)
    whole = compare([noisy], [reference], vs="eager")
    monkeypatch.setattr(fidelity, "PIECE_VALUES", 70)
    pieces = compare([tmp_path / "a.npy"], [tmp_path / "b.npy"], vs="eager")
    assert pieces.model_dump() == pytest.approx(whole.model_dump())


@pytest.mark.parametrize("side", ["ours", "theirs"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_never_agree(side: str, value: float) -> None:
    ours, theirs = logits(), logits()
    (ours if side == "ours" else theirs)[3, :] = value  # argmax of NaN alone would be class 0, a silent answer
    found = compare([ours], [theirs], vs="eager")
    assert found.nonfinite_values == 10
    assert found.top1_agreement == pytest.approx(199 / 200)
    assert found.max_abs_difference == 0


def test_all_nan_agrees_nowhere() -> None:
    gone = np.full((20, 10), np.nan)
    found = compare([gone], [gone], vs="eager")
    assert (found.top1_agreement, found.sqnr_db, found.nonfinite_values) == (0.0, None, 200)


def test_several_outputs_report_the_worst() -> None:
    images = np.ones((200, 3, 8, 8))
    found = compare([logits(), images * 1.1], [logits(), images], vs="eager")
    assert found.sqnr_db == pytest.approx(20.0)
    assert found.max_abs_difference == pytest.approx(0.1)
    assert found.top1_agreement == 1.0


@pytest.mark.parametrize("shape", [(200,), (200, 1), (200, 3, 8, 8)])
def test_no_agreement_where_the_output_is_not_classes(shape: tuple[int, ...]) -> None:
    assert compare([np.ones(shape)], [np.ones(shape)], vs="eager").top1_agreement is None


def test_silent_reference_has_no_ratio() -> None:
    found = compare([np.ones((5, 2))], [np.zeros((5, 2))], vs="eager")
    assert (found.sqnr_db, found.max_abs_difference) == (None, 1.0)


def test_whole_numbers_do_not_wrap() -> None:
    found = compare([np.zeros((5, 2), np.uint8)], [np.full((5, 2), 200, np.uint8)], vs="eager")
    assert found.max_abs_difference == 200


def test_other_shapes_or_numbers_of_outputs_are_faults() -> None:
    with pytest.raises(BackendFault, match="shape"):
        compare([logits(10)], [logits(20)], vs="eager")
    with pytest.raises(BackendFault, match="2 outputs"):
        compare([logits(), logits()], [logits()], vs="eager")
