from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from accel.benchmarks.intervals import inverse, minus, newcombe, over, scaled, wilson
from accel.report import Estimate


def test_wilson_gives_the_published_bounds() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(right / n, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1.0, 20)[1] == 1.0
    assert wilson(0.5, 0) == (0.0, 1.0)


def test_newcombe_gives_the_published_bounds() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 873-890, table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/20.
    for (a, m), (b, n), low, high in (
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
    ):
        found = newcombe(a / m, m, b / n, n)
        assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_a_ratio_of_ratios_combines_both_errors_in_the_logarithm() -> None:
    found = over(Estimate(value=2.0, low=2 / 1.03, high=2 * 1.03), Estimate(value=1.0, low=1 / 1.04, high=1.04))
    half = math.exp(math.hypot(math.log(1.03), math.log(1.04)))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2 / half, 2 * half))


def test_what_is_not_known_stays_unknown() -> None:
    bare = Estimate(value=2.0)
    assert minus(bare, Estimate(value=1.0, low=0.5, high=1.5)) == Estimate(value=1.0)
    assert over(bare, Estimate(value=4.0, low=3.0, high=5.0)) == Estimate(value=0.5)
    assert inverse(Estimate(value=2.0, low=0.0, high=4.0)) == Estimate(value=0.5, low=0.25)


def test_a_negative_factor_turns_the_bounds() -> None:
    assert scaled(Estimate(value=1.0, low=0.0, high=3.0), -2.0, 1.0) == Estimate(value=-1.0, low=-5.0, high=1.0)


shares = st.integers(0, 400).flatmap(lambda right: st.tuples(st.just(right), st.integers(max(1, right), 500)))


@examples(max_examples=60, deadline=None)
@given(shares)
def test_a_share_lies_in_its_interval_and_that_in_zero_to_one(found: tuple[int, int]) -> None:
    right, n = found
    low, high = wilson(right / n, n)
    assert 0 <= low <= right / n <= high <= 1


@examples(max_examples=60, deadline=None)
@given(shares, shares)
def test_a_difference_lies_in_its_interval_and_turns_round_with_its_sides(one: tuple[int, int], two: tuple[int, int]) -> None:
    there, back = (
        newcombe(one[0] / one[1], one[1], two[0] / two[1], two[1]),
        newcombe(two[0] / two[1], two[1], one[0] / one[1], one[1]),
    )
    assert there.low is not None
    assert there.high is not None
    assert there.low <= there.value <= there.high
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))
