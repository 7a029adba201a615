"""What a recipe says of measuring: one or several of each, and notes on what nothing reads."""

from __future__ import annotations

import pytest

from accel.benchmarks import pinning
from accel.recipe import checks
from accel.recipe.benchmark_settings import BenchmarkSettings


def notes(**given: object) -> list[str]:
    return checks.benchmark(BenchmarkSettings.model_validate(given))


def test_one_is_a_list_of_one() -> None:
    found = BenchmarkSettings.model_validate({"scenario": "offline", "threads": 2, "batch_sizes": [1, 8]})
    assert (found.scenario, found.threads, found.batch_sizes, found.streams) == (("offline",), (2,), (1, 8), (1,))


def test_what_is_read_gets_no_note() -> None:
    assert notes() == []
    assert notes(scenario=["single_stream", "server"], streams=[1, 2], server_bound_ms=5.0) == []
    assert notes(scenario="offline", streams=4) == []


def test_streams_without_a_scenario_of_streams() -> None:
    expected = "benchmark.streams: only offline and server read it; add one of them to benchmark.scenario"
    assert notes(scenario=["single_stream", "multi_stream"], streams=[2]) == [expected]


def test_a_bound_without_a_server() -> None:
    assert notes(scenario="offline", server_bound_ms=3.0) == [
        "benchmark.server_bound_ms: only server reads it; add it to benchmark.scenario"
    ]


def test_pinning_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinning, "available", lambda: False)
    assert notes(pinning=True) == [
        "benchmark.pinning: this system does not let a process choose its cores; rows go where it puts them"
    ]
    assert notes() == [], "nobody asked for it"
    assert pinning.chosen(2) == []
