"""How operators of a file are quantized, and values of a file that are looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.errors import ModelFault
from accel.onnx_exposed import values, write_exposed
from accel.onnx_file import read
from accel.onnx_quantized import kinds, operators


def pair(source: str, name: str) -> list[Any]:
    return [
        helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{name}_q"], name=f"{name}/Q"),
        helper.make_node("DequantizeLinear", [f"{name}_q", "s", "z"], [name], name=f"{name}/DQ"),
    ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A quantized convolution, a Sigmoid between pairs, a convolution with float weights, a MatMul in float, an addition."""
    nodes = [
        *pair("x", "x_d"),
        helper.make_node("DequantizeLinear", ["w8", "s"], ["w_d"], name="w/DQ"),
        helper.make_node("Conv", ["x_d", "w_d"], ["a"], name="a/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="b/Relu"),
        *pair("b", "b_d"),
        helper.make_node("Sigmoid", ["b_d"], ["c"], name="c/Sigmoid"),
        *pair("c", "c_d"),
        helper.make_node("Conv", ["c_d", "w"], ["d"], name="d/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("MatMul", ["d", "m"], ["e"], name="e/MatMul"),
        helper.make_node("Add", ["e", "x_d"], ["y"], name="y/Add"),
    ]
    tensors = {
        "s": np.float32(0.1), "z": np.uint8(0), "w8": np.ones((2, 2, 3, 3), np.uint8), "w": np.ones((2, 2, 3, 3), np.float32),
        "m": np.eye(4, dtype=np.float32),
    }  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2, 4, 4]) for name in "xy"]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    place = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), place)
    return place


def test_what_each_operator_reads_and_gives(path: Path) -> None:
    found = {each.name: each for each in operators(path)}
    assert list(found) == ["a/Conv", "b/Relu", "c/Sigmoid", "d/Conv", "e/MatMul", "y/Add"]
    conv = found["a/Conv"]
    assert conv.quantized and conv.weighted and conv.output  # the QuantizeLinear is behind its activation
    assert conv.around == ("x_d/DQ", "w/DQ", "b_d/Q")
    assert found["c/Sigmoid"].quantized and not found["c/Sigmoid"].weighted
    assert (found["d/Conv"].data, found["d/Conv"].weights, found["d/Conv"].quantized) == (True, False, False)
    assert (found["e/MatMul"].data, found["e/MatMul"].weights) == (False, False)
    assert not found["y/Add"].data  # one side of two
    assert list(kinds(path))[:3] == ["x_d/Q", "x_d/DQ", "w/DQ"]


def test_values_come_in_order_with_what_they_are_computed_from(path: Path) -> None:
    found = {each.node: each for each in values(path)}
    assert list(found) == [
        "x_d/DQ", "a/Conv", "b/Relu", "b_d/DQ", "c/Sigmoid", "c_d/DQ", "d/Conv", "e/MatMul", "y/Add",
    ]  # fmt: skip
    assert found["x_d/DQ"].reads == ()
    assert found["a/Conv"].reads == ("x_d/DQ",)  # weights are no value
    assert found["b_d/DQ"].reads == ("b/Relu",)
    assert found["y/Add"].reads == ("e/MatMul", "x_d/DQ")


def test_a_copy_gives_the_values_first_and_the_outputs_after_them(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    write_exposed(path, ["c", "a"], tmp_path / "looked.onnx")
    signature = read(tmp_path / "looked.onnx").signature
    assert [spec.name for spec in signature.outputs] == ["c", "a", "y"]
    assert path.read_bytes() == before
    write_exposed(path, ["y"], tmp_path / "looked.onnx")
    assert [spec.name for spec in read(tmp_path / "looked.onnx").signature.outputs] == ["y"]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)))
    with pytest.raises(ModelFault, match="not an ONNX model"):
        values(tmp_path / "noise.onnx")
