"""The rules about where Q/DQ pairs stand: TensorRT takes these files, and runs them worse than it could."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.accelerate.lint.cases import (
    FLOAT,
    HALF,
    KERNEL,
    KERNEL_INT8,
    KERNEL_SCALES,
    SCALE,
    ZERO,
    Case,
    case_id,
    check,
    found,
    model,
    node,
    pair,
    parsed,
    quantized_conv,
)

SCALES = {"s": SCALE, "z": ZERO}
WIDE = np.ones((4, 6, 3, 3), np.int8)
MATRIX = np.ones((8, 6), np.int8)


def behind_conv(*nodes: Any) -> Any:
    return quantized_conv(behind=nodes)


def matrix(axis: int, operator: str = "MatMul", *, transposed: bool = False, data: bool = True) -> Any:
    weights = np.ascontiguousarray(MATRIX.T) if transposed else MATRIX
    scales = np.full(weights.shape[axis], 0.01, np.float32)
    return quantized_conv(operator=operator, weights=weights, weight_scales=scales, axis=axis, x=(2, 8), data=data)


def gemm(axis: int) -> Any:
    """With its weights transposed: output channels are axis 0."""
    proto = matrix(axis, "Gemm", transposed=True)
    proto.graph.node[-1].attribute.append(helper.make_attribute("transB", 1))
    return proto


def transposed_matrix(axis: int) -> Any:
    """A Transpose between the DequantizeLinear and the MatMul: axis 0 of the weights is the last one behind it."""
    proto = matrix(axis, transposed=True)
    proto.graph.node.insert(len(proto.graph.node) - 1, node("Transpose", "w_d", "w_t"))
    proto.graph.node[-1].input[1] = "w_t"
    return proto


def transposed_conv(axis: int) -> Any:
    scales = np.full(WIDE.shape[axis], 0.01, np.float32)
    return quantized_conv(operator="ConvTranspose", weights=WIDE, weight_scales=scales, axis=axis)


def conv_with_weights_from(*first: Any, given: bool) -> Any:
    weights = {**SCALES, "w_s": KERNEL_SCALES, "w_z": np.zeros(4, np.int8)} | ({} if given else {"w": KERNEL})
    nodes = [*pair("x", "x_d"), *pair("w", "w_d", "w_s", "w_z", axis=0), node("Conv", "x_d w_d", "y")]
    inputs = [helper.make_tensor_value_info("x", FLOAT, [1, 4, 8, 8])]
    if given:
        inputs.append(helper.make_tensor_value_info("w", FLOAT, KERNEL.shape))
    return model([*first, *nodes], weights, inputs=inputs)


def quantized_ends(*, whole: bool) -> Any:
    last = [node("DequantizeLinear", "q s z", "y")] if whole else []
    nodes = [node("QuantizeLinear", "x s z", "q" if whole else "y"), *last]
    return model(nodes, SCALES, kinds=(FLOAT, FLOAT if whole else TensorProto.INT8))


def between(*operators: Any) -> Any:
    nodes = [node("QuantizeLinear", "x s z", "q"), *operators, node("DequantizeLinear", "r s z", "y")]
    return model(nodes, SCALES)


def given_integers(*, quantize: bool) -> Any:
    first = [node("QuantizeLinear", "x s z", "q")] if quantize else []
    nodes = [*first, node("DequantizeLinear", "q s z" if quantize else "x s z", "d"), node("Relu", "d", "y")]
    return model(nodes, SCALES, kinds=(FLOAT if quantize else TensorProto.INT8, FLOAT))


def two_scales(second: float) -> Any:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q t z", "d"), node("Relu", "d", "y")]
    return model(nodes, {**SCALES, "t": np.float32(second)})


def scale_of(kind: Any, **attributes: Any) -> Any:
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "d", **attributes), node("Relu", "d", "y")]
    return model(nodes, {"s": kind(0.1), "z": ZERO}, kinds=(HALF, HALF), opset=23)


def residual(*, quantized: bool, norm: bool = False) -> Any:
    skip = pair("x", "skip") if quantized else [node("Relu", "x", "skip")]
    bn = [node("BatchNormalization", "c n n n n", "b")] if norm else []
    proto = behind_conv(*bn, *skip, node("Add", f"{'b' if norm else 'c'} skip", "y"))
    (conv,) = [each for each in proto.graph.node if each.op_type == "Conv"]
    conv.attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    if norm:
        proto.graph.initializer.append(helper.make_tensor("n", FLOAT, [4], [1.0] * 4))
    return proto


CASES = [
    Case("per-channel-activation", lambda: quantized_conv(scale=KERNEL_SCALES, zero=np.zeros(4, np.int8)), quantized_conv),
    Case("weight-axis", lambda: quantized_conv(axis=1), quantized_conv, names="Conv"),
    Case("weight-axis", lambda: transposed_conv(0), lambda: transposed_conv(1), names="ConvTranspose"),
    Case("weight-axis", lambda: matrix(0), lambda: matrix(1), names="MatMul"),
    Case("weight-axis", lambda: matrix(0, "Gemm"), lambda: matrix(1, "Gemm"), names="Gemm"),
    Case("weight-axis", lambda: gemm(1), lambda: gemm(0), names="Gemm-transB"),
    Case("weight-axis", lambda: transposed_matrix(1), lambda: transposed_matrix(0), names="Transpose"),
    Case("computed-weights", lambda: conv_with_weights_from(given=True), lambda: conv_with_weights_from(given=False)),
    Case("data-only", lambda: quantized_conv(quantized_weights=False), quantized_conv),
    Case("weights-only", lambda: quantized_conv(data=False), quantized_conv),
    Case("weights-only-product", lambda: matrix(1, data=False), lambda: matrix(1), rtx=False),
    Case("quantize-alone", lambda: quantized_ends(whole=False), lambda: quantized_ends(whole=True), names="output"),
    Case(
        "quantize-alone",
        lambda: between(node("Relu", "q", "r")),
        lambda: between(node("MaxPool", "q", "r", kernel_shape=[2, 2])),
        names="operator",
    ),
    Case("dequantize-alone", lambda: given_integers(quantize=False), lambda: given_integers(quantize=True)),
    Case("scale-mismatch", lambda: two_scales(0.2), lambda: two_scales(0.1)),
    Case("scale-type", lambda: scale_of(np.float32), lambda: scale_of(np.float16)),
    Case(
        "duplicate-pair",
        lambda: model([*pair("x", "a"), *pair("a", "b"), node("Relu", "b", "y")], SCALES),
        lambda: model([*pair("x", "a"), node("Relu", "a", "y")], SCALES),
    ),
    Case("residual-float", lambda: residual(quantized=False), lambda: residual(quantized=True)),
    Case(
        "residual-float",
        lambda: residual(quantized=False, norm=True),
        lambda: residual(quantized=True, norm=True),
        names="norm",
    ),
    Case(
        "pair-in-fusion",
        lambda: behind_conv(*pair("c", "d"), node("Relu", "d", "y")),
        lambda: behind_conv(node("Relu", "c", "r"), *pair("r", "y")),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_rule_fires_where_it_should_and_not_where_its_way_out_was_taken(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_real_parser_takes_both_files(case: Case) -> None:
    """So that a warning is right: an error would be a lie. (All of them were built once, too.)"""
    assert parsed(case.bad())[0] is not None and parsed(case.good())[0] is not None


def test_scales_of_another_type_are_fine_where_the_dequantizer_says_what_it_makes(tmp_path: Path) -> None:
    assert not found(scale_of(np.float32, output_dtype=HALF), tmp_path)


def test_a_pair_of_two_scales_rounds_twice_and_one_of_the_same_does_nothing(tmp_path: Path) -> None:
    proto = model([*pair("x", "a"), *pair("a", "b", "t"), node("Relu", "b", "y")], {**SCALES, "t": np.float32(0.3)})
    (finding,) = found(proto, tmp_path)
    assert finding.rule == "duplicate-pair" and "rounds a second time" in finding.message


def test_int8_on_rtx_is_a_warning_of_rtx_alone(tmp_path: Path) -> None:
    assert [(finding.rule, finding.node) for finding in found(quantized_conv(), tmp_path)] == [("int8-on-rtx", "layer/op")]
    assert found(quantized_conv(), tmp_path, rtx=False) == []
    assert found(quantized_conv(data=False, quantized_weights=False), tmp_path) == []


def test_two_activations_may_be_multiplied_in_int8(tmp_path: Path) -> None:
    nodes = [*pair("x", "a"), node("Transpose", "x", "t", perm=[0, 1, 3, 2]), *pair("t", "b"), node("MatMul", "a b", "y")]
    assert found(model(nodes, SCALES), tmp_path, rtx=False) == []


def test_weights_stored_in_float_before_a_pair_are_quantized_weights(tmp_path: Path) -> None:
    """As NNCF for torch and most training code write them: the builder folds the pair."""
    assert found(conv_with_weights_from(given=False), tmp_path, rtx=False) == []


def test_data_may_be_moved_between_its_pair_and_the_operator(tmp_path: Path) -> None:
    weights = {**SCALES, "w": KERNEL_INT8.reshape(36, 4), "w_s": KERNEL_SCALES, "shape": np.array([4, 36])}
    nodes = [
        *pair("x", "a"),
        node("Reshape", "a shape", "r"),
        node("DequantizeLinear", "w w_s", "w_d", axis=1),
        node("MatMul", "r w_d", "y"),
    ]
    assert found(model(nodes, weights, x=(1, 4, 6, 6)), tmp_path, rtx=False) == []
