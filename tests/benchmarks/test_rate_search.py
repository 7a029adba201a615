"""The search for the highest rate, against a queue whose knee is known: Poisson arrivals, one server, a fixed service time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from accel.benchmarks.arrivals import Served, poisson, serve
from accel.benchmarks.rate_search import FEWEST_QUERIES, MOST_QUERIES, Found, allowed_late, planned, search
from accel.benchmarks.statistics import early_stopping_percentile

SERVICE_NS = 1_000_000
CAPACITY = 1000.0


class Queue:
    """One server with a fixed service time, on a clock of its own; ``spent_s``: seconds of it."""

    def __init__(self, queries: int, bound_ns: int, seed: int = 0) -> None:
        self.queries, self.bound_ns, self.seed = queries, bound_ns, seed
        self.now = 0
        self.tried: list[float] = []

    def attempt(self, rate: float, left_s: float) -> Served:
        self.tried.append(rate)
        due = poisson(rate, self.queries, self.seed)
        late = allowed_late(self.queries)
        return serve(
            [self.call], due, bound_ns=self.bound_ns, allowed_late=late, limit_s=left_s, clock=self.clock, wait=self.wait
        )

    def call(self) -> None:
        self.now += SERVICE_NS

    def clock(self) -> int:
        return self.now

    def wait(self, moment: int) -> None:
        self.now = max(self.now, moment)

    def search(self, limit_s: float = 1e6, guess: float | None = None) -> Found:
        return search(
            self.attempt,
            queries=self.queries,
            capacity_per_s=CAPACITY,
            limit_s=limit_s,
            guess=guess,
            clock=lambda: self.now / 1e9,
        )


def late_share(rate: float, bound_services: float) -> float:
    """P(sojourn > bound) of M/D/1, from Erlang's series for the waiting time (Tijms, A First Course in Stochastic Models)."""
    load, waiting = rate / CAPACITY, bound_services - 1
    total = 0.0
    for index in range(math.floor(waiting) + 1):
        x = load * (index - waiting)
        total += x**index / math.factorial(index) * math.exp(-x)
    return 1 - (1 - load) * total


def test_the_series_is_right() -> None:
    assert late_share(500.0, 1.0) == pytest.approx(0.5)  # who arrives waits with the probability of the load
    assert late_share(700.0, 12.0) < late_share(800.0, 12.0) < late_share(900.0, 12.0)


@pytest.mark.parametrize("bound_services", [5.0, 10.0])
def test_it_finds_the_knee(bound_services: float) -> None:
    """Where one query in a hundred is late, but for the rule's own margin and the luck of the arrivals."""
    found = [Queue(20_000, int(bound_services * SERVICE_NS), seed).search().rate_per_s for seed in range(5)]
    rates = [rate for rate in found if rate is not None]
    assert len(rates) == 5
    middle = float(np.median(rates))
    assert 0.002 < late_share(middle, bound_services) < 0.011
    assert max(rates) / min(rates) < 1.15


def test_a_rate_that_is_found_keeps_the_bound_by_mlperfs_rule() -> None:
    queue = Queue(2000, 10 * SERVICE_NS)
    found = queue.search()
    assert found.rate_per_s is not None and found.narrow
    assert len(found.latencies_ns) == 2000
    p99 = early_stopping_percentile(found.latencies_ns, 0.99)
    assert p99 is not None and p99 <= 10 * SERVICE_NS
    above = [rate for rate in queue.tried if rate > found.rate_per_s]
    assert min(above) <= found.rate_per_s * 1.0201  # the next one up was tried, and failed
    assert max(queue.tried) < CAPACITY


def test_another_restarts_answer_makes_it_shorter_and_changes_nothing() -> None:
    cold, warm = Queue(2000, 10 * SERVICE_NS), Queue(2000, 10 * SERVICE_NS)
    first = cold.search().rate_per_s
    assert first is not None
    second = warm.search(guess=first).rate_per_s
    assert second == pytest.approx(first, rel=0.02)
    assert len(warm.tried) <= len(cold.tried) + 1


def test_a_bound_that_nothing_keeps() -> None:
    found = Queue(FEWEST_QUERIES, SERVICE_NS // 2).search()
    assert (found.rate_per_s, found.latencies_ns, found.narrow) == (None, [], True)


def test_the_time_is_bounded() -> None:
    queue = Queue(FEWEST_QUERIES, 10 * SERVICE_NS)
    found = queue.search(limit_s=1.5)
    assert not found.narrow
    assert queue.now / 1e9 <= 1.5 + 0.1
    late = Queue(FEWEST_QUERIES, 10 * SERVICE_NS)
    assert late.search(limit_s=0.5) == Found(None, [], False, 0)
    assert late.tried == []  # 662 queries do not even arrive in half a second


def test_fewest_queries_are_those_of_the_rule() -> None:
    assert allowed_late(FEWEST_QUERIES) == 0
    assert allowed_late(FEWEST_QUERIES - 1) < 0
    for queries in (FEWEST_QUERIES, 1000, MOST_QUERIES):
        allowed = allowed_late(queries)
        kept = [1] * (queries - allowed) + [9] * allowed
        p99 = early_stopping_percentile(kept, 0.99)
        assert p99 == 1
        assert early_stopping_percentile([*kept[1:], 9], 0.99) == 9


def test_queries_fit_the_time_between_their_limits() -> None:
    assert planned(1.0, 1.0) == FEWEST_QUERIES
    assert planned(3000.0, 0.5) == 1500
    assert planned(1e9, 1.0) == MOST_QUERIES
