"""The rules about QuantizeLinear and DequantizeLinear, each on a minimal file and against the real parser."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.accelerate.lint.cases import (
    FLOAT,
    HALF,
    KERNEL_INT8,
    SCALE,
    ZERO,
    Case,
    case_id,
    check,
    found,
    hold_against_library,
    model,
    node,
    pair,
    parsed,
    quantized_conv,
)


def one_pair(scale: Any = SCALE, zero: Any = ZERO, kinds: tuple[int, int] = (FLOAT, FLOAT), **attributes: Any) -> Any:
    return model([*pair("x", "d", **attributes), node("Relu", "d", "y")], {"s": scale, "z": zero}, kinds=kinds)


def blocked(scales: Any, block: int) -> Any:
    dequantize = node("DequantizeLinear", "w w_s", "w_d", axis=0, block_size=block)
    weights = {"w": np.ones((8, 6), np.int8), "w_s": scales}
    return model([dequantize, node("MatMul", "x w_d", "y")], weights, x=(2, 8), opset=21)


def product(zero: int) -> Any:
    """With weights of INT4, to which the rule about zero points applies too."""
    weights = {
        "w": helper.make_tensor("w", TensorProto.INT4, [8, 6], [1] * 48),
        "s": SCALE,
        "z": helper.make_tensor("z", TensorProto.INT4, [], [zero]),
    }
    return model([node("DequantizeLinear", "w s z", "d"), node("MatMul", "x d", "y")], weights, x=(2, 8), opset=21)


def unsigned_input() -> Any:
    read = node("DequantizeLinear", "x s z", "d")
    return model([read, node("Relu", "d", "y")], {"s": SCALE, "z": np.uint8(0)}, kinds=(TensorProto.UINT8, FLOAT))


def cast_input() -> Any:
    nodes = [node("Cast", "x", "f", to=FLOAT), node("Mul", "f s", "d"), node("Relu", "d", "y")]
    return model(nodes, {"s": SCALE}, kinds=(TensorProto.UINT8, FLOAT))


def quantized_int32(*, cast: bool) -> Any:
    first = [node("Cast", "x", "f", to=FLOAT)] if cast else []
    return model([*first, *pair("f" if cast else "x", "y")], {"s": SCALE, "z": ZERO}, kinds=(TensorProto.INT32, FLOAT))


BIAS = {"values": np.ones(4, np.int32), "scales": np.full(4, 0.001, np.float32)}
UNSIGNED = (KERNEL_INT8.astype(np.int16) + 128).astype(np.uint8)
EMPTY_CHANNEL = np.array([0.01, 0.0, 0.01, 0.01], np.float32)
ERRORS = [
    Case("unsigned-data", lambda: quantized_conv(weights=UNSIGNED), quantized_conv, "parser", "weights"),
    Case("unsigned-data", unsigned_input, cast_input, "parser", "input"),
    Case("zero-point", lambda: quantized_conv(zero=np.uint8(128)), quantized_conv, "parser", "unsigned"),
    Case("zero-point", lambda: quantized_conv(zero=np.int8(3)), quantized_conv, "parser", "signed"),
    Case("zero-point", lambda: quantized_conv(weight_zero=np.full(4, 2, np.int8)), quantized_conv, "parser", "weights"),
    Case("zero-point", lambda: product(2), lambda: product(0), "parser", "int4"),
    Case("zero-point-length", lambda: quantized_conv(weight_zero=np.int8(0)), quantized_conv, "parser"),
    *(
        Case("scale-value", partial(quantized_conv, scale=np.float32(wrong)), quantized_conv, "parser", str(wrong))
        for wrong in (0.0, -0.1, np.nan)
    ),
    Case("scale-value", lambda: quantized_conv(weight_scales=EMPTY_CHANNEL), quantized_conv, "parser", "weights"),
    Case("scale-value", lambda: one_pair(np.float16(1e-9), kinds=(HALF, HALF)), one_pair, "parser", "underflow"),
    Case("scale-shape", lambda: quantized_conv(weight_scales=np.full(3, 0.1, np.float32)), quantized_conv, "parser", "count"),
    Case("scale-shape", lambda: quantized_conv(axis=7), quantized_conv, "parser", "axis"),
    Case(
        "scale-shape",
        lambda: blocked(np.full((3, 6), 0.1, np.float32), 3),
        lambda: blocked(np.full((2, 6), 0.1, np.float32), 4),
        "parser",
        "blocks",
    ),
    Case(
        "int32-bias",
        lambda: quantized_conv(bias=BIAS),
        lambda: quantized_conv(bias={"values": np.ones(4, np.float32)}),
        "parser",
    ),
    Case("quantized-integers", lambda: quantized_int32(cast=False), lambda: quantized_int32(cast=True), "parser"),
]
OTHERS = [
    Case("unsigned-activation", lambda: quantized_conv(zero=np.uint8(0)), quantized_conv),
    Case("scale-range", lambda: one_pair(np.float32(1e-40)), one_pair, names="denormal"),
    Case("scale-range", lambda: one_pair(np.float32(np.inf)), one_pair, names="infinite"),
    Case(
        "scale-range",
        lambda: one_pair(np.float16(6e-6), kinds=(HALF, HALF)),
        lambda: one_pair(np.float16(6e-4), kinds=(HALF, HALF)),
        names="half",
    ),
]


@pytest.mark.parametrize("case", [*ERRORS, *OTHERS], ids=case_id)
def test_a_rule_fires_where_it_should_and_not_where_its_way_out_was_taken(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("case", ERRORS, ids=case_id)
def test_the_real_parser_refuses_what_is_called_an_error(case: Case) -> None:
    hold_against_library(case)


def test_the_real_parser_reads_unsigned_activations_as_signed() -> None:
    """Why ``unsigned-activation`` is an error although the file is taken: it gives other results."""
    made, said = parsed(quantized_conv(zero=np.uint8(0)))
    assert made is not None and any("Defaulting to INT8" in line for line in said)
    network = made[0]
    types = {str(network.get_layer(index).get_output_type(0)) for index in range(network.num_layers)}
    assert "DataType.INT8" in types and "DataType.UINT8" not in types


def test_a_quantizer_without_a_zero_point_is_unsigned_unless_it_says_otherwise(tmp_path: Path) -> None:
    nodes = [node("QuantizeLinear", "x s", "q"), node("DequantizeLinear", "q s", "d"), node("Relu", "d", "y")]
    (finding,) = found(model(nodes, {"s": SCALE}), tmp_path)
    assert (finding.rule, finding.node) == ("unsigned-activation", "q/QuantizeLinear")
    assert "the default without a zero point" in finding.message
    nodes[0] = node("QuantizeLinear", "x s", "q", output_dtype=TensorProto.INT8)
    assert not found(model(nodes, {"s": SCALE}, opset=21), tmp_path)


def test_weights_of_zero_and_pairs_in_a_branch_are_looked_at_too(tmp_path: Path) -> None:
    inner = helper.make_graph(pair("x", "t", zero="z3"), "then", [], [helper.make_tensor_value_info("t", FLOAT, None)])
    other = helper.make_graph([node("Relu", "x", "e")], "else", [], [helper.make_tensor_value_info("e", FLOAT, None)])
    branch = helper.make_node("If", ["c"], ["y"], name="choose", then_branch=inner, else_branch=other)
    inputs = [helper.make_tensor_value_info("x", FLOAT, [2]), helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    proto = model([branch], {"s": SCALE, "z3": np.int8(3)}, inputs=inputs)
    assert [(finding.rule, finding.node) for finding in found(proto, tmp_path)] == [("zero-point", "t_q/QuantizeLinear")]
