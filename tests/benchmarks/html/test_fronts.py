from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.benchmarks.html.fronts import Axis, Spot, front, latency, size, spots
from accel.report import Metric, Report, Row


def spot(index: int, x: float | None, value: float, higher: bool = True) -> Spot:
    row = Row(name=str(index), role="result", backend="b")
    return Spot(index, row, Metric(name="m", value=value, n=1, higher_is_better=higher), x, "", None, None)


PAIRS = st.lists(st.tuples(st.one_of(st.none(), st.floats(0.1, 10)), st.floats(0, 1), st.booleans()), max_size=12)


@given(PAIRS)
def test_the_front_is_what_no_other_row_beats(pairs: list[tuple[float | None, float, bool]]) -> None:
    higher = pairs[0][2] if pairs else True
    found = [spot(index, x, value, higher) for index, (x, value, _) in enumerate(pairs)]

    def beats(one: Spot, other: Spot) -> bool:
        if one.x is None or other.x is None:
            return False
        sign = 1 if higher else -1
        gain = sign * (one.metric.value - other.metric.value)
        return one.x <= other.x and gain >= 0 and (one.x < other.x or gain > 0)

    expected = [each for each in found if each.x is not None and not any(beats(other, each) for other in found)]
    kept = front(found)
    assert {(each.x, each.metric.value) for each in kept} == {(each.x, each.metric.value) for each in expected}
    assert kept == sorted(kept, key=lambda each: each.x or 0.0)


def test_an_unstable_latency_is_no_place_on_the_axis(rich: Report) -> None:
    found = {each.row.name: each for each in spots(rich, "top1", Axis("latency", "", 1.0, latency))}
    assert len(found) == 10
    assert found["onnxruntime-cpu-bf16"].x is None
    assert "moved by 14 %" in found["onnxruntime-cpu-bf16"].why
    assert found["openvino-int8-pruned"].x == 0.184


def test_a_row_without_files_has_no_size(rich: Report) -> None:
    found = {each.row.name: each for each in spots(rich, "top1", Axis("size", "", 1.0, size))}
    assert (found["eager fp32"].x, found["eager fp32"].why) == (None, "no files that ship")


def test_bars_hold_the_paired_interval_around_the_rows_own_value(rich: Report) -> None:
    (row,) = [each for each in spots(rich, "top1", Axis("size", "", 1.0, size)) if each.row.name == "openvino-cpu"]
    difference = row.metric.difference
    assert difference is not None and difference.low is not None and difference.high is not None and row.y_bounds is not None
    assert row.y_bounds == pytest.approx((0.9259 + difference.low, 0.9259 + difference.high))
