"""What sessions told of layers and files, put into rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.limits import MOST_LAYERS, counted_traffic, in_float, with_layers, with_rooflines
from accel.machine import Peaks
from accel.model import Target
from accel.report import Latency, Precision, Row
from accel.rows import Found, Subject

MACHINE = Peaks(threads=1, fp32_gops=1.0, int8_gops=4.0, bandwidth_gb_s=1e6, cache_gb_s=1e6, measured="2026-01-01")
FED = {"x": "float32 [2, 8, 5, 5]"}
MACS = 2 * 25 * 4 * 8


@pytest.fixture
def file(tmp_path: Path) -> Path:
    weight = numpy_helper.from_array(np.ones((4, 8, 1, 1), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], name="only/Conv")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, "height", None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, "height", None])],
        [weight],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def row(name: str, **changes: Any) -> Row:
    precision = Precision(float_precision="fp32", quantized_operators=0, int8_operators=0, operators={})
    latency = Latency(
        batch_size=2, threads=1, queries=9, restarts=5, rounds=5, p50_ms=0.01, p90_ms=None, p99_ms=None, min_ms=0.01
    )
    entries = {"name": name, "role": "baseline", "backend": "onnxruntime", "precision": precision, "latency": latency}
    return Row.model_validate(entries | changes)


def found(name: str, path: Path | None, *, backend: str = "onnxruntime", layers: Any = None) -> Found:
    model: dict[str, Any] = {"kind": "torch"} if path is None else {"kind": "onnx", "path": str(path)}
    subject = Subject(name, "baseline", None, Target(name, backend), model, None)
    return Found(subject, compiled={"inputs": FED}, layers=layers)


def layers(*each: tuple[str, str, float]) -> dict[str, Any]:
    told = [{"name": name, "kind": "Conv", "nodes": [name], "precision": precision, "ms": ms} for name, precision, ms in each]
    return {"layers": told, "notes": ["one thing stands out"]}


def test_axes_have_the_sizes_that_were_timed(file: Path) -> None:
    assert counted_traffic(file, FED).macs == MACS


def test_pytorch_is_held_against_the_untouched_file(file: Path) -> None:
    rows = [row("eager", role="reference", backend="eager"), row("base"), row("result", role="result")]
    known = {"eager": found("eager", None), "base": found("base", file), "result": found("result", file)}
    for each in with_rooflines(rows, known, MACHINE):
        assert each.roofline is not None, each.name
        assert each.roofline.macs == MACS
        assert each.roofline.bound_ms == pytest.approx(2 * MACS / 1e6)


def test_pytorch_alone_has_no_roofline() -> None:
    (alone,) = with_rooflines([row("eager", backend="eager")], {"eager": found("eager", None)}, MACHINE)
    assert (alone.roofline, alone.notes) == (None, [])


def test_a_gpu_is_not_held_against_the_cpus_peak(file: Path) -> None:
    (on_gpu,) = with_rooflines([row("base", device="gpu")], {"base": found("base", file)}, MACHINE)
    assert (on_gpu.roofline, on_gpu.notes) == (None, [])


def test_a_row_that_was_not_timed_has_none(file: Path) -> None:
    (failed,) = with_rooflines([row("base", latency=None, status="failed")], {"base": found("base", file)}, MACHINE)
    assert (failed.roofline, failed.notes) == (None, [])


def test_an_ir_says_why_it_has_none(tmp_path: Path) -> None:
    (ir,) = with_rooflines([row("ov")], {"ov": found("ov", tmp_path / "net.xml")}, MACHINE)
    assert ir.roofline is None
    assert ir.notes == ["no roofline: operators are counted in ONNX files only"]


def test_a_file_that_cannot_be_counted_costs_a_note(file: Path) -> None:
    file.write_bytes(b"no model")
    (broken,) = with_rooflines([row("base")], {"base": found("base", file)}, MACHINE)
    assert broken.roofline is None
    assert broken.notes[0].startswith("no roofline: net.onnx: not an ONNX model")


def test_layers_go_into_the_row_as_they_run() -> None:
    told = with_layers(row("base", notes=["before"]), layers(("b", "fp32", 0.1), ("a", "int8", 0.2)))
    assert [(layer.name, layer.precision, layer.ms) for layer in told.layers] == [("b", "fp32", 0.1), ("a", "int8", 0.2)]
    assert told.notes == ["before", "one thing stands out"]
    assert with_layers(row("base"), None).layers == []


def test_of_many_layers_those_that_take_longest_stay() -> None:
    many = [(f"n{index}", "fp32", 1.0 if index % 3 else 0.5) for index in range(400)]
    many[7] = ("longest", "fp32", 9.0)
    told = with_layers(row("base"), layers(*many))
    assert len(told.layers) == MOST_LAYERS
    assert all(layer.ms is not None and layer.ms >= 1.0 for layer in told.layers)
    names = [layer.name for layer in told.layers]
    assert names[:6] == ["n1", "n2", "n4", "n5", "longest", "n8"]
    assert told.notes[-1] == f"layers: the {MOST_LAYERS} that take longest, of 400"


def test_a_node_that_ran_in_int8_somewhere_did_not_run_in_float() -> None:
    assert in_float(None) is None
    assert in_float(layers(("a", "fp32", 1.0), ("b", "int8", 1.0), ("a", "int8", 1.0), ("c", "bf16", 1.0))) == frozenset("c")
