"""The first layer that differs, from values by hand: wrong in itself, wrong only when fused, and not at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from accel.benchmarks.divergence import Divergence, first_divergence, step
from accel.errors import DataFault

NODES = [f"n{index}" for index in range(16)]
VALUES: dict[str, Any] = {name: np.random.default_rng(index).standard_normal((2, 8)) for index, name in enumerate(NODES)}


def expected(nodes: Sequence[str]) -> list[Any]:
    return [VALUES[node] for node in nodes]


class Wrong:
    """Values that are off from ``start`` on; ``fused``: only where a node is looked at alone. Counts what it is asked."""

    def __init__(self, start: int, *, fused: bool = False) -> None:
        self.start, self.fused = start, fused
        self.asked: list[int] = []

    def __call__(self, nodes: Sequence[str]) -> list[Any]:
        self.asked.append(len(nodes))
        right = self.fused and len(nodes) > 1
        return [VALUES[node] + (0.0 if right or NODES.index(node) < self.start else 1.0) for node in nodes]


def test_two_that_agree_are_asked_twice() -> None:
    found = Wrong(99)
    answer = first_divergence(NODES, expected, found, below_db=40)
    assert answer.first is None and answer.result.sqnr_db is None
    assert found.asked == [16, 1]


@pytest.mark.parametrize("start", [0, 7, 15])
def test_a_layer_that_is_wrong_in_itself(start: int) -> None:
    answer = first_divergence(NODES, expected, Wrong(start), below_db=40)
    assert answer.first is not None
    assert (answer.first.node, answer.fused) == (NODES[start], False)
    assert [each.node for each in answer.steps if each.below(40)] == NODES[start:]


@pytest.mark.parametrize("start", [0, 7, 15])
def test_a_fusion_is_found_by_looking_at_one_value_at_a_time(start: int) -> None:
    found = Wrong(start, fused=True)
    answer: Divergence = first_divergence(NODES, expected, found, below_db=40)
    assert answer.first is not None
    assert (answer.first.node, answer.fused) == (NODES[start], True)
    assert not any(each.below(40) for each in answer.steps)
    assert len(found.asked) <= 2 + math.ceil(math.log2(len(NODES)))


def test_a_small_difference_is_none_until_it_is_asked_for() -> None:
    def noisy(nodes: Sequence[str]) -> list[Any]:
        return [VALUES[node] * (1 + 1e-4) for node in nodes]

    assert first_divergence(NODES, expected, noisy, below_db=40).first is None
    answer = first_divergence(NODES, expected, noisy, below_db=90)
    assert answer.first is not None and answer.first.sqnr_db == pytest.approx(80, abs=0.1)


def test_the_loss_of_a_layer_is_against_the_worst_that_it_reads() -> None:
    def worse(nodes: Sequence[str]) -> list[Any]:
        scale = {"n0": 1e-4, "n1": 1e-3, "n2": 1e-2}
        return [VALUES[node] * (1 + scale[node]) for node in nodes]

    answer = first_divergence(NODES[:3], expected, worse, below_db=10, reads={"n2": ["n0", "n1"], "n1": ["n0"]})
    assert [each.lost_db for each in answer.steps] == [None, pytest.approx(20, abs=0.1), pytest.approx(20, abs=0.1)]


def test_what_is_no_matter_of_degree() -> None:
    ones = np.ones((2, 2))
    assert step("n", ones, np.ones((2, 3))).wrong == "its shape is [2, 3], expected was [2, 2]"
    odd = np.array([[1.0, np.nan], [1.0, np.inf]])
    assert step("n", ones, odd).wrong.startswith("2 of its 4 values are NaN")
    assert step("n", odd, odd).wrong == "" and step("n", odd, odd).sqnr_db is None
    assert step("n", ones, odd).below(-1e9)
    silent = step("n", np.zeros(3), np.ones(3))
    assert silent.sqnr_db == -math.inf and silent.below(0) and silent.max_abs_difference == 1.0


def test_networks_without_a_common_name() -> None:
    with pytest.raises(DataFault, match="no layer has one name in both"):
        first_divergence([], expected, expected, below_db=40)
