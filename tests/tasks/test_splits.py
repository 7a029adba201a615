from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.errors import UsageError
from accel.tasks.settings import DataSettings, DataSource
from accel.tasks.splits import Role, order, part, require_part, share

SOURCE = DataSource(folder="images")


def test_a_selection_of_its_own_leaves_the_others_whole() -> None:
    data = DataSettings(training=SOURCE, calibration=SOURCE, selection=SOURCE)
    roles = [require_part(data, split, True).role for split in ("training", "calibration", "selection")]
    assert roles == ["all", "all", "all"]


def test_selection_is_a_tenth_of_training_before_half_of_calibration() -> None:
    data = DataSettings(training=SOURCE, calibration=SOURCE)
    assert require_part(data, "selection", True).role == "tenth"
    assert require_part(data, "training", True).role == "all but a tenth"
    assert require_part(data, "calibration", True).role == "all"


def test_half_of_calibration_is_held_only_when_asked_for() -> None:
    data = DataSettings(calibration=SOURCE, validation=SOURCE)
    assert part(data, "selection", False) is None
    assert require_part(data, "calibration", False).role == "all"
    assert require_part(data, "selection", True).role == "half"
    assert require_part(data, "calibration", True).role == "all but a half"
    assert require_part(data, "validation", True).role == "all"


def test_what_is_not_declared_is_an_error_that_says_what_to_give() -> None:
    with pytest.raises(UsageError, match=r"data\.selection: .*give data\.selection or data\.training"):
        require_part(DataSettings(), "selection", True)
    with pytest.raises(UsageError, match=r"data\.calibration: the recipe declares none"):
        require_part(DataSettings(), "calibration", False)


def test_order_is_shuffle_then_skip_then_count() -> None:
    assert order(5, SOURCE) == [0, 1, 2, 3, 4]
    assert order(5, DataSource(folder="a", skip=1, num_samples=2)) == [1, 2]
    assert order(5, DataSource(folder="a", skip=9)) == []
    everything = order(100, DataSource(folder="a", shuffle=3))
    assert sorted(everything) == list(range(100)) and everything != list(range(100))
    assert order(100, DataSource(folder="a", shuffle=3, skip=10, num_samples=20)) == everything[10:30]
    assert order(100, DataSource(folder="a", shuffle=4)) != everything


def test_the_shuffled_order_never_changes() -> None:
    """Cached results and published numbers depend on it."""
    assert order(8, DataSource(folder="a", shuffle=0)) == [1, 2, 4, 3, 6, 0, 5, 7]


@given(st.integers(0, 200), st.integers(0, 5), st.sampled_from([("tenth", "all but a tenth"), ("half", "all but a half")]))
def test_the_two_shares_are_disjoint_complete_and_in_order(count: int, seed: int, roles: tuple[Role, Role]) -> None:
    indices = list(range(count))
    taken, rest = share(indices, roles[0], seed), share(indices, roles[1], seed)
    assert sorted(taken + rest) == indices
    assert taken == sorted(taken) and rest == sorted(rest)
    assert len(taken) <= len(rest) or count < 2
    assert len(taken) == (count // 2 if roles[0] == "half" else max(count // 10, int(count > 1)))


def test_another_seed_takes_other_samples() -> None:
    assert share(range(100), "tenth", 0) != share(range(100), "tenth", 1)
