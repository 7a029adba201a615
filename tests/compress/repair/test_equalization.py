from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.onnx_writing import write
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.repair.equalization import equalize_, pairs_of
from accel.contracts import Job
from accel.model import OnnxModel, Signature, TensorSpec

Array = NDArray[Any]
Execute = Callable[[Path, dict[str, Array]], Sequence[Array]]
MakeJob = Callable[..., Job]


def network(path: Path, between: Sequence[onnx.NodeProto], factor: float = 1000.0) -> OnnxModel:
    """Two convolutions of which the first makes one channel ``factor`` times larger than the other seven, and the second
    reads it as much smaller: float32 sees no difference. ``between`` leads from ``made`` to ``read``."""
    random = np.random.default_rng(0)
    first = random.normal(size=(8, 1, 3, 3)).astype(np.float32)
    second = random.normal(size=(4, 8, 3, 3)).astype(np.float32)
    bias = random.normal(size=8).astype(np.float32)
    first[2] *= factor
    bias[2] *= factor
    second[:, 2] /= factor
    stored = {"w1": first, "b1": bias, "w2": second, "b2": np.zeros(4, np.float32), "zero": np.float32(0), "six": np.float32(6)}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w1", "b1"], ["made"], name="one"),
            *between,
            helper.make_node("Conv", ["read", "w2", "b2"], ["out"], name="two"),
        ],
        "pair",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, 12, 12])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    write(model, path)
    image, out = TensorSpec("image", ("batch", 1, 16, 16), "float32"), TensorSpec("out", ("batch", 4, 12, 12), "float32")
    return OnnxModel(path=path, signature=Signature((image,), (out,)))


def relu() -> list[onnx.NodeProto]:
    return [helper.make_node("Relu", ["made"], ["read"], name="relu")]


def relu6() -> list[onnx.NodeProto]:
    return [helper.make_node("Clip", ["made", "zero", "six"], ["read"], name="relu6")]


def error(found: OnnxModel, model: OnnxModel, images: Array, execute: Execute) -> float:
    wanted, got = (execute(each.path, {"image": images})[0] for each in (model, found))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("engine", [QuantizeStaticOnnxRuntime, QuantizeStaticNncf])
def test_it_repairs_a_network_with_one_large_channel(
    engine: Any, tmp_path: Path, images: Array, execute: Execute, make_job: MakeJob
) -> None:
    model = network(tmp_path / "float.onnx", relu())
    plain = engine()(model, make_job(folder="plain"))
    repaired = engine(cross_layer_equalization=True)(model, make_job(folder="repaired"))
    assert error(plain, model, images, execute) > 0.3, "the network needs it"
    assert error(repaired, model, images, execute) < 0.05
    assert any(note.startswith("cross_layer_equalization: 1 pairs of layers") for note in repaired.notes)


def test_the_float_network_computes_the_same(tmp_path: Path, images: Array, execute: Execute) -> None:
    model = network(tmp_path / "float.onnx", relu())
    graph = onnx.load(str(model.path))
    equalize_(graph.graph, pairs_of(graph.graph), {})
    write(graph, tmp_path / "equalized.onnx")
    assert error(OnnxModel(path=tmp_path / "equalized.onnx", signature=model.signature), model, images, execute) < 1e-5
    weights = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    made, read = np.abs(weights["w1"]).max(axis=(1, 2, 3)), np.abs(weights["w2"]).max(axis=(0, 2, 3))
    assert np.allclose(made, read, rtol=0.01), "each channel has the same range on both sides"


def test_relu6_keeps_its_bound_where_it_is_reached(tmp_path: Path, images: Array, execute: Execute, make_job: MakeJob) -> None:
    """Channel 2 is cut off at 6: dividing it would move the bound. The others stay below it, and may be scaled."""
    model = network(tmp_path / "float.onnx", relu6())
    repaired = QuantizeStaticOnnxRuntime(cross_layer_equalization=True)(model, make_job())
    graph = onnx.load(str(model.path))
    (pair,) = pairs_of(graph.graph)
    assert pair.bound == 6
    reached = np.array([1.0, 1.0, 5000.0, 5.5, 1.0, 0.01, 3.0, 1.0], np.float32)
    before = numpy_helper.to_array(graph.graph.initializer[0]).copy()
    notes = equalize_(graph.graph, [pair], {"made": reached})
    ratio = np.abs(before / numpy_helper.to_array(graph.graph.initializer[0])).mean(axis=(1, 2, 3))
    assert ratio[2] == ratio[3] == 1
    assert (reached[[0, 1, 4, 5, 6, 7]] / ratio[[0, 1, 4, 5, 6, 7]] <= 0.9001 * 6).all(), "none comes to the bound now"
    assert "in 1 of them channels that reach the bound of a clip stay as they were" in notes[1]
    assert error(repaired, model, images, execute) < 0.05


@pytest.mark.parametrize(
    "between",
    [
        [helper.make_node("Sigmoid", ["made"], ["read"], name="sigmoid")],
        [helper.make_node("Relu", ["made"], ["half"], name="r"), helper.make_node("Add", ["half", "half"], ["read"], name="a")],
        [helper.make_node("Clip", ["made", "six"], ["read"], name="clip")],
    ],
    ids=["not homogeneous", "read twice", "clipped from below"],
)
def test_pairs_that_would_change_the_network_are_none(between: list[onnx.NodeProto], tmp_path: Path, make_job: MakeJob) -> None:
    model = network(tmp_path / "float.onnx", between)
    assert pairs_of(onnx.load(str(model.path)).graph) == []
    result = QuantizeStaticOnnxRuntime(cross_layer_equalization=True)(model, make_job())
    assert any(note.startswith("warning: cross_layer_equalization: no layer") for note in result.notes)


def test_an_ignored_layer_is_not_touched(tmp_path: Path) -> None:
    model = network(tmp_path / "float.onnx", relu())
    assert pairs_of(onnx.load(str(model.path)).graph, {"two"}) == []


@pytest.mark.parametrize("scale", [1e-9, 1e-6])
def test_a_channel_that_is_nearly_off_does_not_take_all_levels(
    scale: float, tmp_path: Path, images: Array, execute: Execute, make_job: MakeJob
) -> None:
    """Its weights say nothing about its range: it gives its bias."""
    model = network(tmp_path / "float.onnx", relu(), factor=1.0)
    graph = onnx.load(str(model.path))
    stored = {each.name: each for each in graph.graph.initializer}
    weight, bias = (numpy_helper.to_array(stored[name]).copy() for name in ("w1", "b1"))
    weight[2] *= scale
    bias[2] = 1.5
    stored["w1"].CopyFrom(numpy_helper.from_array(weight, "w1"))
    stored["b1"].CopyFrom(numpy_helper.from_array(bias, "b1"))
    write(graph, model.path)
    repaired = QuantizeStaticOnnxRuntime(cross_layer_equalization=True)(model, make_job())
    assert error(repaired, model, images, execute) < 0.05


def test_of_two_clips_the_lower_one_is_the_bound(tmp_path: Path) -> None:
    second = helper.make_node("Clip", ["clipped", "zero", "six"], ["read"], name="second")
    model = network(tmp_path / "float.onnx", [helper.make_node("Clip", ["made", "zero", "six"], ["clipped"], name="a"), second])
    graph = onnx.load(str(model.path)).graph
    graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(600)), "high"))
    next(node for node in graph.node if node.name == "second").input[2] = "high"
    (pair,) = pairs_of(graph)
    assert pair.bound == 6


def test_channels_of_a_product_of_three_dimensions_are_its_last_axis(
    tmp_path: Path, execute: Execute, make_job: MakeJob, make_task: Callable[..., Any]
) -> None:
    random = np.random.default_rng(0)
    stored = {"w1": random.normal(size=(6, 8)), "w2": random.normal(size=(8, 4)), "zero": np.array(0), "six": np.array(6)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["image", "w1"], ["made"], name="one"),
            helper.make_node("Clip", ["made", "zero", "six"], ["read"], name="clip"),
            helper.make_node("MatMul", ["read", "w2"], ["out"], name="two"),
        ],
        "products",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 5, 6])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 5, 4])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in stored.items()],
    )
    path = tmp_path / "float.onnx"
    write(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    image, out = TensorSpec("image", ("batch", 5, 6), "float32"), TensorSpec("out", ("batch", 5, 4), "float32")
    model = OnnxModel(path=path, signature=Signature((image,), (out,)))
    rows = random.normal(size=(16, 5, 6)).astype(np.float32)
    repaired = QuantizeStaticOnnxRuntime(cross_layer_equalization=True)(model, make_job(task=make_task(rows)))
    assert error(repaired, model, rows, execute) < 0.05
