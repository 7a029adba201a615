"""Arrivals at random and the open loop that answers them, on a clock that only the answers and the waiting move."""

from __future__ import annotations

import itertools
import time

import pytest

from accel.benchmarks.arrivals import SPIN_NS, poisson, serve, wait_until

MS = 1_000_000


class FakeTime:
    """A call takes ``service_ns``; waiting takes until what is waited for."""

    def __init__(self, service_ns: int) -> None:
        self.now = 1000
        self.service_ns = service_ns
        self.calls = 0

    def clock(self) -> int:
        return self.now

    def wait(self, moment: int) -> None:
        self.now = max(self.now, moment)

    def call(self) -> None:
        self.calls += 1
        self.now += self.service_ns


def answered(
    fake: FakeTime, due: list[int], *, bound_ns: int = 10**12, allowed: int = 10**9, limit_s: float = 1e6
) -> list[int]:
    served = serve([fake.call], due, bound_ns=bound_ns, allowed_late=allowed, limit_s=limit_s, clock=fake.clock, wait=fake.wait)
    assert served.ended == "all"
    return served.latencies_ns


def test_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() -> None:
    due = poisson(200.0, 20_000, seed=3)
    gaps = [after - before for before, after in itertools.pairwise([0, *due])]
    mean = sum(gaps) / len(gaps)
    deviation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5
    assert mean == pytest.approx(5 * MS, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.05)  # an exponential's mean is its deviation; even gaps would have none
    assert min(gaps) >= 0


def test_the_same_seed_gives_the_same_gaps_at_every_rate() -> None:
    slow, fast = poisson(10.0, 50, seed="a/1"), poisson(40.0, 50, seed="a/1")
    assert slow == poisson(10.0, 50, seed="a/1")
    assert slow != poisson(10.0, 50, seed="a/2")
    assert all(one == pytest.approx(4 * other, abs=4) for one, other in zip(slow, fast, strict=True))


def test_a_slow_answer_delays_no_arrival() -> None:
    """Ten queries a millisecond apart, the answers take two: the ninth waits for eight others, and that is its latency."""
    latencies = answered(FakeTime(2 * MS), [index * MS for index in range(10)])
    assert latencies == [(2 + index) * MS for index in range(10)]


def test_latency_counts_from_when_a_query_is_due() -> None:
    assert answered(FakeTime(3 * MS), [0, 10 * MS, 11 * MS]) == [3 * MS, 3 * MS, 5 * MS]


def test_it_ends_once_more_are_late_than_allowed() -> None:
    fake = FakeTime(2 * MS)
    due = [index * MS for index in range(1000)]
    served = serve([fake.call], due, bound_ns=5 * MS, allowed_late=3, limit_s=1e6, clock=fake.clock, wait=fake.wait)
    assert served.ended == "late"
    assert fake.calls == 8  # latencies of 2, 3, 4, 5 and then four that are too long


def test_it_ends_when_the_time_is_up() -> None:
    fake = FakeTime(MS)
    due = [index * 100 * MS for index in range(1000)]
    served = serve([fake.call], due, bound_ns=5 * MS, allowed_late=3, limit_s=1.0, clock=fake.clock, wait=fake.wait)
    assert served.ended == "time"
    assert fake.calls == 11


def test_two_workers_answer_one_queue_in_order_of_arrival() -> None:
    started: list[int] = []

    def call(worker: int) -> None:
        started.append(worker)
        time.sleep(0.01)

    due = [0, 0, 0, 0]
    served = serve([lambda: call(0), lambda: call(1)], due, bound_ns=10**12, allowed_late=0, limit_s=10)
    assert served.ended == "all"
    assert sorted(started) == [0, 0, 1, 1]
    first, second, third, fourth = served.latencies_ns
    assert max(first, second) < min(third, fourth)  # first come, first served
    assert min(third, fourth) >= 20 * MS - 2 * MS


def test_what_a_call_raises_ends_all_of_them() -> None:
    def call() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        serve([call, lambda: None], [0] * 10, bound_ns=1, allowed_late=100, limit_s=1)


def test_waiting_sleeps_but_for_the_end() -> None:
    now, slept = [0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += max(1000, round(seconds * 1e9))

    wait_until(250 * MS, lambda: now[0], sleep)
    asleep = [seconds for seconds in slept if seconds > 0]
    assert asleep == pytest.approx([0.1, 0.1, 0.05 - SPIN_NS / 1e9])
    assert len(slept) - len(asleep) == SPIN_NS / 1000
    wait_until(1, lambda: now[0], sleep)
    assert len(slept) == SPIN_NS / 1000 + 3
