from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import pytest

from accel.benchmarks.turns import STALLED_CALLS, time_turn


def counting() -> tuple[Callable[[], None], list[int]]:
    calls: list[int] = []
    return lambda: calls.append(1), calls


def test_runs_for_the_duration_and_drops_the_first_calls() -> None:
    call, calls = counting()

    def slow() -> None:
        call()
        time.sleep(0.001)

    durations = time_turn(slow, duration_s=0.02, min_queries=2)
    assert sum(durations) >= 20_000_000
    assert len(durations) == len(calls) - 3
    assert min(durations) >= 1_000_000


def test_makes_at_least_the_asked_number_of_calls() -> None:
    call, calls = counting()
    assert len(time_turn(call, duration_s=0.0, min_queries=17, discard=2)) == 17
    assert len(calls) == 19


@pytest.mark.parametrize("min_queries", [0, 1])
def test_gives_one_figure_even_where_none_is_asked_for(min_queries: int) -> None:
    assert len(time_turn(lambda: None, duration_s=0.0, min_queries=min_queries)) == 1


def ticks(step: int) -> Iterator[int]:
    now = 10**12
    while True:
        yield now
        now += step


@pytest.mark.parametrize("step", [0, -5])
def test_clock_that_stands_still_or_goes_backwards_ends_the_turn(step: int) -> None:  # fault 49
    clock = ticks(step)
    durations = time_turn(lambda: None, duration_s=1.0, min_queries=4, clock=lambda: next(clock))
    assert set(durations) == {1}
    assert len(durations) == STALLED_CALLS


def test_collection_is_off_during_the_turn_and_on_again_after_it() -> None:
    seen: list[bool] = []
    time_turn(lambda: seen.append(gc.isenabled()), duration_s=0, min_queries=2)
    assert set(seen) == {False}
    assert gc.isenabled()


def test_collection_comes_back_after_an_error_and_stays_off_where_it_was_off() -> None:
    def fails() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        time_turn(fails, duration_s=0, min_queries=1)
    assert gc.isenabled()
    gc.disable()
    try:
        time_turn(lambda: None, duration_s=0, min_queries=1)
        assert not gc.isenabled()
    finally:
        gc.enable()
