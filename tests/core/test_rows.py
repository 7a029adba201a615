"""What a row says of outputs and labels that sessions left in files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.model import Target
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import Row
from accel.rows import Found, Subject, row

LABELS = np.repeat(np.arange(3), 50)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def found(
    folder: Path,
    name: str,
    predicted: NDArray[np.int64],
    *,
    role: Literal["reference", "baseline", "result"] = "result",
    labels: NDArray[np.int64] | None = LABELS,
    shape: tuple[int, ...] = (3,),
) -> Found:
    """As a session leaves it."""
    place = folder / name
    place.mkdir()
    outputs = (4 * np.eye(int(np.prod(shape)), dtype=np.float32)[predicted]).reshape(len(predicted), *shape)
    np.save(place / "0.output.npy", outputs)
    right = (predicted == LABELS).astype(np.float64)
    np.save(place / "0.metric.npy", right)
    if labels is not None:
        np.save(place / "labels.npy", labels)
    subject = Subject(name, role, None, Target(name, "onnxruntime"), {}, None)
    metric = {"value": float(right.mean()), "per_sample": str(place / "0.metric.npy"), "higher_is_better": True}
    score = {
        "metrics": {"top1": metric},
        "outputs": [str(place / "0.output.npy")],
        "labels": None if labels is None else str(place / "labels.npy"),
        "samples": len(predicted),
        "classes": 3,
        "warnings": [],
    }
    return Found(subject, score=score)


def worse() -> NDArray[np.int64]:
    """Class 1 loses 20 of 50, class 2 loses 2, class 0 nothing."""
    predicted = LABELS.copy()
    predicted[50:70] = 0
    predicted[100:102] = 1
    return predicted


def made(ours: Found, reference: Found | None, **settings: Any) -> Row:
    return row(ours, reference, [], {}, BenchmarkSettings(), **settings)


def test_a_result_says_what_it_lost_and_where(folder: Path) -> None:
    reference = found(folder, "eager", LABELS, role="reference")
    ours = made(found(folder, "int8", worse()), reference, samples=4)
    (top1,) = ours.metrics
    assert top1.mcnemar is not None
    assert (top1.mcnemar.gained, top1.mcnemar.lost) == (0, 22)
    assert top1.bootstrap is not None
    assert [(drop.label, drop.n, drop.value, drop.significant) for drop in ours.classes] == [
        (1, 50, 0.6, True),
        (2, 50, 0.96, False),
    ]
    assert [each.sample for each in ours.differing] == [50, 51, 52, 53]
    assert {(each.predicted, each.reference) for each in ours.differing} == {(0, 1)}
    assert made(found(folder, "again", worse()), reference, samples=0).differing == []


def test_pictures_are_for_results_only(folder: Path) -> None:
    reference = found(folder, "eager", LABELS, role="reference")
    baseline = made(found(folder, "bf16", worse(), role="baseline"), reference, samples=4)
    assert [drop.label for drop in baseline.classes] == [1, 2]
    assert baseline.differing == []


def test_the_reference_is_compared_with_nothing(folder: Path) -> None:
    reference = found(folder, "eager", LABELS, role="reference")
    alone = made(reference, reference, samples=4)
    assert (alone.classes, alone.differing) == ([], [])
    assert [(metric.mcnemar, metric.bootstrap) for metric in alone.metrics] == [(None, None)]


def test_without_labels_there_are_no_classes(folder: Path) -> None:
    reference = found(folder, "eager", LABELS, role="reference", labels=None)
    ours = made(found(folder, "int8", worse()), reference, samples=1)
    assert ours.classes == []
    assert [each.sample for each in ours.differing] == [50]


def test_no_classifier_has_neither(folder: Path) -> None:
    reference = found(folder, "eager", LABELS, role="reference", shape=(3, 2))
    ours = made(found(folder, "int8", worse(), shape=(3, 2)), reference, samples=3)
    assert (ours.status, ours.classes, ours.differing) == ("measured", [], [])


def test_other_labels_cost_the_row(folder: Path) -> None:
    """Data that is shuffled anew by each process: what would be compared are different images."""
    reference = found(folder, "eager", LABELS, role="reference")
    ours = made(found(folder, "int8", worse(), labels=LABELS[::-1].copy()), reference, samples=3)
    assert ours.status == "failed"
    assert ours.reason is not None
    assert ours.reason.startswith("data.validation: its labels were others")
    assert (ours.metrics, ours.classes, ours.differing) == ([], [], [])
