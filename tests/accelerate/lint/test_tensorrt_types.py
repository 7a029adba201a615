"""The rules about element types, each on a minimal file and against the real parser."""

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
    INT64,
    KERNEL,
    SCALE,
    Case,
    builds,
    case_id,
    check,
    found,
    hold_against_library,
    model,
    node,
    parsed,
    value,
)

from accel.accelerate.lint.tensorrt_types import _NO_INTEGERS, _SAME_FLOAT, _TYPES

UINT8 = TensorProto.UINT8
ONE = np.ones((1, 4, 8, 8), np.float32)
MATRIX = np.ones((8, 8), np.float32)
BEYOND = {
    name: kind
    for name, kind in TensorProto.DataType.items()
    if name not in _TYPES and name not in ("UNDEFINED", "FLOAT8E4M3FNUZ", "FLOAT8E5M2FNUZ", "INT2", "UINT2")
}


def through(kind: int, operator: str = "Identity", **attributes: Any) -> Any:
    return model([node(operator, "x", "y", **attributes)], kinds=(kind, kind))


def cast_from(kind: int) -> Any:
    return model([node("Cast", "x", "y", to=FLOAT)], kinds=(kind, FLOAT))


def uint8_inside(kind: int) -> Any:
    return model([node("Cast", "x", "c", to=kind), node("Cast", "c", "y", to=FLOAT)])


def uint8_read(*first: Any, name: str) -> Any:
    return model([*first, node("Transpose", name, "t"), node("Cast", "t", "y", to=FLOAT)], kinds=(UINT8, FLOAT))


def adding(constant: Any, kind: int = HALF) -> Any:
    return model([node("Add", "x c", "y")], {"c": constant}, kinds=(kind, kind))


def scaled(*, sparse: bool) -> Any:
    proto = model([node("Mul", "x c", "y")], {} if sparse else {"c": np.ones(8, np.float32)})
    if sparse:
        entry = proto.graph.sparse_initializer.add(dims=[8])
        entry.values.CopyFrom(helper.make_tensor("c", FLOAT, [1], [2.0]))
        entry.indices.CopyFrom(helper.make_tensor("i", INT64, [1], [3]))
    return proto


def axes(count: int) -> Any:
    return through(FLOAT, "Relu") if count == 4 else model([node("Relu", "x", "y")], x=(1,) * count)


def fp8(opset: int) -> Any:
    zero = helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, [], [0.0])
    nodes = [node("QuantizeLinear", "x s z", "q"), node("DequantizeLinear", "q s z", "y")]
    return model(nodes, {"s": SCALE, "z": zero}, opset=opset)


def int4(opset: int) -> Any:
    weights = helper.make_tensor("w", TensorProto.INT4, [8, 6], [1] * 48)
    nodes = [node("DequantizeLinear", "w s", "d"), node("MatMul", "x d", "y")]
    return model(nodes, {"w": weights, "s": SCALE}, x=(2, 8), opset=opset)


def cast_constant(number: float) -> Any:
    nodes = [node("Cast", "c", "h", to=HALF), node("Add", "x h", "y")]
    return model(nodes, {"c": np.array([number], np.float32)}, kinds=(HALF, HALF))


ERRORS = [
    *(Case("element-type", partial(through, kind), lambda: through(INT64), "parser", name) for name, kind in BEYOND.items()),
    Case("element-type", lambda: uint8_inside(TensorProto.INT16), lambda: uint8_inside(TensorProto.INT32), "parser", "cast"),
    Case(
        "element-type",
        lambda: model([node("Cast", "c", "d", to=FLOAT), node("Add", "x d", "y")], {"c": np.ones(1, np.int16)}),
        lambda: model([node("Cast", "c", "d", to=FLOAT), node("Add", "x d", "y")], {"c": np.ones(1, np.int32)}),
        "parser",
        "constant",
    ),
    Case("uint8-value", lambda: uint8_inside(UINT8), lambda: uint8_inside(TensorProto.INT32), "parser", "inside"),
    Case(
        "uint8-value",
        lambda: uint8_read(name="x"),
        lambda: uint8_read(node("Cast", "x", "c", to=FLOAT), name="c"),
        "parser",
        "input",
    ),
    Case("mixed-floats", lambda: adding(np.ones(1, np.float32)), lambda: adding(np.ones(1, np.float16)), "parser"),
    Case("sparse", lambda: scaled(sparse=True), lambda: scaled(sparse=False), "parser"),
    Case("rank", lambda: axes(9), lambda: axes(8), "parser"),
]
OTHERS = [
    Case("double", lambda: through(TensorProto.DOUBLE), lambda: through(FLOAT)),
    Case(
        "fp16-constant",
        lambda: adding(np.array([1.0, np.inf] * 4, np.float16)),
        lambda: adding(np.array([1.0, 60000.0] * 4, np.float16)),
    ),
    Case("fp16-overflow", lambda: cast_constant(1e5), lambda: cast_constant(6e4)),
    Case("type-opset", lambda: fp8(17), lambda: fp8(19), names="fp8", capability="SM89"),
    Case("type-opset", lambda: int4(17), lambda: int4(21), names="int4"),
    Case("needs-capability", lambda: fp8(19), lambda: through(FLOAT)),
]


@pytest.mark.parametrize("case", [*ERRORS, *OTHERS], ids=case_id)
def test_a_rule_fires_where_it_should_and_not_where_its_way_out_was_taken(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("case", ERRORS, ids=case_id)
def test_the_real_parser_refuses_what_is_called_an_error(case: Case) -> None:
    hold_against_library(case)


@pytest.mark.parametrize("case", OTHERS, ids=case_id)
def test_the_real_parser_takes_what_is_called_a_warning(case: Case) -> None:
    assert parsed(case.bad())[0] is not None


def integer_file(operator: str, kind: int) -> Any:
    """``operator`` on an input of ``kind``, everything else as it needs it."""
    shape = (8, 8) if operator == "Gemm" else (1, 4, 8, 8)
    inputs = [value("x", kind, shape)]
    weights: dict[str, Any] = {}
    reads = ["x"]
    attributes: dict[str, Any] = {}
    if operator in ("MatMul", "Gemm", "Einsum", "Mod", "PRelu"):
        inputs.append(value("x2", kind, shape))
        reads.append("x2")
    if operator == "Einsum":
        attributes["equation"] = "abij,abjk->abik"
    if operator == "GridSample":
        weights["g"] = np.zeros((1, 3, 3, 2), np.float32)
        reads.append("g")
    if operator == "Resize":
        weights["r"] = np.array([1, 1, 2, 2], np.float32)
        reads += ["", "r"]
    if operator in ("DepthToSpace", "SpaceToDepth"):
        attributes["blocksize"] = 2
    return model([node(operator, reads, "y", **attributes)], weights, inputs=inputs, outputs=[value("y", kind)])


INTEGERS = [(operator, kind) for operator, kinds in _NO_INTEGERS.items() for kind in sorted(kinds)]


@pytest.mark.parametrize(("operator", "kind"), INTEGERS)
def test_integers_where_the_parser_has_floats_only(operator: str, kind: str, tmp_path: Path) -> None:
    proto = integer_file(operator, TensorProto.DataType.Value(kind))
    assert [finding.rule for finding in found(proto, tmp_path)] == ["integer-input"]
    assert "integer-input" not in {finding.rule for finding in found(integer_file(operator, FLOAT), tmp_path)}
    assert parsed(proto)[0] is None
    if operator != "Mod":  # on floats it wants fmod
        assert parsed(integer_file(operator, FLOAT))[0] is not None


def mixed(operator: str, kind: type) -> Any:
    """``operator`` on a FLOAT16 input and a constant of ``kind``."""
    other: dict[str, Any] = {"c": ONE.astype(kind)}
    attributes: dict[str, Any] = {}
    shape: tuple[int, ...] = (1, 4, 8, 8)
    reads, first, outputs = "x c", [], "y"
    if operator in ("Conv", "ConvTranspose"):
        other = {"c": KERNEL.astype(kind)}
    elif operator in ("Gemm",):
        other, shape = {"c": MATRIX.astype(kind)}, (8, 8)
    elif operator in ("InstanceNormalization", "GroupNormalization"):
        other, reads = {"c": np.ones(4, kind)}, "x c c"
        attributes = {"num_groups": 2} if operator.startswith("Group") else {}
    elif operator == "LayerNormalization":
        other = {"c": np.ones(8, kind)}
    elif operator in ("LSTM", "GRU"):
        gates = 4 if operator == "LSTM" else 3
        other = {"c": np.ones((1, gates * 3, 5), kind), "r": np.ones((1, gates * 3, 3), kind)}
        reads, shape, outputs, attributes = "x c r", (4, 2, 5), "y h", {"hidden_size": 3}
    elif operator == "Where":
        first, reads = [node("Greater", "x x", "b")], "b x c"
    elif operator in ("ScatterND", "ScatterElements"):
        indices = np.zeros((1, 1) if operator == "ScatterND" else ONE.shape, np.int64)
        other, reads = {"c": ONE.astype(kind), "i": indices}, "x i c"
    elif operator == "GridSample":
        other = {"c": np.zeros((1, 3, 3, 2), kind)}
    elif operator == "Range":
        other, reads, shape = {"c": np.array(8, kind), "d": np.array(1, kind)}, "x c d", ()
    special: dict[str, dict[str, Any]] = {"Einsum": {"equation": "abij,abjk->abik"}, "Concat": {"axis": 0}, "Mod": {"fmod": 1}}
    attributes |= special.get(operator, {})
    comparison = operator in ("Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual")
    made = [value("y", TensorProto.BOOL if comparison else HALF)]
    return model(
        [*first, node(operator, reads, outputs, **attributes)], other, x=shape, kinds=(HALF, HALF), outputs=made, opset=21
    )


@pytest.mark.parametrize("operator", list(_SAME_FLOAT))
def test_every_operator_whose_floats_must_agree(operator: str, tmp_path: Path) -> None:
    assert "mixed-floats" in {finding.rule for finding in found(mixed(operator, np.float32), tmp_path)}
    assert parsed(mixed(operator, np.float32))[0] is None
    assert "mixed-floats" not in {finding.rule for finding in found(mixed(operator, np.float16), tmp_path)}
    if operator != "Range":  # computed floats are another refusal of it
        made, said = parsed(mixed(operator, np.float16))
        assert made is not None, said[:2]


def test_the_parser_converts_what_batch_norm_clip_and_power_mix(tmp_path: Path) -> None:
    for proto in (
        model([node("BatchNormalization", "x c c c c", "y")], {"c": np.ones(4, np.float32)}, kinds=(HALF, HALF)),
        model([node("Clip", "x c c", "y")], {"c": np.float32(1)}, kinds=(HALF, HALF)),
        model([node("Pow", "x c", "y")], {"c": np.float32(2)}, kinds=(HALF, HALF)),
    ):
        assert found(proto, tmp_path) == []
        assert parsed(proto)[0] is not None


def test_double_and_float_may_meet_and_the_engine_takes_float(tmp_path: Path) -> None:
    proto = adding(np.ones(1, np.float64), FLOAT)
    assert {finding.rule for finding in found(proto, tmp_path)} == {"double"}
    assert parsed(proto)[0] is not None
    made, _ = parsed(through(TensorProto.DOUBLE))
    assert str(made[0].get_input(0).dtype) == "DataType.FLOAT"
    (first, second) = found(through(TensorProto.DOUBLE), tmp_path)
    assert "own input or output is FLOAT" in first.message and "own input or output is FLOAT" in second.message


def gathered() -> Any:
    nodes = [node("Gather", "c x", "g"), node("Cast", "g", "y", to=FLOAT)]
    return model(nodes, {"c": np.ones(3, np.uint8)}, x=(2,), kinds=(INT64, FLOAT))


@pytest.mark.parametrize(
    "proto",
    [
        cast_from(UINT8),
        model([node("Cast", "x", "y", to=UINT8)], kinds=(FLOAT, UINT8)),
        through(UINT8),
        model([node("Equal", "x x", "y")], kinds=(UINT8, TensorProto.BOOL)),
        gathered(),
    ],
    ids=["in", "out", "through", "compared", "constant"],
)
def test_uint8_at_the_ends_and_in_constants_is_taken(proto: Any, tmp_path: Path) -> None:
    assert found(proto, tmp_path) == []
    assert parsed(proto)[0] is not None


def test_a_mask_of_infinity_is_meant(tmp_path: Path) -> None:
    mask = np.triu(np.full((8, 8), -np.inf, np.float16), 1)
    assert found(adding(mask), tmp_path) == []


def test_8_bit_floats_build_from_the_capability_that_the_rule_names() -> None:
    assert builds(fp8(19), "SM89") and not builds(fp8(19), "SM86")
