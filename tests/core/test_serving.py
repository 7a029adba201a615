"""A session with several runners, in this process; and what a child that only times does not import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.accelerate.openvino_model import OpenVino
from accel.contracts import Concurrent, TakesStreams
from accel.errors import BackendFault
from accel.imports import ImportPolicy
from accel.model import Target
from accel.recipe.reader import read
from accel.serving import Session
from accel.timed_inputs import Sample

RECIPE = """\
version: 1
model: {factory: "network.py:net", inputs: [{name: x, shape: [batch, 8]}]}
passes: []
targets: [{backend: eager}]
"""
NETWORK = """\
from torch import nn

def net():
    return nn.Linear(8, 4).eval()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    weights = np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="fc/MatMul")],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weights, "w")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def session(folder: Path, backend: str, *, streams: int = 2, size: int = 3) -> Session:
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "network.py").write_text(NETWORK)
    model: dict[str, Any] = {"kind": "torch"} if backend == "eager" else {"kind": "onnx", "path": str(folder / "m.onnx")}
    made = Session(
        lambda event: None,
        lambda: read(folder / "recipe.yaml"),
        ImportPolicy(folder),
        Target(backend, backend, batch=size),
        model,
        folder,
        Sample(None, size, 0),
        streams=streams,
    )
    made.compile()
    return made


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "eager"])
def test_every_stream_has_a_runner_of_its_own_that_gives_the_same(file: Path, backend: str) -> None:
    made = session(file.parent, backend)
    first, second = made._runners
    assert first is not second
    outputs = [np.array(runner(made._inputs)[0]) for runner in (first, second)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    count, taken = made.together(duration_s=0.02, min_calls=20)
    assert count >= 20 and taken > 0


def test_a_long_turn_times_all_batches_of_a_query(file: Path) -> None:
    made = session(file.parent, "onnxruntime", streams=1)
    calls = 0
    runner = made._runners[0]

    def counted(inputs: Any) -> Any:
        nonlocal calls
        calls += 1
        return runner(inputs)

    made._runners[0] = counted  # type: ignore[call-overload]
    assert len(made.long_turn(duration_s=0.0, min_queries=3, batches=8)) == 3
    assert calls == 8 * (3 + 1)  # the first query is not counted


def test_the_highest_rate_is_json_and_below_what_it_answers_at_most(file: Path) -> None:
    found = session(file.parent, "onnxruntime").highest_rate(bound_ms=200.0, queries=662, seed="0/0", limit_s=2.0)
    json.dumps(found, allow_nan=False)
    assert 0 < found["rate_per_s"] < found["capacity_per_s"]
    assert len(found["latencies_ns"]) == 662


def test_runners_share_what_was_compiled(file: Path) -> None:
    made = session(file.parent, "onnxruntime", streams=1)
    runner = made._runners[0]
    assert isinstance(runner, Concurrent)
    other = runner.another()
    with runner:
        pass
    assert len(other(made._inputs)) == 1  # closing one leaves the other
    with pytest.raises(BackendFault, match="closed"):
        runner.another()


def test_openvino_is_told_how_many_streams_there_will_be() -> None:
    backend = OpenVino()
    assert isinstance(backend, TakesStreams)
    assert not isinstance(OnnxRuntime(), TakesStreams)
    target = backend.with_streams(Target("t", "openvino", threads=2, options={"performance_hint": "latency"}), 3)
    properties = backend.runtime_settings(target)["properties"]
    assert (properties["NUM_STREAMS"], properties["INFERENCE_NUM_THREADS"]) == (3, 6)
    assert properties["PERFORMANCE_HINT"] == "LATENCY"


def test_a_stored_sample_fills_any_batch_over_and_over(tmp_path: Path) -> None:
    stored = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.savez(tmp_path / "sample.npz", x=stored)
    filled = Sample(str(tmp_path / "sample.npz"), 5, 0).inputs([])
    np.testing.assert_array_equal(filled["x"], stored[[0, 1, 0, 1, 0]])
    np.testing.assert_array_equal(Sample(str(tmp_path / "sample.npz"), 1, 0).inputs([])["x"], stored[:1])


def test_a_child_that_only_times_imports_no_recipe() -> None:
    """Fifteen of them start for one comparison: 0.3 s each on one core, if they read recipes and reports."""
    program = (
        "import sys, accel.serving\n"
        "heavy = {'pydantic', 'ruamel', 'numpy', 'onnx', 'torch', 'accel.report', 'accel.recipe.reader'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-P", "-c", program], check=True)
