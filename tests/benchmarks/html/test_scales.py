from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.benchmarks.html.scales import fit, tick_text

NUMBERS = st.floats(1e-6, 1e9)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans())
def test_everything_lies_on_the_axis(values: list[float], may_be_log: bool) -> None:
    scale = fit(values, 10, 110, may_be_log=may_be_log)
    assert all(10 - 1e-6 <= scale.at(value) <= 110 + 1e-6 for value in values)
    assert scale.at(max(values)) >= scale.at(min(values))
    ticks = scale.ticks(6)
    assert len(ticks) <= 8
    assert ticks == sorted(ticks)
    assert all(9.9 <= scale.at(tick) <= 110.1 for tick in ticks)


def test_logarithmic_only_where_the_range_demands_it() -> None:
    assert fit([0.2, 7.0], 0, 1, may_be_log=True).log
    assert not fit([0.2, 0.9], 0, 1, may_be_log=True).log
    assert not fit([0.0, 7.0], 0, 1, may_be_log=True).log
    assert not fit([0.2, 7.0], 0, 1, may_be_log=False).log


def test_equal_values_have_an_axis_with_room() -> None:
    scale = fit([0.9886, 0.9886], 100, 0, may_be_log=False)
    assert scale.at(0.9886) == pytest.approx(50)


def test_an_axis_of_amounts_does_not_go_below_zero() -> None:
    assert fit([0.01, 5.0], 0, 1, may_be_log=False).low == 0


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 20.0, 40.0], ["0", "20", "40"]),
        ([98.2, 98.4, 98.6], ["98.2", "98.4", "98.6"]),
        ([0.1, 1.0, 10.0, 100.0, 1000.0], ["0.1", "1", "10", "100", "1,000"]),
        ([0.25, 0.30, 0.35], ["0.25", "0.30", "0.35"]),
        ([92.0, 92.25], ["92.00", "92.25"]),
        ([-0.5, 0.0, 0.5], ["-0.5", "0", "0.5"]),
    ],
)
def test_ticks_are_told_apart(values: list[float], texts: list[str]) -> None:
    assert [tick_text(value, values) for value in values] == texts


@given(st.lists(NUMBERS, min_size=2, max_size=6), st.booleans())
def test_no_two_ticks_read_the_same(values: list[float], may_be_log: bool) -> None:
    ticks = fit(values, 0, 100, may_be_log=may_be_log).ticks(6)
    texts = [tick_text(tick, ticks) for tick in ticks]
    assert len(set(texts)) == len(texts)
