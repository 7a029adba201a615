from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.errors import DataFault, SafetyRefusal, UsageError
from accel.imports import ImportPolicy
from accel.tasks.metric_names import require_known
from accel.tasks.metrics import class_scores, custom, ranked, ranks, require_no_nan

RANDOM = np.random.default_rng(0)


def test_rank_zero_is_what_argmax_answers() -> None:
    logits = RANDOM.integers(0, 4, (200, 7)).astype(np.float32)  # many ties
    labels = RANDOM.integers(0, 7, 200)
    found = ranks(logits, labels)
    assert ((found == 0) == (logits.argmax(1) == labels)).all()
    order = np.argsort(-logits, axis=1, kind="stable")
    assert (order[np.arange(200), found] == labels).all()


def test_equal_outputs_are_no_answer() -> None:
    found = ranks(np.zeros((8, 8), np.float32), np.arange(8))
    assert list(found) == list(range(8))


def test_top1_and_top5_are_fractions_with_their_samples() -> None:
    scores, remarks = ranked(np.array([0, 4, 5, 0]), ["top5", "top1"], 10)
    assert remarks == [] and list(scores) == ["top5", "top1"]
    assert scores["top1"].value == 0.5 and scores["top5"].value == 0.75
    per_sample = scores["top5"].per_sample
    assert per_sample is not None and per_sample.dtype == np.float64 and list(per_sample) == [1, 1, 0, 1]


@pytest.mark.parametrize("classes", [2, 5])
def test_top5_means_nothing_for_five_classes(classes: int) -> None:
    scores, remarks = ranked(np.array([0, 1]), ["top1", "top5"], classes)
    assert list(scores) == ["top1"]
    assert remarks == [f"task.metrics: top5 is left out: the model has {classes} classes only"]
    assert list(ranked(np.array([0, 1]), ["top5"], 6)[0]) == ["top5"]


@pytest.mark.parametrize("shape", [(3,), (2, 10), (3, 10, 4), (3, 1), ()])
def test_outputs_that_are_no_class_scores_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataFault, match="model: output of shape"):
        class_scores([np.zeros(shape)], 3)


def test_trailing_axes_of_one_are_dropped() -> None:
    assert class_scores([np.zeros((3, 10, 1, 1))], 3).shape == (3, 10)
    with pytest.raises(DataFault, match="gave no outputs"):
        class_scores([], 3)


def test_nan_outputs_name_the_sample() -> None:
    outputs = np.zeros((3, 4), np.float32)
    require_no_nan([outputs, np.zeros(3, np.int64)], ["a", "b", "c"])
    outputs[1, 2] = np.nan
    with pytest.raises(DataFault, match=r"outputs are NaN for b \(output 0\)"):
        require_no_nan([outputs], ["a", "b", "c"])
    with pytest.raises(DataFault, match=r"outputs are NaN \(all of output 1\)"):
        require_no_nan([np.zeros((3, 4)), np.full((3, 4), np.nan)], ["a", "b", "c"])


@pytest.mark.parametrize("names", [["top2"], ["top1", "accuracy"], []])
def test_unknown_metrics_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"task.metrics: "):
        require_known(names)


METRICS = """
import numpy as np
def errors(outputs, labels):
    return float((outputs[0].argmax(1) != labels).mean())
errors.higher_is_better = False
def right(outputs, labels):
    return outputs[0].argmax(1) == labels
def nan(outputs, labels):
    return float("nan")
def nan_inside(outputs, labels):
    return np.array([0.0, np.nan, 1.0])
def infinite(outputs, labels):
    return float("inf")
def wrong_shape(outputs, labels):
    return np.zeros(7)
def text(outputs, labels):
    return "good"
def nothing(outputs, labels):
    return None
def raises(outputs, labels):
    raise RuntimeError("no idea")
"""


@pytest.fixture
def policy(tmp_path: Path) -> ImportPolicy:
    (tmp_path / "metrics.py").write_text(METRICS)
    return ImportPolicy(tmp_path)


OUTPUTS, LABELS = [np.eye(3, dtype=np.float32)], np.array([0, 1, 0])


def test_a_callable_gives_a_number(policy: ImportPolicy) -> None:
    found = custom("metrics.py:errors", policy, OUTPUTS, LABELS)
    assert found.value == pytest.approx(1 / 3) and found.per_sample is None and not found.higher_is_better


def test_a_callable_gives_a_number_for_each_sample(policy: ImportPolicy) -> None:
    found = custom("metrics.py:right", policy, OUTPUTS, LABELS)
    assert found.per_sample is not None and list(found.per_sample) == [1, 1, 0]
    assert found.value == pytest.approx(2 / 3) and found.higher_is_better


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nan", "gave nan; a metric is a finite number"),
        ("nan_inside", "gave nan for sample 1; a metric is a finite number"),
        ("infinite", "gave inf; a metric is a finite number"),
        ("wrong_shape", r"gave shape \(7,\); give a number, or one for each of 3 samples"),
        ("text", "gave a str"),
        ("nothing", "gave nan"),
        ("raises", r"raised RuntimeError(.|\n)*no idea"),
    ],
)
def test_a_metric_that_is_no_number_is_a_fault(policy: ImportPolicy, name: str, message: str) -> None:
    """Fault 41."""
    with pytest.raises(DataFault, match=rf"metric metrics.py:{name}: {message}") as raised:
        custom(f"metrics.py:{name}", policy, OUTPUTS, LABELS)
    assert raised.value.exit_code == 4


def test_only_allowed_metrics_are_called(policy: ImportPolicy) -> None:
    with pytest.raises(SafetyRefusal):
        custom("os:system", policy, OUTPUTS, LABELS)
