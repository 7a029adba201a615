"""The script that holds our medians against other tools': programs that fail, and when it says PASS. The runs are its own."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import against_benchmark_app as script
from accel.errors import WorkFault
from accel.report import Estimate
from measuring_programs import Program
from time_slices import Pace


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


def test_a_program_that_ends_before_it_measures_is_told_with_its_last_words() -> None:
    with pytest.raises(WorkFault, match="ended with 3; the last it said: no such file"):
        Program([sys.executable, "-c", "print('no such file'); raise SystemExit(3)"])


@pytest.mark.slow
def test_every_arm_runs_the_same_file(tmp_path: Path) -> None:
    """Each in a process of its own; figures of a second are not judged."""
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
        comparison = script.Comparison(script.File("net", path), backend, folder, 1)
        assert set(comparison.arms()) == names
        found = comparison.restart(random.Random(0), Pace()).medians
        assert names <= set(found)
        assert all(0 < median < 50 for median in found.values())
