from __future__ import annotations

import gc
import threading
import time

import pytest

from accel.benchmarks.concurrent import run_together


def test_one_runner_is_counted_over_the_whole_time() -> None:
    ticks = iter(range(0, 10_000, 10))
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    made, taken = run_together([call], duration_s=100e-9, min_calls=1, clock=lambda: next(ticks))
    assert (made, taken) == (10, 100)
    assert calls == 13  # three are not counted


def test_each_makes_its_share_however_short_the_time() -> None:
    made, _ = run_together([lambda: None, lambda: None, lambda: None], duration_s=0.0, min_calls=10)
    assert made == 12


def test_runners_that_wait_do_it_side_by_side() -> None:
    alone, alone_ns = run_together([lambda: time.sleep(0.01)], duration_s=0.15, min_calls=1)
    together, together_ns = run_together([lambda: time.sleep(0.01)] * 3, duration_s=0.15, min_calls=1)
    assert together / together_ns > 2 * alone / alone_ns


def test_first_calls_never_meet() -> None:
    """Two first calls at once stop OpenVINO's binding for good."""
    inside = threading.Lock()
    seen = [0, 0]

    def call(index: int) -> None:
        if seen[index] == 0:
            assert inside.acquire(blocking=False)
            time.sleep(0.005)
            inside.release()
        seen[index] += 1

    run_together([lambda: call(0), lambda: call(1)], duration_s=0.0, min_calls=2)
    assert min(seen) == 4


def test_what_a_call_raises_comes_out_and_collection_is_on_again() -> None:
    def call() -> None:
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_together([call, call], duration_s=0.01, min_calls=1)
    assert gc.isenabled()


def test_a_clock_that_stands_still_ends_the_turn() -> None:
    assert run_together([lambda: None], duration_s=1.0, min_calls=5, clock=lambda: 7) == (5, 1)
