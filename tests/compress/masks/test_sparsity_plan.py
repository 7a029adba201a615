from __future__ import annotations

import math
from typing import Any

import pytest

from accel.compress.masks.sparsity_plan import pattern_of, plan


def test_the_cubic_schedule_has_the_published_values() -> None:
    """Zhu and Gupta, equation 1: 1 - (1 - u)^3 is 0.578125, 0.875 and 0.984375 at a quarter, a half and three quarters."""
    cubic = plan(sparsity=0.8, schedule="cubic", begin=0.1, end=0.9)
    assert cubic.sparsity_at(10, 100) == 0.0
    assert cubic.sparsity_at(30, 100) == pytest.approx(0.8 * 0.578125)
    assert cubic.sparsity_at(50, 100) == pytest.approx(0.8 * 0.875)
    assert cubic.sparsity_at(70, 100) == pytest.approx(0.8 * 0.984375)
    assert cubic.sparsity_at(90, 100) == 0.8
    assert cubic.sparsity_at(100, 100) == 0.8


def test_it_never_falls_and_ends_exactly() -> None:
    for total in (1, 2, 3, 7, 50):
        cubic = plan(sparsity=0.9, schedule="cubic", update_every=3)
        values = [cubic.sparsity_at(step, total) for step in range(1, total + 1)]
        assert values == sorted(values)
        assert values[-1] == 0.9
        assert cubic.last(total) <= total and cubic.due(cubic.last(total), total)


def test_masks_are_drawn_every_so_many_steps_from_begin_to_end() -> None:
    cubic = plan(schedule="cubic", begin=0.2, end=0.5, update_every=4)
    assert [step for step in range(1, 61) if cubic.due(step, 60)] == [12, 16, 20, 24, 28, 30]


@pytest.mark.parametrize(("text", "wanted"), [("unstructured", None), ("2:4", (2, 4)), ("1:16", (1, 16)), ("7:8", (7, 8))])
def test_patterns_are_read(text: str, wanted: tuple[int, int] | None) -> None:
    assert pattern_of(text) == wanted


@pytest.mark.parametrize("text", ["4:2", "0:4", "4:4", "2-4", "2:4:8", "", "structured", "-1:4", "2 : 4", "١:٤"])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        pattern_of(text)


def test_a_pattern_fixes_the_sparsity() -> None:
    assert plan(pattern="2:4").sparsity == 0.5
    assert plan(pattern="1:4").sparsity == 0.75
    assert plan(pattern="2:4", sparsity=0.5).sparsity == 0.5
    assert plan(pattern="2:3", sparsity=0.3333333).sparsity == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sparsity": 0.0}, "sparsity"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": -0.5}, "sparsity"),
        ({"sparsity": math.nan}, "sparsity"),
        ({"pattern": "2:4", "sparsity": 0.75}, "pattern 2:4 makes 0.5"),
        ({"pattern": "2:4", "global_pruning": True}, "global_pruning"),
        ({"begin": 0.1}, "schedule: cubic"),
        ({"update_every": 5}, "schedule: cubic"),
        ({"schedule": "cubic", "begin": 0.6, "end": 0.6}, "begin, end"),
        ({"schedule": "cubic", "begin": -0.1}, "begin, end"),
        ({"schedule": "cubic", "end": math.nan}, "begin, end"),
        ({"schedule": "cubic", "update_every": 0}, "update_every"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plan(**settings)
