"""Multiply-adds and bytes of small graphs, against what can be counted by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.onnx_traffic import Amount, Traffic, traffic


def graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    *,
    shape: Sequence[int | str] = (1, 8, 6, 6),
    outputs: Sequence[str] = ("y",),
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)


def weight(*shape: int) -> Any:
    return np.ones(shape, np.float32)


def test_an_activation_runs_in_the_kernel_before_it_and_moves_nothing_more() -> None:
    found = traffic(
        graph(
            [node("Conv", ["x", "w", "b"], "c", pads=[1, 1, 1, 1]), node("Relu", ["c"], "y")],
            {"w": weight(4, 8, 3, 3), "b": weight(4)},
        )
    )
    (kernel,) = found.kernels
    assert kernel.nodes == ["c/Conv", "y/Relu"]
    assert kernel.macs == found.macs == 6 * 6 * 4 * 8 * 9
    assert kernel.weights == Amount(floats=4 * 8 * 9 + 4)
    assert kernel.activations == Amount(floats=8 * 36 + 4 * 36)
    assert not found.uncounted


def test_a_residual_is_read_by_the_kernel_that_adds_it() -> None:
    found = traffic(
        graph(
            [
                node("Conv", ["x", "w"], "a", pads=[1, 1, 1, 1]),
                node("Relu", ["a"], "r"),
                node("Conv", ["r", "w"], "b", pads=[1, 1, 1, 1]),
                node("Add", ["x", "b"], "s"),
                node("Relu", ["s"], "y"),
            ],
            {"w": weight(8, 8, 3, 3)},
        )
    )
    first, second = found.kernels
    image = 8 * 36
    assert first.activations.floats == 2 * image
    assert second.nodes == ["b/Conv", "s/Add", "y/Relu"]
    assert second.activations.floats == 3 * image
    assert first.weights == second.weights


def test_what_two_kernels_read_is_written_once() -> None:
    found = traffic(
        graph(
            [node("Conv", ["x", "w"], "a"), node("Conv", ["a", "w"], "y"), node("Conv", ["a", "w"], "z")],
            {"w": weight(8, 8, 1, 1)},
            outputs=("y", "z"),
        )
    )
    assert [kernel.activations.floats for kernel in found.kernels] == [2 * 288] * 3


def quantized(source: str, name: str) -> list[onnx.NodeProto]:
    return [
        node("QuantizeLinear", [source, "s", "z"], f"{name}_q"),
        node("DequantizeLinear", [f"{name}_q", "s", "z"], f"{name}_d"),
    ]


QDQ = {
    "s": np.float32(0.1),
    "z": np.uint8(0),
    "w8": np.ones((8, 8, 3, 3), np.int8),
    "ws": np.full(8, 0.1, np.float32),
    "wz": np.zeros(8, np.int8),
}


def test_between_quantize_and_dequantize_a_number_is_a_byte() -> None:
    found = traffic(
        graph(
            [
                *quantized("x", "x"),
                node("DequantizeLinear", ["w8", "ws", "wz"], "w", axis=0),
                node("Conv", ["x_d", "w"], "a", pads=[1, 1, 1, 1]),
                node("Relu", ["a"], "r"),
                *quantized("r", "r"),
                node("Conv", ["r_d", "w"], "y", pads=[1, 1, 1, 1]),
            ],
            QDQ,
        )
    )
    enters, first, last = found.kernels
    image = 8 * 36
    assert (enters.macs, enters.activations) == (0, Amount(floats=image, quantized=image))
    assert first.nodes == ["a/Conv", "r/Relu", "r_q/QuantizeLinear"]
    assert (first.quantized, last.quantized) == (True, True)
    assert first.activations == Amount(quantized=2 * image)
    assert last.activations == Amount(quantized=image, floats=image)
    assert last.weights.quantized == 8 * 8 * 9
    assert first.activations.bytes(float_bytes=4, quantized_bytes=1) == 2 * image
    assert first.activations.bytes(float_bytes=4, quantized_bytes=4) == 8 * image  # where INT8 did not run


def test_weights_alone_in_eight_bits_are_read_so_and_multiplied_in_float() -> None:
    nodes = [node("DequantizeLinear", ["w8", "ws", "wz"], "w", axis=0), node("Conv", ["x", "w"], "y", pads=[1, 1, 1, 1])]
    (kernel,) = traffic(graph(nodes, QDQ)).kernels
    assert not kernel.quantized
    assert kernel.weights == Amount(fixed_bytes=8 * 8 * 9)


@pytest.mark.parametrize(
    ("view", "floats"),
    [
        (node("Reshape", ["c", "flat"], "v"), 288),
        (node("Transpose", ["c"], "v", perm=[0, 2, 3, 1]), 288),
        (node("Slice", ["c", "zero", "one", "axes"], "v"), 36),
    ],
)
def test_a_view_costs_nothing_and_is_read_as_far_as_it_goes(view: onnx.NodeProto, floats: int) -> None:
    constants = {"w": weight(8, 8, 1, 1), "flat": np.array([1, -1]), "zero": np.array([0]), "one": np.array([1])}
    nodes = [node("Conv", ["x", "w"], "c"), view, node("Softmax", ["v"], "y")]
    conv, softmax = traffic(graph(nodes, constants | {"axes": np.array([1])})).kernels
    assert conv.activations.floats == 288 + 288
    assert softmax.activations.floats == 2 * floats


def test_what_is_joined_is_written_in_place() -> None:
    nodes = [
        node("Conv", ["x", "w"], "a"),
        node("Conv", ["x", "w"], "b"),
        node("Concat", ["a", "b"], "c", axis=1),
        node("GlobalAveragePool", ["c"], "y"),
    ]
    found = traffic(graph(nodes, {"w": weight(8, 8, 1, 1)}))
    assert [kernel.operator for kernel in found.kernels] == ["Conv", "Conv", "GlobalAveragePool"]
    assert [kernel.activations.floats for kernel in found.kernels] == [576, 576, 2 * 288 + 16]


def test_what_follows_from_constants_is_computed_before() -> None:
    nodes = [
        node("Mul", ["w", "w"], "w2"),
        node("Shape", ["x"], "shape"),
        node("Conv", ["x", "w2"], "c"),
        node("Reshape", ["c", "shape"], "y"),
    ]
    (kernel,) = traffic(graph(nodes, {"w": weight(8, 8, 1, 1)})).kernels
    assert kernel.operator == "Conv"
    assert kernel.weights == Amount(floats=64)


def test_a_lookup_reads_its_rows_only() -> None:
    nodes = [node("Gather", ["table", "ids"], "rows"), node("MatMul", ["rows", "w"], "y")]
    model = graph(nodes, {"table": weight(1000, 8), "w": weight(8, 4)}, shape=(2, 3))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("ids", TensorProto.INT64, [2, 3]))
    gather, matmul = traffic(model).kernels
    assert gather.weights == Amount(floats=2 * 3 * 8)
    assert gather.activations == Amount(floats=2 * 3 * 8, fixed_bytes=6 * 8)
    assert matmul.macs == 2 * 3 * 8 * 4


def test_axes_that_vary_take_the_sizes_given() -> None:
    model = graph([node("Conv", ["x", "w"], "y")], {"w": weight(8, 8, 1, 1)}, shape=("batch", 8, "height", 6))
    (kernel,) = traffic(model, {"batch": 3, "height": 5}).kernels
    assert kernel.macs == 3 * 5 * 6 * 64
    assert kernel.activations.floats == 2 * 3 * 8 * 5 * 6


def test_what_cannot_be_counted_is_named() -> None:
    model = graph([node("Conv", ["x", "w"], "y")], {"w": weight(8, 8, 1, 1)}, shape=(1, 8, "height", "width"))
    assert traffic(model).uncounted == ("Conv",)
    lstm = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="l", hidden_size=4)
    found: Traffic = traffic(graph([lstm], {"w": weight(1, 16, 8), "r": weight(1, 16, 4)}, shape=(5, 1, 8)))
    assert found.uncounted == ("LSTM",)
    assert found.macs == 0
