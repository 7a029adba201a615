from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.benchmarks.classes import drops
from accel.errors import DataFault


def answers(predicted: NDArray[np.int64], classes: int) -> NDArray[np.float32]:
    return np.eye(classes, dtype=np.float32)[predicted]


def test_the_classes_that_lost_most_come_first() -> None:
    labels = np.repeat(np.arange(4), 100)
    before = labels.copy()
    before[:10] = 1  # 10 of class 0 were wrong
    after = before.copy()
    after[:5] = 0  # class 0 gains 5
    after[100:103] = 0  # class 1 loses 3
    after[200:240] = 0  # class 2 loses 40
    found = drops(answers(after, 4), answers(before, 4), labels)
    assert [(drop.label, drop.n, drop.reference, drop.value) for drop in found] == [(2, 100, 1.0, 0.6), (1, 100, 1.0, 0.97)]
    assert [drop.significant for drop in found] == [True, False]


def test_what_a_class_gained_counts_against_what_it_lost() -> None:
    labels = np.repeat([0, 1], 10)
    before, after = labels.copy(), labels.copy()
    before[:4] = 1
    after[4:7] = 1
    assert drops(answers(after, 2), answers(before, 2), labels) == []  # lost 3, gained 4
    (found,) = drops(answers(before, 2), answers(after, 2), labels)
    assert (found.label, found.value, found.reference) == (0, 0.6, 0.7)


def test_twenty_at_most_and_a_significant_one_among_them() -> None:
    """Thirty classes of two samples each lose one; a class of 500 loses a fifth, which is less in share."""
    labels = np.r_[np.repeat(np.arange(30), 2), np.full(500, 30)]
    after = labels.copy()
    after[0:60:2] = 31
    after[60:160] = 31
    found = drops(answers(after, 32), answers(labels, 32), labels)
    assert len(found) == 20
    assert [drop.label for drop in found] == [*range(19), 30]
    assert [drop.label for drop in found if drop.significant] == [30]


def test_of_many_classes_one_loses_by_chance() -> None:
    """6 of 6 lost is p = 0.03 alone, which one class in a thousand reaches often."""
    labels = np.repeat(np.arange(1000), 6)
    after = labels.copy()
    after[:6] = 5
    (found,) = drops(answers(after, 1000), answers(labels, 1000), labels)
    assert (found.value, found.significant) == (0.0, False)


def test_nan_is_never_right() -> None:
    labels = np.array([0, 0, 1, 1])
    before = answers(labels, 2)
    after = before.copy()
    after[0] = np.nan
    after[2] = [-np.inf, np.inf]
    (found,) = drops(after, before, labels)
    assert (found.label, found.value) == (0, 0.5)


def test_none_where_there_is_nothing_to_compare() -> None:
    labels = np.array([3, 3, 3])
    right, wrong = answers(labels, 4), answers(labels * 0, 4)
    assert drops(wrong, right, labels) == []  # one class only
    assert drops(np.zeros((3, 1)), np.zeros((3, 1)), np.array([0, 1, 0])) == []
    assert drops(np.zeros((3, 4, 5)), np.zeros((3, 4, 5)), np.array([0, 1, 0])) == []
    assert drops(np.zeros((3, 4)), np.zeros((3, 5)), np.array([0, 1, 0])) == []


def test_labels_of_other_samples_are_a_fault() -> None:
    with pytest.raises(DataFault, match="labels of shape"):
        drops(np.zeros((3, 4)), np.zeros((3, 4)), np.array([0, 1]))


def test_pooled_outputs_and_huge_labels() -> None:
    labels = np.array([0, 1, 2**31])
    found = drops(np.zeros((3, 2, 1, 1)), answers(np.array([0, 1, 1]), 2).reshape(3, 2, 1, 1), labels)
    assert [(drop.label, drop.value) for drop in found] == [(1, 0.0)]
