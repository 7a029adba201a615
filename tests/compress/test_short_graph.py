"""Short names: fewer bytes, the same graph, the same INT8 operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.short_graph import _names, drop_defaults_, float_biases_, merge_equal_, shorten_
from accel.compress.simplify import Simplify
from accel.contracts import Job
from accel.model import OnnxModel

MakeJob = Callable[..., Job]


def executed(path: Path, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / f"{path.parent.name}-executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


@pytest.fixture
def quantized(float_model: OnnxModel, make_job: MakeJob) -> OnnxModel:
    return QuantizeStaticOnnxRuntime()(float_model, make_job(folder="int8"))


def test_the_file_is_smaller_and_runs_the_same_int8_operators(
    quantized: OnnxModel, make_job: MakeJob, tmp_path: Path, images: NDArray[Any]
) -> None:
    job = make_job(folder="short")
    short = Simplify(short_names=True)(quantized, job)
    before, after = (path.stat().st_size for path in (quantized.path, short.path))
    assert after < 0.9 * before
    assert f"{before - after} bytes fewer" in short.notes[-1]
    assert executed(short.path, tmp_path) == executed(quantized.path, tmp_path)
    assert executed(short.path, tmp_path)["QLinearConv"] > 0
    assert job.execute is not None
    wanted, found = (job.execute(path, {"image": images[:4]})[0] for path in (quantized.path, short.path))
    np.testing.assert_allclose(np.asarray(wanted, np.float32), np.asarray(found, np.float32), rtol=0, atol=1e-5)


def test_openvino_still_runs_them_in_int8(quantized: OnnxModel, make_job: MakeJob, tmp_path: Path) -> None:
    from accel import catalog
    from accel.model import Target

    short = Simplify(short_names=True)(quantized, make_job(folder="short"))
    counts = []
    for model in (quantized, short):
        with catalog.backend("openvino").compile(model, Target("check", "openvino", batch=1), tmp_path) as runner:
            runner({"image": np.zeros((1, 1, 16, 16), np.float32)})
            found = runner.executed_precision()
            counts.append((found.int8_operators, found.quantized_operators))
    assert counts[0] == counts[1] and counts[1][0] == counts[1][1] > 0


def test_operators_inputs_and_outputs_keep_their_names(quantized: OnnxModel, make_job: MakeJob) -> None:
    short = Simplify(short_names=True)(quantized, make_job(folder="short"))
    before, after = (onnx.load(str(model.path)).graph for model in (quantized, short))

    def called(graph: onnx.GraphProto) -> list[str]:
        return [node.name for node in graph.node if not node.op_type.endswith("Linear")]

    assert sorted(called(before)) == sorted(called(after))
    for kind in ("input", "output"):
        assert [value.name for value in getattr(before, kind)] == [value.name for value in getattr(after, kind)]
    assert short.signature == quantized.signature


def test_same_bytes_again_and_nothing_more_the_second_time(quantized: OnnxModel, make_job: MakeJob) -> None:
    once = Simplify(short_names=True)(quantized, make_job(folder="a"))
    again = Simplify(short_names=True)(quantized, make_job(folder="b"))
    twice = Simplify(short_names=True)(once, make_job(folder="c"))
    assert once.path.read_bytes() == again.path.read_bytes() == twice.path.read_bytes()


def graph(*weights: onnx.TensorProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "w0"], ["t"], name="add"), helper.make_node("Mul", ["t", "w1"], ["y"], name="mul")]
    kinds = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", *outputs)}
    made = helper.make_graph(nodes, "g", [kinds["x"]], [kinds[name] for name in outputs], list(weights))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_equal_constants_are_stored_once_and_unequal_ones_are_not() -> None:
    one, two = np.ones(2, np.float32), np.array([1, 2], np.float32)
    model = graph(numpy_helper.from_array(one, "w0"), numpy_helper.from_array(one.copy(), "w1"))
    merge_equal_(model.graph)
    assert [weight.name for weight in model.graph.initializer] == ["w0"]
    assert [list(node.input) for node in model.graph.node] == [["x", "w0"], ["t", "w0"]]
    model = graph(numpy_helper.from_array(one, "w0"), numpy_helper.from_array(two, "w1"))
    merge_equal_(model.graph)
    assert [weight.name for weight in model.graph.initializer] == ["w0", "w1"]
    model = graph(numpy_helper.from_array(one, "w0"), numpy_helper.from_array(one.astype(np.int32), "w1"))
    merge_equal_(model.graph)
    assert len(model.graph.initializer) == 2


def test_a_constant_that_is_an_output_stays() -> None:
    one = np.ones(2, np.float32)
    model = graph(numpy_helper.from_array(one, "w0"), numpy_helper.from_array(one, "w1"), outputs=("y", "w1"))
    shorten_(model)
    assert [value.name for value in model.graph.output] == ["y", "w1"]
    assert "w1" in [weight.name for weight in model.graph.initializer]
    onnx.checker.check_model(model)


def test_a_graph_with_subgraphs_keeps_its_names() -> None:
    inner = helper.make_graph(
        [helper.make_node("Add", ["t", "w1"], ["z"])], "i", [], [helper.make_tensor_value_info("z", 1, [2])]
    )
    model = graph(numpy_helper.from_array(np.ones(2, np.float32), "w0"), numpy_helper.from_array(np.ones(2, np.float32), "w1"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    model.graph.node.append(helper.make_node("If", ["c"], ["unused"], then_branch=inner, else_branch=inner, name="if"))
    shorten_(model)
    onnx.checker.check_model(model)
    assert {"w0", "w1"} <= {weight.name for weight in model.graph.initializer}
    assert model.graph.node[0].output[0] == "t"


def test_names_are_short_and_never_taken() -> None:
    names = list(islice(_names({"0", "a"}), 200))
    assert len(set(names)) == 200 and not {"0", "a"} & set(names)
    assert names[:3] == ["1", "2", "3"] and max(map(len, names)) == 2


def conv(**attributes: Any) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((4, 2, 3, 3), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    return helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [weight]), opset_imports=[helper.make_opsetid("", 20)]
    )


def test_attributes_that_say_nothing_go_and_others_stay() -> None:
    model = conv(kernel_shape=[3, 3], strides=[1, 1], dilations=[1, 1], group=1, auto_pad="NOTSET", pads=[1, 1, 1, 1])
    drop_defaults_(model)
    assert [held.name for held in model.graph.node[0].attribute] == ["pads"]
    model = conv(kernel_shape=[3, 3], strides=[2, 2], dilations=[2, 2], group=2, auto_pad="SAME_UPPER")
    drop_defaults_(model)
    assert {held.name for held in model.graph.node[0].attribute} == {"strides", "dilations", "group", "auto_pad"}


def biased(reader: str = "Conv", scale: Any = np.float32) -> onnx.ModelProto:
    """An INT32 bias behind DequantizeLinear, of a Conv or a Gemm."""
    nodes = [
        helper.make_node("DequantizeLinear", ["b", "s"], ["bias"], name="bias/dq", axis=0),
        helper.make_node(reader, ["x", "w", "bias"], ["y"], name="layer"),
    ]
    weights = {
        "b": np.array([3, -5], np.int32),
        "s": np.array([0.5, 0.25], scale),
        "w": np.ones((2, 2, 1, 1) if reader == "Conv" else (2, 2), np.float32),
    }
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    made = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], made), opset_imports=[helper.make_opsetid("", 20)]
    )


def test_the_bias_of_a_convolution_is_stored_as_what_it_stands_for() -> None:
    model = biased()
    float_biases_(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Conv"]
    held = {weight.name: numpy_helper.to_array(weight) for weight in model.graph.initializer}
    assert set(held) == {"w", "bias"}
    np.testing.assert_array_equal(held["bias"], np.array([1.5, -1.25], np.float32))


@pytest.mark.parametrize("model", [biased("Gemm"), biased(scale=np.float16)], ids=["gemm", "half"])
def test_a_bias_that_a_runtime_would_not_quantize_again_stays(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    float_biases_(model.graph)
    assert model.SerializeToString() == before


def test_a_bias_that_stands_for_no_float32_or_has_blocks_stays() -> None:
    for odd in (helper.make_attribute("output_dtype", TensorProto.FLOAT16), helper.make_attribute("block_size", 1)):
        model = biased()
        model.graph.node[0].attribute.append(odd)
        if odd.name == "block_size":
            model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([3, -5, 1, 2], np.int32), "b"))
            model.graph.node[0].attribute[-1].i = 2
        before = model.SerializeToString()
        float_biases_(model.graph)
        assert model.SerializeToString() == before
