"""Points beside the main comparison: what is asked of children of paper, and real ones on ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import sweeping
from accel.display import Silent
from accel.errors import AccelError, BackendFault, WorkerFault
from accel.model import Target
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import Point
from accel.rows import Subject
from accel.sessions import Failed, Sessions, close
from accel.sweeping import crowded, sweep
from accel.timed_inputs import Sample

MS = 1_000_000


def network(folder: Path, batch: str | int = "batch") -> Path:
    """A convolution and a pool: some 0.1 ms."""
    weights = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], name="conv/Conv"),
            helper.make_node("GlobalAveragePool", ["a"], ["y"], name="pool/GlobalAveragePool"),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 32, 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 16, 1, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = folder / f"{batch}.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def subject(name: str, path: Path = Path("m.onnx"), *, backend: str = "onnxruntime", role: Any = "baseline") -> Subject:
    return Subject(name, role, name, Target(name, backend, batch=1), {"kind": "onnx", "path": str(path)}, None)


def settings(**given: Any) -> BenchmarkSettings:
    return BenchmarkSettings(**{"min_duration_s": 0.1, "min_iterations": 25, "warmup": 1, "max_duration_s": 4.0, **given})


class Paper:
    """Sessions whose children answer at once. ``cannot``: row to what it raises when it is started."""

    def __init__(self, slowness: Mapping[str, int], cannot: Mapping[str, AccelError] | None = None) -> None:
        self.sample = Sample(None, 1, 0)
        self.slowness = slowness
        self.cannot = cannot or {}
        self.started: list[tuple[str, int, int, int, int]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.dies_at = ""

    def cores_for(self, threads: int) -> list[int]:
        return list(range(threads))

    def start(self, rows: Mapping[str, Subject], failed: Failed, sample: Sample, *, streams: int) -> dict[str, Any]:
        workers = {}
        for name, row in rows.items():
            self.started.append((name, row.target.threads, row.target.batch or 0, sample.size, streams))
            if name in self.cannot:
                failed(name, self.cannot[name])
            else:
                workers[name] = Child()
        return workers

    def ask(self, workers: dict[str, Any], name: str, failed: Failed, method: str, **given: Any) -> Any:
        self.asked.append((name, {"method": method, **given}))
        if method == self.dies_at:
            workers.pop(name)
            failed(name, WorkerFault("it died"))
            return None
        taken = self.slowness[name]
        if method in ("turn", "long_turn"):
            return [taken * given.get("batches", 1)] * 30
        if method == "together":
            return [100, taken * 100]
        if method == "highest_rate":
            rate = 0.7e9 / taken
            kept = taken / MS < given["bound_ms"]
            found = {"rate_per_s": rate, "latencies_ns": [taken] * 700, "narrow": True}
            return (found if kept else {"rate_per_s": None, "latencies_ns": [], "narrow": True}) | {
                "capacity_per_s": 1e9 / taken
            }
        return None


class Child:
    def close(self) -> None:
        return None


def swept(
    paper: Any, rows: list[Subject], given: BenchmarkSettings, tmp_path: Path
) -> tuple[dict[str, list[Point]], list[str]]:
    said: list[str] = []

    def lost(name: str, error: AccelError) -> None:
        said.append(f"{name}: {error}")

    return sweep(rows, paper, given, seed=0, screen=Silent(), lock=tmp_path / "lock", lost=lost), said


BOTH = [subject("fp32"), subject("int8", role="result")]


def test_nothing_is_started_for_the_main_comparison_alone(tmp_path: Path) -> None:
    paper = Paper({})
    assert swept(paper, BOTH, settings(), tmp_path) == ({}, [])
    assert paper.started == []


def test_each_setting_is_compiled_for_its_batch_and_threads_in_five_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "cores", lambda: 4)
    paper = Paper({"fp32": 4 * MS, "int8": MS})
    found, said = swept(paper, BOTH, settings(batch_sizes=[1, 8], threads=[1, 2]), tmp_path)
    assert said == []
    assert set(paper.started) == {
        (name, threads, batch, batch, 1) for name in ("fp32", "int8") for threads in (1, 2) for batch in (1, 8)
    }
    assert len(paper.started) == 4 * 5 * 2
    assert [(each.batch_size, each.threads) for each in found["int8"]] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    last = found["int8"][-1]
    assert last.p50_ms == pytest.approx(1.0)
    assert [(each.vs, round(each.ratio.value, 6)) for each in last.speedups] == [("fp32", 4.0)]
    assert found["fp32"][-1].speedups == []
    assert last.pinned == [0, 1]


def test_rows_take_turns_within_a_restart(tmp_path: Path) -> None:
    paper = Paper({"fp32": MS, "int8": MS})
    swept(paper, BOTH, settings(scenario=["multi_stream"]), tmp_path)
    turns = [name for name, given in paper.asked if given["method"] == "long_turn"]
    assert len(turns) == 2 * 25
    assert all({first, second} == {"fp32", "int8"} for first, second in zip(turns[::2], turns[1::2], strict=True))
    assert turns[::2].count("fp32") not in (0, 25)  # shuffled
    assert all(given["batches"] == 8 for _, given in paper.asked if given["method"] == "long_turn")


def test_streams_are_of_offline_and_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "cores", lambda: 2)
    paper = Paper({"fp32": 4 * MS, "int8": MS})
    found, _ = swept(paper, BOTH, settings(scenario=["offline", "server"], streams=[1, 4]), tmp_path)
    assert [(each.scenario, each.streams) for each in found["int8"]] == [
        ("offline", 1), ("offline", 4), ("server", 1), ("server", 4),
    ]  # fmt: skip
    assert {streams for _, _, _, _, streams in paper.started} == {1, 4}
    offline, crowded = found["int8"][:2]
    assert offline.throughput_per_s is not None and offline.throughput_per_s.value == pytest.approx(1000)
    assert offline.unstable is None
    assert crowded.unstable == ("4 streams of 1 thread share 2 cores: the figures depend on how the system shares them out")


def test_server_has_one_bound_and_one_count_of_queries_for_all_rows(tmp_path: Path) -> None:
    rows = [subject("eager", role="reference"), *BOTH]
    paper = Paper({"eager": 20 * MS, "fp32": 4 * MS, "int8": MS})
    found, _ = swept(paper, rows, settings(scenario=["server"]), tmp_path)
    searches = [given for _, given in paper.asked if given["method"] == "highest_rate"]
    assert len(searches) == 15
    assert {(given["bound_ms"], given["queries"]) for given in searches} == {(40.0, 662)}
    assert len({given["seed"] for given in searches}) == 5  # of the restart, the same for all rows
    assert [given["guess"] for name, given in paper.asked if given["method"] == "highest_rate" and name == "int8"] == [
        None, *[pytest.approx(700)] * 4,
    ]  # fmt: skip
    point = found["int8"][0]
    assert point.rate_per_s is not None and point.rate_per_s.value == pytest.approx(700)
    assert (point.bound_ms, point.queries) == (40.0, 3500)
    assert {each.vs: round(each.ratio.value, 6) for each in point.speedups} == {"eager": 20.0, "fp32": 4.0}


def test_a_row_that_no_rate_suits_says_why_and_costs_itself(tmp_path: Path) -> None:
    paper = Paper({"fp32": 4 * MS, "int8": MS})
    found, said = swept(paper, BOTH, settings(scenario=["server"], server_bound_ms=2.0), tmp_path)
    reason = "no rate keeps the 99th percentile within 2 ms: it answers 250 queries a second at most"
    assert found["fp32"][0].reason == f"{reason}; raise benchmark.server_bound_ms"
    assert said == [f"fp32, server, batch 1, 1 thread, 1 stream: {reason}; raise benchmark.server_bound_ms"]
    assert found["int8"][0].rate_per_s is not None and found["int8"][0].speedups == []


def test_a_row_that_cannot_be_compiled_has_a_reason_at_that_setting(tmp_path: Path) -> None:
    paper = Paper({"fp32": 4 * MS, "int8": MS}, {"int8": BackendFault("batch 8: the model is fixed to 1")})
    found, said = swept(paper, BOTH, settings(scenario=["offline"]), tmp_path)
    assert found["int8"][0].reason == "batch 8: the model is fixed to 1"
    assert found["fp32"][0].throughput_per_s is not None
    assert len(said) == 1
    assert [name for name, *_ in paper.started] == ["fp32", "int8", *["fp32"] * 4]  # not tried again


def test_a_child_that_dies_costs_its_row(tmp_path: Path) -> None:
    paper = Paper({"fp32": MS, "int8": MS})
    paper.dies_at = "together"
    found, said = swept(paper, BOTH, settings(scenario=["offline"]), tmp_path)
    assert [found[name][0].reason for name in ("fp32", "int8")] == ["it died", "it died"]
    assert len(paper.started) == 2  # nothing is left for the other restarts
    assert len(said) == 2


def test_threads_that_there_are_no_cores_for_are_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "cores", lambda: 1)
    paper = Paper({"fp32": MS, "int8": MS})
    found, _ = swept(paper, BOTH, settings(threads=[1, 2]), tmp_path)
    one, two = found["fp32"]
    assert one.reason is None and two.reason == (
        "2 threads are asked for, and this process may use 1 core; leave them out of benchmark.threads"
    )
    assert all(threads == 1 for _, threads, *_ in paper.started)


def test_the_main_comparison_with_more_threads_than_cores_is_warned_of() -> None:
    assert crowded(2, 2) is None
    assert crowded(2, 1) == (
        "benchmark.threads: 2, and this process may use 1 core: what is timed is how threads wait for one another;"
        " set threads: 1"
    )


# -- real children --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Point]]:
    """Both runtimes and a file that is fixed to one sample, in all scenarios."""
    folder = tmp_path_factory.mktemp("sweep")
    rows = [
        subject("ort", network(folder)),
        subject("ov", network(folder), backend="openvino", role="result"),
        subject("fixed", network(folder, 1), role="result"),
    ]
    sessions = Sessions(
        document=None, path=folder / "x.yaml", allowed=(), folder=folder, sample=Sample(None, 1, 0), compile_timeout_s=60.0
    )
    given = settings(scenario=["offline", "server"], batch_sizes=[2], server_bound_ms=100.0, max_duration_s=3.0)
    return swept(sessions, rows, given, folder)[0]


def test_real_points_are_plausible(real: dict[str, list[Point]]) -> None:
    for name in ("ort", "ov"):
        offline, server = real[name]
        assert offline.reason is None and server.reason is None
        assert offline.throughput_per_s is not None and offline.throughput_per_s.value > 100
        assert server.rate_per_s is not None and server.p99_ms is not None and server.bound_ms is not None
        assert server.p99_ms <= server.bound_ms
        assert server.queries >= 5 * 662
    assert [each.vs for each in real["ov"][0].speedups] == ["ort"]


def test_a_real_file_of_another_batch_says_so(real: dict[str, list[Point]]) -> None:
    assert [each.reason for each in real["fixed"]] == ["batch 2: the model is fixed to 1"] * 2


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux tells what each thread may run on")
def test_pinned_children_stay_on_their_cores_whatever_the_runtime_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two threads, so that runtimes start some of their own and place them as they like."""
    sessions = Sessions(
        document=None, path=tmp_path / "x.yaml", allowed=(), folder=tmp_path, sample=Sample(None, 1, 0),
        compile_timeout_s=60.0, pinned=True,
    )  # fmt: skip
    path = network(tmp_path)
    rows = {name: subject(name, path, backend=name) for name in ("onnxruntime", "openvino")}
    rows = {name: replace(row, target=replace(row.target, threads=2)) for name, row in rows.items()}
    expected = sessions.cores_for(1)
    assert len(expected) == 1

    def failed(name: str, error: AccelError) -> None:
        raise error

    monkeypatch.setattr(sessions, "cores_for", lambda threads: expected)
    workers = sessions.start(rows, failed, streams=2)
    try:
        for worker in workers.values():
            worker.call("together", timeout_s=60.0, duration_s=0.05, min_calls=4)
            tasks = list(Path(f"/proc/{worker._process.pid}/task").iterdir())
            assert len(tasks) > 1
            assert {tuple(os.sched_getaffinity(int(task.name))) for task in tasks} == {tuple(expected)}
    finally:
        close(workers)
