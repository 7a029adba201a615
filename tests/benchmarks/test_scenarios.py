from __future__ import annotations

import numpy as np
import pytest

from accel.benchmarks import scenarios
from accel.benchmarks.scenarios import Setting, asked_for

US = 1000


def turns(centre_us: float, restarts: int = 5, rounds: int = 5, queries: int = 40, seed: int = 0) -> list[list[list[int]]]:
    values = np.random.default_rng(seed)
    return [
        [[int(centre_us * US * each) for each in values.uniform(0.99, 1.01, queries)] for _ in range(rounds)]
        for _ in range(restarts)
    ]


# -- what is asked for ----------------------------------------------------------------------------------------------------


def test_the_main_comparison_alone_asks_for_no_point() -> None:
    assert asked_for(["single_stream"], [1], [1], [1]) == []
    assert asked_for(["single_stream"], [1, 1], [2], [1, 4]) == []  # streams are not of this scenario


def test_every_combination_of_one_that_is_swept_the_main_one_too() -> None:
    assert asked_for(["single_stream"], [1, 8], [1, 2], [1]) == [
        Setting("single_stream", 1, 1),
        Setting("single_stream", 1, 2),
        Setting("single_stream", 8, 1),
        Setting("single_stream", 8, 2),
    ]


def test_another_scenario_is_beside_the_main_comparison() -> None:
    assert asked_for(["offline"], [1, 8], [1], [1, 2]) == [
        Setting("offline", 1, 1, 1),
        Setting("offline", 1, 1, 2),
        Setting("offline", 8, 1, 1),
        Setting("offline", 8, 1, 2),
    ]
    assert asked_for(["single_stream", "multi_stream", "server"], [1], [1], [2]) == [
        Setting("multi_stream", 1, 1),
        Setting("server", 1, 1, 2),
    ]


def test_a_setting_says_what_it_is() -> None:
    assert str(Setting("offline", 8, 2, 4)) == "offline, batch 8, 2 threads, 4 streams"
    assert str(Setting("single_stream", 1, 1)) == "single_stream, batch 1, 1 thread"


# -- points ---------------------------------------------------------------------------------------------------------------


def test_single_stream() -> None:
    point = scenarios.one_after_the_other(
        Setting("single_stream", 4, 2), turns(500.0), pinned=[0, 1], percentiles=(50, 99)
    ).point
    assert (point.scenario, point.batch_size, point.threads, point.streams) == ("single_stream", 4, 2, 1)
    assert (point.samples_per_query, point.queries, point.restarts, point.pinned) == (4, 1000, 5, [0, 1])
    assert point.p50_ms == pytest.approx(0.5, rel=0.01)
    assert point.p90_ms is None  # not asked for
    assert point.p50_ms is not None and point.p99_ms is not None and point.p99_ms > point.p50_ms
    assert point.throughput_per_s is not None and point.throughput_per_s.low is not None
    assert point.throughput_per_s.value == pytest.approx(4 / 500e-6, rel=0.01)
    assert point.throughput_per_s.low < point.throughput_per_s.value
    assert (point.reason, point.unstable) == (None, None)


def test_multi_stream_is_eight_batches_a_query() -> None:
    few = turns(4000.0, queries=4)
    point = scenarios.one_after_the_other(Setting("multi_stream", 2, 1), few, pinned=[], percentiles=(50, 90, 99)).point
    assert point.samples_per_query == 16
    assert point.p50_ms == pytest.approx(4.0, rel=0.01)
    assert point.p99_ms is None  # a hundred queries are too few
    assert point.throughput_per_s is not None
    assert point.throughput_per_s.value == pytest.approx(16 / 4e-3, rel=0.01)


def test_offline_counts_samples_and_compares_by_throughput() -> None:
    slow = scenarios.all_at_once(Setting("offline", 8, 1, 2), [[(100, 10**9)] * 5] * 5, pinned=[])
    fast = scenarios.all_at_once(Setting("offline", 8, 1, 2), [[(250, 10**9)] * 5] * 5, pinned=[])
    assert slow.point.throughput_per_s is not None
    assert slow.point.throughput_per_s.value == pytest.approx(800)
    assert (slow.point.samples_per_query, slow.point.queries) == (800, 25)
    assert slow.point.p50_ms is None
    found = scenarios.compared(fast, {"baseline": slow})
    assert [(each.vs, round(each.ratio.value, 6)) for each in found] == [("baseline", 2.5)]
    assert scenarios.compared(slow, {"fast": fast})[0].ratio.value == pytest.approx(0.4)


def test_server() -> None:
    setting = Setting("server", 1, 1)
    latencies = [[1_000_000 + index for index in range(1000)]] * 5
    point = scenarios.at_random(
        setting, [98.0, 100.0, 102.0, 100.0, 100.0], latencies, bound_ms=5.0, pinned=[], percentiles=(50, 90, 99)
    ).point
    assert point.rate_per_s is not None and point.rate_per_s.low is not None and point.rate_per_s.high is not None
    assert point.rate_per_s.value == pytest.approx(100, rel=0.001)
    assert 98 < point.rate_per_s.low < 100 < point.rate_per_s.high < 102
    assert (point.bound_ms, point.queries, point.restarts) == (5.0, 5000, 5)
    assert point.p99_ms is not None and point.p99_ms == pytest.approx(1.0, rel=0.01)
    assert point.unstable is None


def test_rates_below_one_a_second_are_rates() -> None:
    point = scenarios.at_random(
        Setting("server", 1, 1), [0.02] * 5, [[10] * 700] * 5, bound_ms=1e6, pinned=[], percentiles=(50,)
    ).point
    assert point.rate_per_s is not None
    assert point.rate_per_s.value == pytest.approx(0.02)


def test_what_jumps_about_is_called_unstable() -> None:
    shaky = scenarios.all_at_once(
        Setting("offline", 1, 1), [[(count, 10**9)] * 5 for count in (100, 160, 90, 170, 110)], pinned=[]
    )
    assert shaky.point.unstable is not None
    assert "its throughput lies between" in shaky.point.unstable
    ended = scenarios.at_random(
        Setting("server", 1, 1), [50.0] * 5, [[10] * 700] * 5, bound_ms=1.0, pinned=[], percentiles=(50,), unfinished="no time"
    )
    assert ended.point.unstable == "no time"


def test_a_row_that_cannot_do_it() -> None:
    point = scenarios.failed(Setting("multi_stream", 4, 2), "batch 4: the model is fixed to 1")
    assert (point.reason, point.queries, point.p50_ms, point.samples_per_query) == (
        "batch 4: the model is fixed to 1", 0, None, 32,
    )  # fmt: skip


def test_the_bound_is_ten_times_the_slowest_fp32_baseline_for_all() -> None:
    medians = {"eager": 9.0, "ort fp32": 2.0, "ov fp32": 3.04161, "int8": 1.0}
    assert scenarios.default_bound_ms(medians, ["ort fp32", "ov fp32", "gone"]) == 30.4
    assert scenarios.default_bound_ms(medians, []) == 90.0
