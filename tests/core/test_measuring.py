"""All that is measured of two files, put together: by real sessions, as `accel benchmark` opens them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import measuring, timing
from accel import peaks as machine_peaks
from accel.display import Silent
from accel.errors import BackendFault, StorageFault
from accel.machine import Peaks
from accel.measuring import Bench, Measured
from accel.model import Target
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.recipe.settings import ReportSettings
from accel.report import Point
from accel.rows import Subject
from accel.timed_inputs import Sample
from accel.timing import Timed
from accel.worker import Worker

pytest.importorskip("onnxruntime")

PEAKS = Peaks(threads=1, fp32_gops=100.0, bandwidth_gb_s=10.0, cache_gb_s=50.0, measured="2026-01-01T00:00:00+00:00")
SETTINGS = BenchmarkSettings(min_duration_s=0.05, min_iterations=25, max_duration_s=0.1, warmup=1)
POINT = Point(scenario="offline", batch_size=1, threads=1, samples_per_query=8, queries=8, restarts=5)


def network(path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32) / 100, "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], name="body/Conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["y"], name="body/Relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 16, 16])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A millisecond each, without taking it."""
    turns = [[[1_000_000] * 5 for _ in range(5)] for _ in range(5)]
    monkeypatch.setattr(timing, "compare", lambda alive, *_, **__: Timed({subject.name: turns for subject in alive}, None))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Measured]:
    """Measures one baseline; the peaks and the points of other settings are given, not measured."""
    monkeypatch.setattr(machine_peaks, "peaks", lambda store, threads, *, screen: PEAKS)
    monkeypatch.setattr(measuring, "sweep", lambda alive, *_, **__: {subject.name: [POINT] for subject in alive})
    path = network(tmp_path / "net.onnx")

    def run(report: ReportSettings | None = None) -> Measured:
        folder = tmp_path / "run"
        folder.mkdir()
        subject = Subject(
            "base",
            "baseline",
            None,
            Target("here", "onnxruntime", batch=1),
            {"kind": "onnx", "path": str(path)},
            path.parent,
            path,
        )
        made = Bench(
            SETTINGS,
            document=None,
            path=path,
            allowed=(),
            folder=folder,
            sample=Sample(None, 1, 0),
            screen=Silent(),
            store=tmp_path,
            **({} if report is None else {"report": report}),
        )
        return made.measure([subject])

    return run


def test_layers_roofline_points_and_conditions_come_into_the_report(bench: Callable[..., Measured]) -> None:
    found = bench(ReportSettings())
    (row,) = found.rows
    assert row.status == "measured"
    assert row.latency is not None
    assert row.roofline is not None
    assert row.roofline.macs == 8 * 16 * 16 * 8 * 9
    assert row.roofline.share == pytest.approx(row.roofline.bound_ms / row.latency.p50_ms)
    assert {node for layer in row.layers for node in layer.nodes} == {"body/Conv", "body/Relu"}
    assert row.points == [POINT]
    assert found.peaks == PEAKS
    assert found.conditions is not None
    assert set(found.conditions.problems) <= set(found.warnings)
    assert found.noise is not None
    assert found.samples == []
    assert found.method["restarts"] >= 5


@pytest.mark.usefixtures("timed")
def test_by_default_only_times_are_taken(bench: Callable[..., Measured], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("asked for the machine's peak")

    monkeypatch.setattr(machine_peaks, "peaks", never)
    found = bench()
    (row,) = found.rows
    assert row.latency is not None
    assert (row.roofline, row.layers, found.peaks) == (None, [], None)


@pytest.mark.usefixtures("timed")
def test_a_child_that_dies_before_it_is_scored_costs_its_row(
    bench: Callable[..., Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Worker.request

    def request(self: Any, method: str, **arguments: Any) -> None:
        if method == "score":
            self._kill()
        asked(self, method, **arguments)

    monkeypatch.setattr(Worker, "request", request)
    (row,) = bench().rows
    assert (row.status, row.latency) == ("failed", None)
    assert row.reason is not None
    assert "SIGKILL" in row.reason


@pytest.mark.usefixtures("timed")
def test_a_profiler_and_a_peak_that_fail_cost_a_warning_each(
    bench: Callable[..., Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> Any:
        raise StorageFault("the disk is full")

    asked = Worker.call

    def call(self: Any, method: str, **arguments: Any) -> Any:
        if method == "layers":
            raise BackendFault("the profiler crashed")
        return asked(self, method, **arguments)

    monkeypatch.setattr(machine_peaks, "peaks", full)
    monkeypatch.setattr(Worker, "call", call)
    found = bench(ReportSettings())
    (row,) = found.rows
    assert (row.status, row.layers, row.roofline) == ("measured", [], None)
    assert row.latency is not None
    assert "base: its layers could not be timed: the profiler crashed" in found.warnings
    assert "the machine's peak could not be measured, so no row has a roofline: the disk is full" in found.warnings
