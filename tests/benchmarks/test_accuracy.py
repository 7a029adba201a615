from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.benchmarks.accuracy import difference, metrics, tango
from accel.contracts import Score
from accel.errors import DataFault
from accel.report import Estimate


def score(values: object, **fields: bool) -> Score:
    array = np.asarray(values, dtype=np.float64)
    return Score(value=float(array.mean()), per_sample=array, **fields)


def bounds(found: Estimate) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_difference_is_paired_by_sample() -> None:
    """The same two accuracies: few disagreements give a tight interval, many a wide one."""
    right = np.r_[np.ones(900), np.zeros(100)]
    close = right.copy()
    close[:4] = 0
    shuffled = np.random.default_rng(0).permutation(close)
    near, far = difference(score(close), score(right)), difference(score(shuffled), score(right))
    assert near.value == pytest.approx(-0.004)
    assert far.value == pytest.approx(-0.004)
    assert bounds(near)[1] - bounds(near)[0] < 0.015
    assert bounds(far)[1] - bounds(far)[0] > 0.04


def test_no_disagreement_still_leaves_room() -> None:
    same = score(np.ones(1000))
    low, high = bounds(difference(same, same))
    assert low == pytest.approx(-high)
    assert 3 / 1000 <= high <= 4 / 1000  # the rule of three is one-sided; two-sided it is z squared / n


def test_no_disagreement_of_graded_values_leaves_room_too() -> None:
    same = score(np.linspace(0.2, 0.8, 100))
    assert bounds(difference(same, same)) == pytest.approx((-0.018, 0.018))


@pytest.mark.parametrize(("samples", "drop", "disagreement"), [(1000, 0.0, 0.03), (1000, -0.01, 0.03), (60, -0.05, 0.15)])
def test_interval_holds_the_truth_19_times_in_20(samples: int, drop: float, disagreement: float) -> None:
    generator = np.random.default_rng(11)
    chances = [(disagreement + drop) / 2, (disagreement - drop) / 2]
    held = 0
    for gained, lost, _ in generator.multinomial(samples, [*chances, 1 - sum(chances)], size=600):
        low, high = tango(int(gained), int(lost), samples)
        held += low <= drop <= high
    assert 0.92 <= held / 600 <= 0.985


def test_graded_interval_holds_the_truth() -> None:
    generator = np.random.default_rng(4)
    held = 0
    for _ in range(300):
        theirs = generator.normal(0.5, 0.2, 30)
        low, high = bounds(difference(score(theirs + generator.normal(-0.1, 0.5, 30)), score(theirs)))
        held += low <= -0.1 <= high
    assert 0.92 <= held / 300 <= 0.985


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=200))
@settings(max_examples=80, deadline=None)
def test_difference_is_in_its_interval_and_turns_over(pairs: list[tuple[bool, bool]]) -> None:
    ours, theirs = (score([pair[side] for pair in pairs]) for side in (0, 1))
    forth, back = difference(ours, theirs), difference(theirs, ours)
    low, high = bounds(forth)
    assert -1 <= low <= forth.value <= high <= 1
    assert low < high
    assert bounds(back) == pytest.approx((-high, -low), abs=1e-9)


def test_metric_without_values_per_sample_has_no_interval() -> None:
    found = difference(Score(value=0.75), Score(value=0.5))
    assert found == Estimate(value=0.25)


def test_one_sample_has_no_interval() -> None:
    assert difference(score([1]), score([0])) == Estimate(value=1)


def test_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be paired"):
        difference(score([1, 0, 1]), score([1, 0]))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metric_that_is_no_number_is_a_fault(value: float) -> None:  # fault 41
    with pytest.raises(DataFault, match="metric f1"):
        metrics({"f1": Score(value=value)}, None, 10)


def test_rows_of_metrics() -> None:
    ours = {"top1": score([1, 0, 1, 1]), "loss": Score(value=0.5, higher_is_better=False), "own": Score(value=3.0)}
    theirs = {"top1": score([1, 1, 1, 1]), "loss": Score(value=0.25, higher_is_better=False)}
    top1, loss, own = metrics(ours, theirs, samples=4)
    assert (top1.name, top1.value, top1.n) == ("top1", 0.75, 4)
    assert top1.difference is not None
    assert top1.difference.value == pytest.approx(-0.25)
    assert (loss.n, loss.higher_is_better, loss.difference) == (4, False, Estimate(value=0.25))
    assert own.difference is None
    assert [metric.difference for metric in metrics(ours, None, samples=4)] == [None, None, None]


def test_right_or_wrong_metrics_are_tested_and_resampled() -> None:
    right = np.r_[np.ones(900), np.zeros(100)]
    worse = right.copy()
    worse[:12] = 0
    worse[990:] = 1
    (found,) = metrics({"top1": score(worse)}, {"top1": score(right)}, samples=1000)
    assert found.mcnemar is not None
    assert (found.mcnemar.gained, found.mcnemar.lost) == (10, 12)
    assert found.mcnemar.p_value == pytest.approx(0.8318, abs=1e-4)
    assert found.bootstrap is not None
    assert found.difference is not None
    assert found.bootstrap.value == pytest.approx(found.difference.value)
    assert bounds(found.bootstrap) == pytest.approx(bounds(found.difference), abs=0.002)


def test_graded_metrics_are_resampled_and_not_tested() -> None:
    theirs = np.linspace(0.2, 0.9, 50)
    (found,) = metrics({"own": score(theirs - 0.1 * theirs)}, {"own": score(theirs)}, samples=50)
    assert found.mcnemar is None
    assert found.bootstrap is not None
    low, high = bounds(found.bootstrap)
    assert low < -0.055 < high < 0


def test_a_number_of_the_whole_split_is_neither() -> None:
    for ours, theirs in [(Score(0.5), Score(0.75)), (score([1, 0]), Score(0.75)), (Score(0.5), score([1, 1]))]:
        (found,) = metrics({"f1": ours}, {"f1": theirs}, samples=2)
        assert (found.mcnemar, found.bootstrap) == (None, None)


def test_the_reference_itself_has_neither() -> None:
    (found,) = metrics({"top1": score([1, 0])}, None, samples=2)
    assert (found.mcnemar, found.bootstrap) == (None, None)


def test_rows_over_other_samples_are_a_fault() -> None:
    with pytest.raises(DataFault, match="metric top1: scores"):
        metrics({"top1": score([1, 0, 1])}, {"top1": score([1, 0])}, samples=3)


def test_a_sample_that_is_no_number_is_a_fault() -> None:
    odd = Score(value=0.5, per_sample=np.array([1.0, math.inf]))
    with pytest.raises(DataFault, match="metric own: a sample's value"):
        metrics({"own": odd}, {"own": odd}, samples=2)
