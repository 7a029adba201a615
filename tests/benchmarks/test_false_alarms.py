"""How false_alarms.py judges; the hundred comparisons themselves are run by hand."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import pytest

from accel.report import Estimate, Gate, Latency, Noise, Report, Row, Speedup
from false_alarms import (
    GATE,
    LATENCY_EXIT_CODE,
    Kept,
    Outcome,
    Slowdown,
    calibrated,
    demands,
    load,
    pooled,
    read,
    slowed,
    table,
)

OUTCOME = Outcome(
    value=1.0, low=0.99, high=1.01, alarm=False, conclusive=True, unstable=False, noisy=False, restarts=5, seconds=9.0
)


def made(report: Report, low: float, high: float, verdict: Literal["pass", "fail", "inconclusive"]) -> Report:
    """As of two files, of which the first is as many times faster."""
    latency = Latency(
        batch_size=1, threads=1, queries=500, restarts=6, rounds=10, p50_ms=1, p90_ms=None, p99_ms=None, min_ms=0.9
    )
    ratio = Estimate(value=(low * high) ** 0.5, low=low, high=high)
    head = Row(name="head", role="result", backend="onnxruntime", latency=latency, speedups=[Speedup(vs="base", ratio=ratio)])
    gate = Gate(
        name=GATE, metric="latency_p50", kind="latency", limit="+3 %", verdict=verdict, failed=verdict == "fail", text="slower"
    )
    noise = Noise(row="head", ratio=Estimate(value=1.0, low=0.99, high=1.01), verdict="quiet")
    return report.model_copy(update={"rows": [head], "gates": [gate], "noise": noise})


def test_a_report_becomes_head_over_base(report: Report) -> None:
    found = read(made(report, 0.94, 0.96, "fail"), LATENCY_EXIT_CODE, 11.5)
    assert (found.low, found.high) == pytest.approx((1 / 0.96, 1 / 0.94))
    assert found.value == pytest.approx(1 / (0.94 * 0.96) ** 0.5)
    assert (found.alarm, found.conclusive, found.misses_one) == (True, True, True)
    assert (found.unstable, found.noisy, found.restarts, found.seconds) == (False, False, 6, 11.5)
    quiet = read(made(report, 0.99, 1.01, "pass"), 0, 9.0)
    assert (quiet.alarm, quiet.conclusive, quiet.misses_one) == (False, True, False)
    unclear = read(made(report, 0.96, 1.01, "inconclusive"), 0, 9.0)
    assert (unclear.alarm, unclear.conclusive, unclear.misses_one) == (False, False, False)


def test_an_exit_code_that_does_not_fit_the_gate_ends_the_run(report: Report) -> None:
    with pytest.raises(SystemExit, match="exit code 0"):
        read(made(report, 0.94, 0.96, "fail"), 0, 9.0)
    with pytest.raises(SystemExit, match="exit code 12"):
        read(made(report, 0.99, 1.01, "pass"), LATENCY_EXIT_CODE, 9.0)


def test_a_report_without_ratio_ends_the_run(report: Report) -> None:
    good = made(report, 0.99, 1.01, "pass")
    bare = good.rows[0].model_copy(update={"speedups": []})
    with pytest.raises(SystemExit, match="no ratio"):
        read(good.model_copy(update={"rows": [bare]}), 0, 9.0)


def outcomes(total: int, **changes: int) -> list[Outcome]:
    """``changes``: how many of them alarm, are not conclusive ..."""
    found = [OUTCOME] * total
    for name, count in changes.items():
        for index in range(count):
            value = {"alarm": True, "conclusive": False, "low": 1.001, "seconds": 16.0}[name]
            found[index] = dataclasses.replace(found[index], **{name: value})  # type: ignore[arg-type]
    return found


def unmet(mode: Literal["quiet", "slowed", "loaded"], found: list[Outcome]) -> list[str]:
    return [demand.what for demand in demands(mode, found) if not demand.met]


def test_demands_are_the_issues() -> None:
    assert unmet("quiet", outcomes(100, alarm=1, low=5)) == []
    assert unmet("quiet", outcomes(100, alarm=2)) == ["false alarms"]
    assert unmet("quiet", outcomes(100, low=6)) == ["intervals without 1.0"]
    assert unmet("quiet", outcomes(100, seconds=1)) == ["over 15 s"]
    assert unmet("slowed", outcomes(100, alarm=95)) == []
    assert unmet("slowed", outcomes(100, alarm=94)) == ["detected"]
    assert unmet("loaded", outcomes(100, alarm=1, conclusive=50)) == []
    assert unmet("loaded", outcomes(100, conclusive=51)) == ["conclusive"]


def test_table_has_a_line_for_each_mode_and_demand() -> None:
    text = "\n".join(table({"quiet": outcomes(10, alarm=1), "slowed": [], "loaded": outcomes(4)}))
    assert "| quiet | 10 | 1 | 10 | 0 | 0 | 0 | 2.0 % | 5.0 | 9.0, at most 9.0 |" in text
    assert "- quiet: false alarms: 1 of 10: NOT MET" in text
    assert "- loaded: conclusive: 4 of 4: met" in text
    assert "slowed" not in text


def test_slowdowns_are_weighted_by_restarts() -> None:
    one = dataclasses.replace(OUTCOME, value=1.04, restarts=10)
    other = dataclasses.replace(OUTCOME, value=1.08, restarts=5)
    found = pooled(9, [one, other])
    assert found.value == pytest.approx((1.04**2 * 1.08) ** (1 / 3) - 1)
    assert found.comparisons == 2
    assert found.error is not None
    assert 0.005 < found.error < 0.03
    assert pooled(9, [one]).error is None
    assert pooled(9, [one, one]).error == pytest.approx(0)


@pytest.mark.parametrize(("first", "each"), [(0.0, 0.004), (0.01, 0.0021), (0.002, 0.0009), (0.0, 0.0177)])
def test_calibration_finds_five_percent(first: float, each: float) -> None:
    tried = []

    def measure(nodes: int) -> Slowdown:
        tried.append(nodes)
        return Slowdown(nodes, first + each * nodes, 0.001, 12)

    found = calibrated(measure)
    assert found.off <= max(0.0015, each / 2 + 1e-9)
    assert len(tried) == len(set(tried)) <= 5


def test_calibration_ends_where_nothing_helps() -> None:
    found = calibrated(lambda nodes: Slowdown(nodes, -0.01, 0.001, 12))
    assert not found.fits
    assert calibrated(lambda nodes: Slowdown(nodes, 0.2 * nodes, 0.001, 12)).nodes == 1


def test_what_was_measured_is_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "out" / "kept.json"
    kept = Kept(path, {"model": "a"})
    assert (kept.outcomes("quiet"), kept.slowdown) == ([], None)
    kept.add("quiet", OUTCOME)
    kept.add("slowed", OUTCOME)
    kept.calibrate(Slowdown(12, 0.05, None, 1))
    again = Kept(path, {"model": "a"})
    assert again.outcomes("quiet") == [OUTCOME]
    assert again.outcomes("slowed") == [], "those were of a file that was slowed otherwise"
    assert again.slowdown == Slowdown(12, 0.05, None, 1)
    assert Kept(path, {"model": "b"}).outcomes("quiet") == []
    path.write_text("{")
    assert Kept(path, {"model": "a"}).outcomes("quiet") == []


def small(path: Path) -> None:
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def test_the_slower_copy_is_the_same_model_and_more(tmp_path: Path) -> None:
    small(tmp_path / "a.onnx")
    slowed(tmp_path / "a.onnx", tmp_path / "b.onnx", 3)
    onnx.checker.check_model(onnx.load(tmp_path / "b.onnx"), full_check=True)
    x = np.array([[-1, 0.5, 2]], dtype=np.float32)
    first, last = onnxruntime.InferenceSession(tmp_path / "b.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_array_equal(first, np.maximum(x, 0))
    np.testing.assert_allclose(last, np.sin(np.sin(np.sin(np.maximum(x, 0)))), rtol=1e-5)


def test_load_needs_a_core_of_its_own_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    with pytest.raises(SystemExit, match="two cores"), load():
        pass
