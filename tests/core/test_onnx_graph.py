"""Counting in ONNX graphs, against numbers worked out by hand and against torch's own counter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.onnx_graph import macs, parameters, quantization, summary

FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def model(
    nodes: Sequence[Any],
    weights: Sequence[Any],
    x: Sequence[int | str | None],
    y: Sequence[int | str | None],
    kind: int = FLOAT,
) -> Any:
    inputs = [helper.make_tensor_value_info("x", kind, x)]
    outputs = [helper.make_tensor_value_info("y", kind, y)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(kind: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], f"the/{kind}", **attributes)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (model([node("Conv", ["x", "w"])], [weight("w", 8, 3, 3, 3)], ["batch", 3, 10, 10], ["batch", 8, 8, 8]), 64 * 8 * 27),
        (
            model([node("Conv", ["x", "w"], group=4)], [weight("w", 8, 1, 3, 3)], ["batch", 4, 10, 10], ["batch", 8, 8, 8]),
            64 * 8 * 9,
        ),
        (
            model([node("Conv", ["x", "w"], strides=[2, 2])], [weight("w", 8, 3, 2, 2)], [None, 3, 10, 10], [None, 8, 5, 5]),
            25 * 8 * 12,
        ),
        (
            model([node("ConvTranspose", ["x", "w"])], [weight("w", 3, 8, 2, 2)], ["n", 3, 10, 10], ["n", 8, 11, 11]),
            3 * 100 * 8 * 4,
        ),
        (model([node("Gemm", ["x", "w"], transB=1)], [weight("w", 5, 7)], ["batch", 7], ["batch", 5]), 35),
        (model([node("Gemm", ["x", "w"], transA=1)], [weight("w", 6, 5)], [6, 7], [7, 5]), 6 * 7 * 5),
        (model([node("MatMul", ["x", "w"])], [weight("w", 7, 5)], ["batch", 4, 7], ["batch", 4, 5]), 4 * 35),
    ],
    ids=["conv", "grouped", "strided", "transposed", "gemm", "gemm transA", "matmul"],
)
def test_macs_of_one_operator(made: Any, expected: int) -> None:
    found = macs(made)
    assert list(found.by_node.values()) == [expected]
    assert next(iter(found.by_node)).startswith("the/")
    assert found.unknown == ()


def test_shapes_flow_through_a_computed_reshape() -> None:
    nodes = [
        node("Shape", ["x"], "s", end=1),
        node("Concat", ["s", "rest"], "t", axis=0),
        node("Reshape", ["x", "t"], "flat"),
        node("MatMul", ["flat", "w"]),
    ]
    rest = numpy_helper.from_array(np.array([-1], np.int64), "rest")
    assert macs(model(nodes, [rest, weight("w", 48, 5)], ["batch", 3, 4, 4], ["batch", 5])).total == 240


def test_an_axis_without_a_size_is_told_and_can_be_given() -> None:
    made = model([node("MatMul", ["x", "w"])], [weight("w", 7, 5)], ["batch", "length", 7], ["batch", "length", 5])
    assert macs(made).unknown == ("the/MatMul",)
    assert macs(made, {"length": 9}).total == 9 * 35
    assert made.graph.input[0].type.tensor_type.shape.dim[1].dim_param == "length"


def test_a_recurrent_layer_is_named_as_uncounted() -> None:
    made = model(
        [helper.make_node("LSTM", ["x", "w", "r"], ["h"], "lstm", hidden_size=2), node("Squeeze", ["h"])],
        [weight("w", 1, 8, 3), weight("r", 1, 8, 2)],
        [4, 1, 3],
        [4, 2],
    )
    assert macs(made).unknown == ("lstm",)


def quantized(symmetric: bool) -> Any:
    """x -> Q -> DQ -> Conv(DQ(int8 weights per channel), DQ(int32 bias)) -> y, and a Gemm left in float."""
    kind = np.int8 if symmetric else np.uint8
    weights = [
        weight("w", 8, 3, 3, 3, dtype=np.int8),
        weight("b", 8, dtype=np.int32),
        weight("ws", 8),
        numpy_helper.from_array(np.zeros(8, np.int8), "wz"),
        numpy_helper.from_array(np.zeros(8, np.int32), "bz"),
        numpy_helper.from_array(np.float32(0.1), "s"),
        numpy_helper.from_array(kind(0 if symmetric else 128), "z"),
        weight("f", 8, 5),
    ]
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], "q"),
        node("DequantizeLinear", ["q", "s", "z"], "d"),
        node("DequantizeLinear", ["w", "ws", "wz"], "wd", axis=0),
        node("DequantizeLinear", ["b", "ws", "bz"], "bd", axis=0),
        node("Conv", ["d", "wd", "bd"], "c"),
        node("GlobalAveragePool", ["c"], "p"),
        node("Flatten", ["p"], "flat"),
        node("Gemm", ["flat", "f"]),
    ]
    return model(nodes, weights, ["batch", 3, 10, 10], ["batch", 5])


def test_quantized_form_counts_like_the_float_form() -> None:
    made = quantized(False)
    assert macs(made).by_node == {"the/Conv": 64 * 8 * 27, "the/Gemm": 40}
    assert parameters(made) == 8 * 27 + 8 + 40


@pytest.mark.parametrize("symmetric", [True, False])
def test_quantization_says_what_is_quantized_and_how(symmetric: bool) -> None:
    found = quantization(quantized(symmetric))
    assert (found.weighted, found.quantized, found.weight_only, found.floating) == (2, 1, 0, ("the/Gemm",))
    assert found.activation_dtypes == (("int8",) if symmetric else ("uint8",))
    assert found.activations_symmetric is symmetric
    assert (found.weight_dtypes, found.weights_symmetric, found.per_channel) == (("int8",), True, True)


def test_weights_alone_in_integers() -> None:
    made = quantized(False)
    for each in made.graph.node:
        if each.op_type == "Conv":
            each.input[0] = "x"
    found = quantization(made)
    assert (found.quantized, found.weight_only, found.activations_symmetric) == (0, 1, None)


def test_integer_operators() -> None:
    weights = [
        weight("w", 8, 3, 3, 3, dtype=np.int8),
        *(numpy_helper.from_array(np.float32(0.1), name) for name in ("xs", "ws", "ys")),
        *(numpy_helper.from_array(kind(0), name) for name, kind in (("xz", np.uint8), ("wz", np.int8), ("yz", np.uint8))),
    ]
    conv = node("QLinearConv", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"])
    made = model([conv], weights, ["batch", 3, 10, 10], ["batch", 8, 8, 8], TensorProto.UINT8)
    assert macs(made).by_node == {"the/QLinearConv": 64 * 8 * 27}
    assert parameters(made) == 8 * 27
    found = quantization(made)
    assert (found.quantized, found.activation_dtypes, found.weight_dtypes, found.per_channel) == (
        1,
        ("uint8",),
        ("int8",),
        False,
    )


def test_agrees_with_torch(tmp_path: Path) -> None:
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 4, 2), nn.Flatten(),
        nn.Linear(4 * 14 * 14, 10),
    ).eval()  # fmt: skip
    x = torch.zeros(1, 3, 32, 32)
    with FlopCounterMode(display=False) as counter:
        module(x)
    path = tmp_path / "m.onnx"
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        module, (x.repeat(2, 1, 1, 1),), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, external_data=False
    )
    assert program is not None
    program.save(str(path))
    found = summary(path)
    assert found.macs.total * 2 == counter.get_total_flops()
    assert found.parameters == sum(parameter.numel() for parameter in module.parameters())
    assert found.operators["Conv"] == 2
    assert found.producer.startswith("pytorch")
    assert found.float_dtypes == {"float32": found.parameters}
    assert found.opset == onnx.load(str(path)).opset_import[0].version


def test_an_ir_gives_the_same_counts(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    from accel import ir_graph

    onnx.save(quantized(False), str(tmp_path / "q.onnx"))
    openvino.save_model(openvino.Core().read_model(str(tmp_path / "q.onnx")), tmp_path / "q.xml", compress_to_fp16=False)
    found = ir_graph.summary(tmp_path / "q.xml")
    assert found.macs.total == summary(tmp_path / "q.onnx").macs.total
    assert (found.quantization.weighted, found.quantization.quantized) == (2, 1)
    assert found.quantization.weight_dtypes == ("int8",)
    assert found.operators["Convolution"] == 1
