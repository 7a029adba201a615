"""The script that holds our medians against other tools': what it reads, and when it says PASS. The runs are its own."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import against_benchmark_app as script
from accel.errors import WorkFault
from accel.report import Estimate


@pytest.mark.parametrize(
    ("low", "value", "high", "said"),
    [
        (0.99, 1.0, 1.01, "PASS"),
        (0.971, 1.0, 1.029, "PASS"),
        (0.99, 1.02, 1.05, "UNSURE"),
        (0.5, 1.0, 2.0, "UNSURE"),
        (1.04, 1.05, 1.06, "FAIL"),
        (0.9, 0.92, 0.95, "FAIL"),
    ],
)
def test_the_verdict_is_taken_from_the_interval(low: float, value: float, high: float, said: str) -> None:
    assert script.verdict(Estimate(value=value, low=low, high=high), 0.03) == said


def test_the_median_is_read_in_either_unit() -> None:
    said = "[ INFO ] Latency:\n[ INFO ]    Median:        {}\n[ INFO ]    Average:       803.95 us\n"
    assert script.median_ms(said.format("233.49 us")) == pytest.approx(0.23349)
    assert script.median_ms(said.format("1.87 ms")) == pytest.approx(1.87)
    with pytest.raises(WorkFault, match="no median"):
        script.median_ms("[ ERROR ] no such file")


@pytest.mark.slow
def test_every_arm_runs_the_same_file(tmp_path: Path) -> None:
    """Each in a process of its own; figures of half a second are not judged."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8]) for name in ("x", "y")]
    weight = onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], "g", shapes[:1], shapes[1:], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    for backend, names in (("onnxruntime", {"ours", "bare loop"}), ("openvino", {"ours", "bare loop", "benchmark_app"})):
        folder = tmp_path / backend
        folder.mkdir()
        comparison = script.Comparison(script.File("net", path), backend, folder, 0.5)
        assert set(comparison.arms()) == names
        found = comparison.restart(random.Random(0))
        assert names <= set(found)
        assert all(0 < median < 50 for median in found.values())
