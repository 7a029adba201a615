"""The rules for ONNX Runtime and OpenVINO on a CPU, each held against what the runtime's own optimized graph does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from tests.accelerate.lint.cases import (
    FLOAT,
    KERNEL,
    KERNEL_INT8,
    KERNEL_SCALES,
    SCALE,
    case_id,
    model,
    node,
    pair,
    quantized_conv,
)

from accel import catalog
from accel.accelerate.lint import onnxruntime_fusion, tensorrt_file
from accel.accelerate.lint_cpu import ONNXRUNTIME, OPENVINO
from accel.contracts import ExecutedPrecision, Finding
from accel.errors import BackendFault
from accel.model import Target
from accel.onnx_file import read

U0, U128, S0, LOWEST = np.uint8(0), np.uint8(128), np.int8(0), np.int8(-128)
BOUNDS = {"low": np.float32(0), "high": np.float32(6)}
RULES = {"onnxruntime": ONNXRUNTIME, "openvino": OPENVINO}
ADDED = {"s2": np.float32(0.05), "zu": U0, "z_low": LOWEST, "z_s": S0, "s6": np.float32(6 / 255), "s_low": np.float32(0.02)}


def conv(*behind: Any, zero: Any = U0, more: dict[str, Any] | None = None, pads: bool = False, **settings: Any) -> Any:
    """A quantized convolution of ``x``, its result quantized at once unless something is ``behind`` it."""
    proto = quantized_conv(zero=zero, behind=behind or pair("c", "y", "s2", "zu"), **settings)
    for name, values in {**ADDED, **BOUNDS, **(more or {})}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    if pads:
        (operator,) = [each for each in proto.graph.node if each.name == "layer/op"]
        operator.attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
    return proto


def behind(operator: Any, zero: str = "zu", scale: str = "s2") -> tuple[Any, ...]:
    """``operator``, which makes ``r``, and a pair."""
    return (operator, *pair("r", "y", scale, zero))


def product(operator: str = "Gemm", *, zero: bool = True, bias: bool = False, axis: int = 1, quantized: bool = False) -> Any:
    """(2, 8) times (8, 6)."""
    weights = np.random.default_rng(0).integers(-127, 128, (8, 6)).astype(np.int8)
    tensors = {"s": SCALE, "z": U0, "w": weights, "w_s": np.full(weights.shape[axis], 0.01, np.float32)}
    nodes = pair("x", "x_d")
    if zero:
        tensors["w_z"] = np.zeros(weights.shape[axis], np.int8)
    if bias:
        tensors["b"] = np.ones(6, np.float32)
    nodes.append(node("DequantizeLinear", "w w_s w_z" if zero else "w w_s", "w_d", axis=axis))
    nodes.append(node(operator, "x_d w_d b" if bias else "x_d w_d", "c" if quantized else "y", name="layer/op"))
    return model([*nodes, *(pair("c", "y") if quantized else [])], tensors, x=(2, 8))


def transposed(zero: Any) -> Any:
    weights = np.random.default_rng(0).integers(-127, 128, (4, 6, 3, 3)).astype(np.int8)
    settings: dict[str, Any] = {"weights": weights, "weight_scales": np.full(6, 0.01, np.float32), "axis": 1}
    return conv(zero=zero, operator="ConvTranspose", **settings)


def sixteen() -> Any:
    proto = conv(zero=np.int16(0), more={"z16": np.int16(0)})
    proto.opset_import[0].version = 21
    return proto


def skip(*, quantized: bool) -> Any:
    other = pair("x", "k", "s2", "zu") if quantized else [node("Sin", "x", "k")]
    return conv(*pair("c", "a", "s2", "zu"), *other, *behind(node("Add", "a k", "r")), pads=True)


def opset(version: int) -> Any:
    proto = conv()
    proto.opset_import[0].version = version
    return proto


def weights_from_float(largest: float) -> Any:
    """Of a scale that holds 1.27."""
    weights = np.clip(KERNEL, -1, 1)
    weights[0, 0, 0, 0] = largest
    tensors = {"s": SCALE, "z": U0, "w": weights, "w_s": np.float32(0.01), "w_z": S0}
    return model([*pair("x", "x_d"), *pair("w", "w_d", "w_s", "w_z"), node("Conv", "x_d w_d", "y", name="layer/op")], tensors)


def narrowed(second: float, *between: Any) -> Any:
    """A pair that ends at 25.5, and another one behind it."""
    operators = between or (node("Reshape", "a shape", "r"),)
    tensors = {"s": SCALE, "z": U0, "s2": np.float32(second), "shape": np.array([1, -1])}
    return model([*pair("x", "a"), *operators, *pair("r", "y", "s2", "z")], tensors)


@dataclass(frozen=True)
class Case:
    """``bad`` breaks ``rule`` of ``target``, ``good`` follows its way out. ``effect``: what the runtime makes of ``bad`` and
    not of ``good``: the operator in ``float``, ``other`` numbers, a refusal (``fails``), or nothing that a graph shows."""

    rule: str
    target: str
    bad: Callable[[], Any]
    good: Callable[[], Any]
    effect: Literal["float", "other", "fails", ""] = "float"
    names: str = ""


def both(rule: str, bad: Callable[[], Any], good: Callable[[], Any], effect: Any = "", names: str = "") -> list[Case]:
    return [Case(rule, target, bad, good, effect, f"{target}-{names}") for target in RULES]


ORT = partial(Case, target="onnxruntime")
OV = partial(Case, target="openvino")
RELU, CLIP, POOL = node("Relu", "c", "r"), node("Clip", "c low high", "r"), node("MaxPool", "q", "r", kernel_shape=[2, 2])
CASES = [
    ORT("float-output", bad=lambda: conv(node("Identity", "c", "y")), good=conv, names="output"),
    ORT("float-output", bad=lambda: conv(*behind(RELU, "z_s")), good=lambda: conv(*behind(RELU, "z_low")), names="relu-signed"),
    ORT("float-output", bad=lambda: conv(*behind(RELU, "z_s")), good=lambda: conv(*behind(RELU)), names="relu"),
    ORT("float-output", bad=lambda: conv(*behind(CLIP)), good=lambda: conv(*behind(CLIP, scale="s6")), names="clip"),
    ORT(
        "float-output",
        bad=lambda: conv(node("MaxPool", "c", "q", kernel_shape=[2, 2]), *behind(node("Relu", "q", "r"))),
        good=lambda: conv(node("Relu", "c", "q"), *behind(POOL)),
        names="pool",
    ),
    ORT(
        "float-output",
        bad=lambda: conv(*behind(node("Flatten", "c", "r"))),
        good=lambda: conv(*behind(node("Transpose", "c", "r"))),
        names="moved",
    ),
    ORT(
        "float-output",
        bad=lambda: conv(*pair("c", "a", "s2", "zu"), node("Relu", "c", "b"), node("Add", "a b", "y")),
        good=lambda: conv(*pair("c", "a", "s2", "zu"), node("Relu", "a", "b"), node("Add", "a b", "y")),
        names="readers",
    ),
    ORT(
        "float-output",
        bad=lambda: conv(*pair("c", "a", "s2", "zu"), *pair("c", "b", "s6", "zu"), node("Add", "a b", "y")),
        good=lambda: conv(*pair("c", "a", "s2", "zu"), *pair("c", "b", "s2", "zu"), node("Add", "a b", "y")),
        names="two-ways",
    ),
    ORT("float-weights", bad=lambda: conv(quantized_weights=False), good=conv, effect=""),
    ORT("no-int8-kernel", bad=lambda: transposed(U0), good=conv, names="transposed"),
    ORT("no-int8-kernel", bad=sixteen, good=conv, names="wide"),
    ORT(
        "bias-scale",
        bad=lambda: conv(bias={"values": np.ones(4, np.int32), "scales": KERNEL_SCALES}),
        good=lambda: conv(bias={"values": np.ones(4, np.int32), "scales": KERNEL_SCALES * SCALE}),
    ),
    ORT("gemm-form", bad=lambda: product(zero=False), good=product, names="zero-point"),
    ORT("gemm-form", bad=lambda: product(bias=True), good=lambda: product(bias=True, quantized=True), names="bias"),
    ORT("product-axis", bad=lambda: product("MatMul", axis=0, quantized=True), good=lambda: product("MatMul", quantized=True)),
    ORT("product-axis", bad=lambda: product(axis=0), good=product, names="Gemm"),
    ORT("product-fails", bad=lambda: product("MatMul", axis=0), good=lambda: product("MatMul"), effect="fails"),
    ORT(
        "product-fails",
        bad=lambda: product("MatMul", axis=0, zero=False),
        good=lambda: product("MatMul", zero=False),
        effect="fails",
        names="no-zero-point",
    ),
    ORT(
        "weight-axis",
        bad=lambda: conv(axis=1, weight_scales=np.linspace(0.001, 0.02, 4, dtype=np.float32)),
        good=lambda: conv(weight_scales=np.linspace(0.001, 0.02, 4, dtype=np.float32)),
        effect="other",
    ),
    ORT(
        "per-channel-activation",
        bad=lambda: conv(zero=np.zeros(4, np.uint8), scale=np.full(4, 0.1, np.float32)),
        good=conv,
        effect="fails",
    ),
    ORT("signed-activation", bad=lambda: conv(*behind(RELU, "z_s")), good=lambda: conv(*behind(RELU, "z_low"))),
    ORT("residual-float", bad=lambda: skip(quantized=False), good=lambda: skip(quantized=True), effect=""),
    OV("residual-float", bad=lambda: skip(quantized=False), good=lambda: skip(quantized=True), effect=""),
    OV(
        "weight-zero-point",
        bad=lambda: conv(weight_zero=np.full(4, 3, np.int8)),
        good=lambda: conv(weight_zero=np.zeros(4, np.int8)),
    ),
    OV("weight-axis", bad=lambda: conv(axis=1), good=conv),
    OV("no-int8-kernel", bad=lambda: transposed(U128), good=lambda: transposed(U0), names="transposed"),
    OV("no-int8-kernel", bad=sixteen, good=conv, names="wide"),
    OV("data-only", bad=lambda: conv(quantized_weights=False), good=conv),
    *both("weights-only", lambda: conv(data=False), conv, "float"),
    *both("zero-point-length", lambda: conv(weight_zero=np.zeros(3, np.int8)), conv, "fails"),
    *both("scale-shape", lambda: conv(weight_scales=np.full(3, 0.01, np.float32)), conv, "fails"),
    *both("scale-value", lambda: conv(scale=np.float32(0)), conv, ""),
    *both("qdq-opset", lambda: opset(12), lambda: opset(13), "fails"),
    *both("dangling", lambda: conv(*pair("c", "y", "s2", "zu"), node("QuantizeLinear", "c s2 zu", "dead")), conv),
    *both("range-clips", lambda: narrowed(0.05), lambda: narrowed(0.1), names="again"),
    *both("range-clips", lambda: weights_from_float(5.0), lambda: weights_from_float(1.0), names="floats"),
    *both("range-clips", lambda: conv(weights=np.sign(KERNEL_INT8) * np.int8(127)), conv, names="integers"),
    *both(
        "scale-mismatch",
        lambda: conv(node("QuantizeLinear", "c s2 zu", "q"), node("DequantizeLinear", "q s6 zu", "y")),
        conv,
    ),
    *both("duplicate-pair", lambda: conv(*pair("c", "a", "s2", "zu"), *pair("a", "y", "s2", "zu")), conv),
    *both("quantize-alone", lambda: between(node("Abs", "q", "r")), lambda: between(POOL)),
    *both("dequantize-alone", lambda: given(quantize=False), lambda: given(quantize=True)),
    *both("computed-weights", lambda: computed(given=True), lambda: computed(given=False)),
]  # fmt: skip


def between(operator: Any) -> Any:
    tensors = {"s": SCALE, "z": S0}
    return model([node("QuantizeLinear", "x s z", "q"), operator, node("DequantizeLinear", "r s z", "y")], tensors)


def given(*, quantize: bool) -> Any:
    first = [node("QuantizeLinear", "x s z", "q")] if quantize else []
    nodes = [*first, node("DequantizeLinear", "q s z" if quantize else "x s z", "d"), node("Sin", "d", "y")]
    return model(nodes, {"s": SCALE, "z": S0}, kinds=(FLOAT if quantize else onnx.TensorProto.INT8, FLOAT))


def computed(*, given: bool) -> Any:
    tensors = {"s": SCALE, "z": U0, "w_s": np.float32(0.03), "w_z": S0} | ({} if given else {"w": KERNEL})
    nodes = [*pair("x", "x_d"), *pair("w", "w_d", "w_s", "w_z"), node("Conv", "x_d w_d", "y")]
    inputs = [onnx.helper.make_tensor_value_info("x", FLOAT, [1, 4, 8, 8])]
    if given:
        inputs.append(onnx.helper.make_tensor_value_info("w", FLOAT, KERNEL.shape))
    return model(nodes, tensors, inputs=inputs)


def found(proto: Any, target: str, folder: Path) -> list[Finding]:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    findings: list[Finding] = catalog.load(catalog.LINTS[target])(path)
    return findings


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_a_rule_fires_where_it_should_and_not_where_its_way_out_was_taken(case: Case, tmp_path: Path) -> None:
    of_rule = [finding for finding in found(case.bad(), case.target, tmp_path) if finding.rule == case.rule]
    declared = {rule.name: rule.severity for rule in RULES[case.target]}
    assert of_rule, f"{case.rule} does not fire"
    for finding in of_rule:
        assert finding.severity == declared[case.rule]
        assert finding.message and finding.way_out and len(finding.message) < 300
    assert case.rule not in {finding.rule for finding in found(case.good(), case.target, tmp_path)}
    if case.effect in ("fails", "other"):
        assert declared[case.rule] == "error"


@pytest.mark.parametrize("target", RULES)
def test_every_rule_has_a_case(target: str) -> None:
    names = {rule.name for rule in RULES[target]} - {rule.name for rule in tensorrt_file.WHOLE}
    assert names == {case.rule for case in CASES if case.target == target}


def executed(proto: Any, target: str, folder: Path) -> tuple[ExecutedPrecision, Any]:
    """What the runtime's own graph runs, and the outputs for seeded noise."""
    pytest.importorskip(target)
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    value = read(path)
    inputs = {spec.name: noise(spec.shape) for spec in value.signature.inputs}
    with catalog.backend(target).compile(value, Target("t", target), folder) as runner:
        return runner.executed_precision(), runner(inputs)


def noise(shape: Any) -> Any:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


SHOWN = [case for case in CASES if case.effect]


@pytest.mark.parametrize("case", SHOWN, ids=case_id)
def test_the_runtime_does_what_the_rule_says(case: Case, tmp_path: Path) -> None:
    right, _ = executed(case.good(), case.target, tmp_path)
    assert right.int8_operators == right.quantized_operators == 1
    if case.effect == "fails":
        with pytest.raises(BackendFault):
            executed(case.bad(), case.target, tmp_path)
        return
    wrong, outputs = executed(case.bad(), case.target, tmp_path)
    if case.effect == "float":
        assert wrong.int8_operators == 0
    else:
        path = tmp_path / "m.onnx"
        target = Target("t", case.target, options={"graph_optimization_level": "disable"})
        with catalog.backend(case.target).compile(read(path), target, tmp_path) as runner:
            meant = runner({"x": noise((1, 4, 8, 8))})[0]
        assert np.abs(outputs[0] - meant).max() > 0.1 * np.abs(meant).max()


EXTRA: dict[str, tuple[str, dict[str, Any]]] = {
    "LayerNormalization": ("a w8", {}), "InstanceNormalization": ("a w4 w4", {}), "PRelu": ("a w8", {}),
    "Clip": ("a low high", {}), "Pad": ("a pads", {}), "ReduceMean": ("a axes", {}), "LRN": ("a", {"size": 3}),
    "Sub": ("a b", {}), "Div": ("a b", {}), "Max": ("a b", {}), "Add": ("a b", {}), "Mul": ("a b", {}),
}  # fmt: skip


def around(operator: str) -> Any:
    inputs, attributes = EXTRA.get(operator, ("a", {}))
    tensors = {
        "s": SCALE, "z": U128, "w8": np.ones(8, np.float32), "w4": np.ones(4, np.float32), "axes": np.array([2]), **BOUNDS,
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }  # fmt: skip
    second = [node("Sin", "x", "t"), *pair("t", "b")] if inputs == "a b" else []
    return model([*pair("x", "a"), *second, node(operator, inputs, "r", **attributes), *pair("r", "y")], tensors, opset=22)


@pytest.mark.parametrize("operator", sorted(onnxruntime_fusion.NO_KERNEL))
def test_operators_without_an_int8_kernel_stay_between_conversions(operator: str, tmp_path: Path) -> None:
    assert "no-int8-kernel" in {finding.rule for finding in found(around(operator), "onnxruntime", tmp_path)}
    ran, _ = executed(around(operator), "onnxruntime", tmp_path)
    # The one that stays behind the operator, and the one for the model's output.
    assert ran.operators["DequantizeLinear"] >= 2


@pytest.mark.parametrize("operator", ["Sigmoid", "LeakyRelu", "Softmax", "GlobalAveragePool", "Add", "Mul"])
def test_operators_with_an_int8_kernel_are_not_named(operator: str, tmp_path: Path) -> None:
    assert found(around(operator), "onnxruntime", tmp_path) == []
    ran, _ = executed(around(operator), "onnxruntime", tmp_path)
    assert ran.operators["DequantizeLinear"] == 1


def test_findings_name_the_operator_as_the_file_does(tmp_path: Path) -> None:
    for case in CASES:
        if case.rule in ("float-output", "bias-scale", "gemm-form", "weight-zero-point"):
            nodes = {finding.node for finding in found(case.bad(), case.target, tmp_path) if finding.rule == case.rule}
            assert nodes == {"layer/op"}, case


def test_weights_in_float_between_pairs_are_quantized_all_the_same(tmp_path: Path) -> None:
    ran, outputs = executed(conv(quantized_weights=False, weights=KERNEL), "onnxruntime", tmp_path)
    assert ran.operators["QLinearConv"] == 1 and ran.quantized_operators == 0
    target = Target("t", "onnxruntime", options={"graph_optimization_level": "disable"})
    with catalog.backend("onnxruntime").compile(read(tmp_path / "m.onnx"), target, tmp_path) as runner:
        assert np.abs(runner({"x": noise((1, 4, 8, 8))})[0] - outputs[0]).max() > 0


def test_pooling_may_raise_the_least_value(tmp_path: Path) -> None:
    shifted = {"s": SCALE, "z": U128, "s2": SCALE, "z2": U0}
    nodes = [*pair("x", "a"), node("MaxPool", "a", "r", kernel_shape=[2, 2]), *pair("r", "y", "s2", "z2")]
    assert "range-clips" not in {finding.rule for finding in found(model(nodes, shifted), "onnxruntime", tmp_path)}
