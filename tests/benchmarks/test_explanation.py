"""Two layer profiles by hand, and what is told of them."""

from __future__ import annotations

import json

from accel.benchmarks.explanation import Side, converted, explain, float_operators, is_conversion
from accel.benchmarks.explanation_places import OF_NO_NODE, places
from accel.benchmarks.explanation_text import ROWS, document, record, text
from accel.contracts import Finding, LayerRun
from accel.onnx_quantized import Operator

HOSTILE = "\x1b[31m::error::<script>|`x`" + "n" * 500


def ran(name: str, *nodes: str, ms: float | None = 1.0, kind: str = "Conv", precision: str = "fp32") -> LayerRun:
    return LayerRun(name, kind, nodes, precision, ms)


def operator(
    name: str, kind: str = "Conv", *, data: bool = True, weights: bool = True, around: tuple[str, ...] = ()
) -> Operator:
    return Operator(name, kind, kind in ("Conv", "Gemm", "MatMulNBits"), data, weights, data, around)


KINDS = {"q": "QuantizeLinear", "dq": "DequantizeLinear", "one": "Conv", "act": "Relu", "two": "Conv", "add": "Add"}
PLAIN = Side(
    "fp32",
    (ran("one", "one", "act", ms=4.0), ran("two", "two", "add", ms=4.0)),
    KINDS,
    (operator("one", data=False, weights=False), operator("two", data=False, weights=False)),
)


def quantized(*layers: LayerRun, findings: tuple[Finding, ...] = (), counted: tuple[int, int] | None = None) -> Side:
    operators = (operator("one", around=("q",)), operator("two", around=("dq",)), operator("add", "Add"))
    return Side("int8", layers, KINDS, operators, findings, counted)


GOOD = quantized(
    ran("one", "dq", "one", "act", "q", ms=1.0, kind="QLinearConv", precision="int8"),
    ran("two", "two", ms=1.5, kind="QLinearConv", precision="int8"),
    ran("add", "add", ms=0.5, kind="QLinearAdd", precision="int8"),
)
BAD = quantized(
    ran("quantize", "q", ms=0.5, kind="QuantizeLinear"),
    ran("dequantize", "dq", ms=1.5, kind="DequantizeLinear"),
    ran("one", "one", "act", ms=6.0),
    ran("reorder", ms=0.25, kind="ReorderOutput"),
    ran("two", "two", ms=1.0, kind="QLinearConv", precision="int8"),
    ran("add", "add", ms=0.25),
    findings=(Finding("float-output", "warning", "one", "a Relu stands behind it", "leave it out"),),
)


def test_what_runs_as_it_should_is_told_in_numbers() -> None:
    found = explain(PLAIN, GOOD)
    assert found.not_int8 == () and found.conversions == () and found.int8_unasked == ()
    assert (found.after.quantized_operators, found.after.int8_operators) == (2, 2)
    assert found.before is not None and (found.before.ms, found.after.ms) == (8.0, 3.0)
    assert "2.67 times as fast" in found.told[0] and "2 of 2 quantized operators ran in INT8" in found.told[1]


def test_what_one_side_joins_is_one_place_and_the_times_add_up() -> None:
    found = explain(PLAIN, GOOD)
    first, second = sorted(found.places, key=lambda place: place.title)
    assert (first.title, first.nodes) == ("one", ("one", "act"))
    assert (second.title, second.nodes) == ("two", ("two", "add"))
    assert second.after is not None and (second.after.ms, second.change_ms) == (2.0, -2.0)
    assert second.after.kinds == ("QLinearConv", "QLinearAdd")


def test_an_operator_in_float_has_its_reason_and_both_times() -> None:
    found = explain(PLAIN, BAD)
    one, add = found.not_int8
    assert (one.node, one.status, one.rule, one.why) == ("one", "unfused", "float-output", "a Relu stands behind it")
    assert (one.before_ms, one.after_ms, one.precision) == (4.0, 6.0, "fp32")
    assert (add.node, add.weighted, add.rule) == ("add", False, "") and "nothing that is known" in add.why
    assert found.told[1].startswith("INT8 does not pay here: 1 of 2 quantized operators ran in float (63 % of the time)")
    assert "3 conversions (24 % of the time)" in found.told[1]


def test_conversions_are_ranked_and_say_whom_they_serve() -> None:
    assert [(each.layer, each.ms, each.beside) for each in converted(BAD)] == [
        ("dequantize", 1.5, ("two",)),
        ("quantize", 0.5, ("one",)),
        ("reorder", 0.25, ("two",)),  # of no node: for what runs next
    ]


def test_half_quantized_unsupported_kept_and_lost_operators() -> None:
    operators = (
        operator("kept", data=False, weights=False),
        operator("weights", data=False),
        operator("data", weights=False),
        operator("none"),
        operator("lost"),
    )
    layers = tuple(ran(name, name) for name in ("kept", "weights", "data", "none"))
    findings = (Finding("no-int8-kernel", "warning", "none", "there is none", "leave it"),)
    side = Side("x", layers, {each.name: "Conv" for each in operators}, operators, findings)
    assert {each.node: each.status for each in float_operators(side)} == {
        "kept": "kept back", "weights": "weights only", "data": "data only", "none": "unsupported", "lost": "not told",
    }  # fmt: skip


def test_a_product_of_packed_weights_is_not_told_off() -> None:
    operators = (operator("packed", "MatMulNBits", data=False), operator("conv", data=False))
    side = Side("x", (ran("packed", "packed"), ran("conv", "conv")), {"packed": "MatMulNBits", "conv": "Conv"}, operators)
    found = {each.node: each for each in float_operators(side)}
    assert found["packed"].status == found["conv"].status == "weights only"
    assert found["packed"].way_out.startswith("nothing, where they are to save memory")
    assert found["conv"].way_out == "quantize its data too"
    assert any(line.startswith("weights alone stored as integers: 2") for line in explain(None, side).told)


def test_a_reason_may_lie_with_the_pair_beside_the_operator() -> None:
    side = Side(
        "x", (ran("one", "one"),), KINDS, (operator("one", around=("q",)),), (Finding("signed", "warning", "q", "why", "way"),)
    )
    (one,) = float_operators(side)
    assert (one.rule, one.why, one.way_out) == ("signed", "why", "way")


def test_a_file_in_float_has_nothing_to_explain() -> None:
    assert float_operators(PLAIN) == ()
    assert explain(None, PLAIN).before is None


def test_what_the_file_keeps_in_float_and_the_runtime_does_not() -> None:
    side = Side("x", (ran("one", "one", precision="int8"),), KINDS, (operator("one", weights=False), operator("two")))
    found = explain(None, side)
    assert found.int8_unasked == ("one",)
    assert found.told[-1] == "kept in float by the file, and run in INT8 all the same: one"


def test_the_runtimes_own_count_is_told_where_the_profile_says_otherwise() -> None:
    assert explain(None, quantized(*GOOD.layers, counted=(2, 2))).after.notes == ()
    (note,) = explain(None, quantized(*GOOD.layers, counted=(2, 1))).after.notes
    assert note == "the runtime's own graph has 1 of 2 quantized operators in INT8"


def test_a_transpose_that_the_file_does_not_have_is_a_conversion() -> None:
    kinds = {"t": "Transpose", "one": "Conv"}
    assert not is_conversion(ran("t", "t", kind="Transpose"), kinds)
    assert is_conversion(ran("one_transpose", "one", kind="Transpose"), kinds)
    assert is_conversion(ran("Reformatting CopyNode for Input Tensor 0 to one", kind=""), kinds)
    assert not is_conversion(ran("added", kind="Memcpy"), kinds)


def test_a_tensorrt_copy_names_its_layer() -> None:
    layers = (ran("Reformatting CopyNode for Output Tensor 0 to two", kind="Reformat"), ran("one", "one"))
    (copy,) = converted(Side("x", layers, KINDS, (operator("one"), operator("two"))))
    assert copy.beside == ("two",)


def test_layers_without_times_or_nodes_are_kept() -> None:
    (place,) = places(None, (ran("a", ms=None, kind="Memcpy"), ran("b", ms=None, kind="Memcpy")), without=(), order=())
    assert (place.title, place.nodes, place.before, place.change_ms) == (OF_NO_NODE, (), None, None)
    assert place.after is not None and place.after.ms is None
    found = explain(None, Side("x", (ran("a", "a", ms=None),), {"a": "Conv"}, (operator("a"),)))
    assert found.after.ms is None and found.after.conversions_ms is None
    assert "–" in text(found)


def test_names_cannot_drive_a_terminal_a_ci_log_or_a_page() -> None:
    kinds = {HOSTILE: "Conv", HOSTILE + "q": "QuantizeLinear"}
    layers = (ran(HOSTILE, HOSTILE, kind=HOSTILE), ran(HOSTILE, HOSTILE + "q", kind="QuantizeLinear"))
    findings = (Finding("float-output", "warning", HOSTILE, HOSTILE, HOSTILE),)
    side = Side(HOSTILE, layers, kinds, (operator(HOSTILE),), findings, notes=(HOSTILE,))
    found = explain(side, side)
    for shown in (text(found), document(found)):
        assert "\x1b" not in shown and "::error" not in shown
    assert "<script>" not in document(found) and "|`x`" not in document(found)
    assert json.loads(json.dumps(record(found), allow_nan=False))["not_int8"][0]["node"] == HOSTILE


def test_long_tables_are_cut_and_the_json_is_not() -> None:
    names = [f"n{index}" for index in range(3 * ROWS)]
    side = Side("x", tuple(ran(name, name) for name in names), dict.fromkeys(names, "Conv"), tuple(map(operator, names)))
    found = explain(None, side)
    assert f"and {2 * ROWS} more; --json has them all" in text(found)
    assert f"{2 * ROWS} more in the JSON" in document(found)
    assert len(record(found)["not_int8"]) == 3 * ROWS
