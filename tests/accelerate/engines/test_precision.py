"""The types of real strongly typed networks, parsed by TensorRT-RTX: no GPU is needed for that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from accel import catalog
from accel.accelerate.engines.precision import TypedNetwork, held_against, typed_network
from accel.accelerate.tensorrt_engine import TensorRt
from accel.contracts import Batch, Job
from accel.errors import BackendFault
from accel.model import Target
from accel.onnx_file import read

trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")

RANDOM = np.random.default_rng(0)
FLOAT, HALF, FP8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.FLOAT8E4M3FN


def save(path: Path, nodes: Sequence[NodeProto], weights: dict[str, Any], kind: int = FLOAT) -> Path:
    """``x`` (2, 8, 6, 6) to ``y``, whatever its shape."""
    tensors = [each if isinstance(each, onnx.TensorProto) else numpy_helper.from_array(each, n) for n, each in weights.items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, [2, 8, 6, 6])],
        [helper.make_tensor_value_info("y", kind, None)],
        tensors,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), str(path))
    return path


def array(*shape: int, dtype: Any = np.float32) -> NDArray[Any]:
    values: NDArray[Any] = RANDOM.standard_normal(shape).astype(dtype)
    return values


def qdq(source: str, zero: str = "zero", scale: str = "scale") -> list[NodeProto]:
    """``source`` as ``source_d``, through integers."""
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [f"{source}_q"], f"{source}/Q"),
        helper.make_node("DequantizeLinear", [f"{source}_q", scale, zero], [f"{source}_d"], f"{source}/D"),
    ]


def stored(name: str, zero: str = "zero", scale: str = "scale") -> NodeProto:
    """Integer weights ``name`` as ``name_d``."""
    return helper.make_node("DequantizeLinear", [name, scale, zero], [f"{name}_d"], f"{name}/D")


SCALES: dict[str, Any] = {"scale": np.array(0.05, np.float32), "zero": np.array(0, np.int8)}


def conv(data: str, weights: str, made: str, name: str) -> NodeProto:
    return helper.make_node("Conv", [data, weights], [made], name, kernel_shape=[3, 3], pads=[1, 1, 1, 1])


def int8(*shape: int) -> NDArray[Any]:
    return RANDOM.integers(-100, 100, shape).astype(np.int8)


def typed(path: Path) -> TypedNetwork:
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    assert parser.parse_from_file(str(path)), [parser.get_error(each).desc() for each in range(parser.num_errors)]
    return typed_network(network)


def target(precision: str = "fp32") -> Target:
    return Target("rtx", "tensorrt", "gpu", precision=precision)


def float_net(path: Path, kind: int = FLOAT) -> Path:
    """A convolution, its activation, a transposed convolution and a matrix product."""
    dtype = np.float32 if kind == FLOAT else np.float16
    nodes = [
        conv("x", "w", "a", "stem/Conv"),
        helper.make_node("Relu", ["a"], ["b"], "stem/Relu"),
        helper.make_node("ConvTranspose", ["b", "t"], ["c"], "up/ConvTranspose", kernel_shape=[1, 1]),
        helper.make_node("Flatten", ["c"], ["d"], "flat"),
        helper.make_node("Gemm", ["d", "m", "bias"], ["y"], "head/Gemm"),
    ]
    weights = {"w": array(8, 8, 3, 3, dtype=dtype), "t": array(8, 4, 1, 1, dtype=dtype)}
    weights |= {"m": array(144, 5, dtype=dtype), "bias": array(5, dtype=dtype)}
    return save(path, nodes, weights, kind)


def test_an_fp32_file_is_wholly_fp32(tmp_path: Path) -> None:
    path = float_net(tmp_path / "m.onnx")
    found = typed(path)
    assert [each.name for each in found.operators] == ["stem/Conv", "up/ConvTranspose", "head/Gemm"]
    assert dict(found.floats) == {"fp32": 3}
    assert found.quantized == ()
    layer = next(layer for layer in found.layers if layer.name == "stem/Relu")
    assert (layer.kind, layer.nodes, layer.inputs, layer.outputs) == ("ACTIVATION", ("stem/Relu",), ("fp32",), ("fp32",))
    assert held_against(found, path, target()) == ("types of the network's operators: 3 in fp32",)
    summary = found.summary(0)
    assert (summary.int8_typed, summary.float_types) == (0, {"fp32": 3})
    assert summary.operators == {"stem/Conv": "fp32", "up/ConvTranspose": "fp32", "head/Gemm": "fp32"}


def test_an_fp16_file_is_fp16_and_what_was_asked(tmp_path: Path) -> None:
    path = float_net(tmp_path / "m.onnx", HALF)
    found = typed(path)
    assert dict(found.floats) == {"fp16": 3}
    assert held_against(found, path, target("fp16")) == ("types of the network's operators: 3 in fp16",)
    notes = held_against(found, path, target("fp32"))
    assert notes[1].startswith("the target says fp32; by the graph 3 of 3 operators compute or give fp16: stem/Conv")


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_precision_that_the_graph_does_not_have_is_refused(tmp_path: Path, precision: str) -> None:
    path = float_net(tmp_path / "m.onnx")
    with pytest.raises(
        BackendFault, match=rf"target rtx: precision {precision} .* wholly in fp32.*`- type: cast, dtype: {precision}`"
    ):
        held_against(typed(path), path, target(precision))


def test_a_net_without_products_is_judged_by_its_layers(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"], "relu")], {}, HALF)
    assert held_against(typed(path), path, target("fp16")) == ()
    with pytest.raises(BackendFault, match="wholly in fp16"):
        held_against(typed(path), path, target("bf16"))


def test_some_nodes_that_cast_left_in_fp32_are_named(tmp_path: Path) -> None:
    nodes = [
        conv("x", "w", "a", "stem/Conv"),
        helper.make_node("Cast", ["a"], ["b"], "to32", to=FLOAT),
        conv("b", "v", "c", "wide/Conv"),
        helper.make_node("Cast", ["c"], ["y"], "to16", to=HALF),
    ]
    path = save(tmp_path / "m.onnx", nodes, {"w": array(8, 8, 3, 3, dtype=np.float16), "v": array(8, 8, 3, 3)}, HALF)
    notes = held_against(typed(path), path, target("fp16"))
    assert notes[0] == "types of the network's operators: 1 in fp16, 1 in fp32"
    assert notes[1].endswith("1 of 2 operators compute or give fp32: wide/Conv")


class Images:
    def has(self, split: str) -> bool:
        return split == "calibration"

    def digest(self, split: str) -> str:
        return "noise"

    def count(self, split: str) -> int:
        return 4

    def calibration(self) -> Iterable[Batch]:
        yield Batch({"x": array(2, 8, 6, 6)})
        yield Batch({"x": array(2, 8, 6, 6)})


def test_what_the_quantize_pass_makes_is_int8_on_both_sides(tmp_path: Path) -> None:
    source = float_net(tmp_path / "float.onnx")
    step = catalog.load(catalog.passes()["quantize/static/onnxruntime"])()
    (tmp_path / "int8").mkdir()
    data: Any = Images()
    made = step(read(source), Job.local(tmp_path / "int8", data, profile=TensorRt.quantization))
    found = typed(made.path)
    assert [(each.name, each.data, each.weights) for each in found.quantized] == [
        ("stem/Conv", "int8", "int8"),
        ("up/ConvTranspose", "int8", "int8"),
        ("head/Gemm", "int8", "int8"),
    ]
    assert found.islands == ()
    notes = held_against(found, made.path, target())
    assert notes == ("types of the network's operators: 1 Conv in int8, 1 ConvTranspose in int8, 1 MatMul in int8",)
    assert found.summary(3).int8_typed == 3
    with pytest.raises(BackendFault, match=r"3 operators have Q/DQ .* only 0; lost: stem/Conv, up/ConvTranspose, head/Gemm"):
        held_against(typed(source), made.path, target())


def test_quantization_is_seen_through_changes_of_shape_and_type(tmp_path: Path) -> None:
    nodes = [
        *qdq("x"),
        helper.make_node("Transpose", ["x_d"], ["turned"], "turn", perm=[0, 1, 3, 2]),
        stored("w"),
        helper.make_node("Reshape", ["w_d", "shape"], ["kernel"], "fold"),
        conv("turned", "kernel", "a", "stem/Conv"),
        *qdq("a"),
        helper.make_node("Flatten", ["a_d"], ["flat"], "flat"),
        helper.make_node("Cast", ["flat"], ["half"], "half", to=HALF),
        stored("m"),
        helper.make_node("Cast", ["m_d"], ["m_half"], "m_half", to=HALF),
        helper.make_node("MatMul", ["half", "m_half"], ["y16"], "head/MatMul"),
        helper.make_node("Cast", ["y16"], ["y"], "back", to=FLOAT),
    ]
    weights = SCALES | {"w": int8(8, 72), "shape": np.array([8, 8, 3, 3]), "m": int8(288, 5)}
    path = save(tmp_path / "m.onnx", nodes, weights)
    found = typed(path)
    assert [(each.name, each.data, each.weights, each.computes) for each in found.quantized] == [
        ("stem/Conv", "int8", "int8", "fp32"),
        ("head/MatMul", "int8", "int8", "fp16"),
    ]
    held_against(found, path, target())


def test_weights_alone_are_not_called_quantized(tmp_path: Path) -> None:
    path = save(tmp_path / "m.onnx", [stored("w"), conv("x", "w_d", "y", "stem/Conv")], SCALES | {"w": int8(8, 8, 3, 3)})
    found = typed(path)
    assert found.quantized == ()
    assert found.operators[0].weight_only
    assert "1 with weights alone in int8" in held_against(found, path, target())[0]


def test_an_island_in_float_is_named(tmp_path: Path) -> None:
    nodes = [
        *qdq("x"), stored("w"), conv("x_d", "w_d", "a", "first/Conv"),
        conv("a", "float", "b", "middle/Conv"),
        *qdq("b"), stored("v"), conv("b_d", "v_d", "c", "third/Conv"),
        conv("c", "float", "y", "last/Conv"),
    ]  # fmt: skip
    weights = SCALES | {"w": int8(8, 8, 3, 3), "v": int8(8, 8, 3, 3), "float": array(8, 8, 3, 3)}
    path = save(tmp_path / "m.onnx", nodes, weights)
    found = typed(path)
    assert found.islands == ("middle/Conv",)
    assert held_against(found, path, target())[-1].startswith("in float between quantized operators: middle/Conv; ")


def test_fp8_is_recognized(tmp_path: Path) -> None:
    one = helper.make_tensor("zero8", FP8, [], b"\0", raw=True)
    weights = {"scale": np.array(0.05, np.float32), "zero8": one}
    weights["w"] = helper.make_tensor("w", FP8, [288, 5], bytes(range(1, 97)) * 15, raw=True)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], "flat"),
        *qdq("flat", "zero8"),
        stored("w", "zero8"),
        helper.make_node("MatMul", ["flat_d", "w_d"], ["y"], "head/MatMul"),
    ]
    path = save(tmp_path / "m.onnx", nodes, weights)
    found = typed(path)
    assert [(each.data, each.weights) for each in found.quantized] == [("fp8", "fp8")]
    assert held_against(found, path, target()) == ("types of the network's operators: 1 MatMul in fp8",)
    summary = found.summary(1)
    assert (summary.int8_typed, summary.fp8_typed, summary.operators) == (0, 1, {"head/MatMul": "fp8"})


def test_nodes_without_a_name_or_of_one_name_are_all_counted(tmp_path: Path) -> None:
    nodes = [
        *qdq("x"), stored("w"), conv("x_d", "w_d", "a", "same"),
        *qdq("a"), conv("a_d", "w_d", "b", "same"),
        conv("b", "float", "y", ""),
    ]  # fmt: skip
    path = save(tmp_path / "m.onnx", nodes, SCALES | {"w": int8(8, 8, 3, 3), "float": array(8, 8, 3, 3)})
    found = typed(path)
    assert [each.quantized for each in found.operators] == [True, True, False]
    assert [each.name for each in found.operators][::2] == ["same", "node_of_y"]
    held_against(found, path, target())
    fewer = TypedNetwork(found.layers, tuple(replace(each, data="fp32") for each in found.operators), ())
    with pytest.raises(BackendFault, match=r"only 0; lost: same, same_\d\. Put"):
        held_against(fewer, path, target())


def test_a_convolution_over_one_axis_is_followed_through_what_the_parser_adds(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "flat"),
        *qdq("flat"),
        stored("w"),
        helper.make_node("Conv", ["flat_d", "w_d"], ["y"], "one/Conv", kernel_shape=[3]),
    ]
    path = save(tmp_path / "m.onnx", nodes, SCALES | {"shape": np.array([2, 8, 36]), "w": int8(8, 8, 3)})
    found = typed(path)
    assert "UNSQUEEZE" in {layer.kind for layer in found.layers}
    assert [each.name for each in found.quantized] == ["one/Conv"]
