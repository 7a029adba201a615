"""Bodies of If: no finding about a branch that is never taken, nor for a name that two branches share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tests.accelerate.lint.cases import FLOAT, HALF, INT64, found, model, node, parsed, value

from accel.accelerate.lint.branches import live

INT32, INT16 = onnx.TensorProto.INT32, onnx.TensorProto.INT16
PLAIN = [node("Relu", "x", "r")]
REFUSED = [node("Cast", "x", "i", to=INT32), node("BitwiseNot", "i", "j"), node("Cast", "j", "r", to=FLOAT)]
NO_TYPE = [node("Cast", "x", "i", to=INT16), node("Cast", "i", "r", to=FLOAT)]


def branch(nodes: list[Any], **weights: Any) -> Any:
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    return onnx.helper.make_graph(nodes, "branch", [], [value(nodes[-1].output[0])], tensors)


def chosen(then: Any, other: Any, condition: Any = None) -> Any:
    """An If between two graphs; without ``condition`` an input decides."""
    both = node("If", "c", "y", then_branch=then, else_branch=other)
    decides = [] if condition is not None else [value("c", onnx.TensorProto.BOOL, [])]
    weights = {} if condition is None else {"c": condition}
    return model([both], weights, inputs=[value("x", FLOAT, (1, 4, 8, 8)), *decides])


@pytest.mark.parametrize("dead", [REFUSED, NO_TYPE], ids=["operator", "type"])
def test_what_a_branch_that_is_never_taken_holds_is_no_error(dead: list[Any], tmp_path: Path) -> None:
    for proto in (
        chosen(branch(PLAIN), branch(dead), np.bool_(True)),
        chosen(branch(dead), branch(PLAIN), np.array([False])),
    ):
        assert not found(proto, tmp_path)
        assert parsed(proto)[0] is not None, "and the parser takes it"
    for proto in (chosen(branch(PLAIN), branch(dead)), chosen(branch(PLAIN), branch(dead), np.bool_(False))):
        assert "error" in {finding.severity for finding in found(proto, tmp_path)}
        assert parsed(proto)[0] is None


def test_a_condition_in_a_constant_node_counts_too() -> None:
    proto = chosen(branch(PLAIN), branch(REFUSED))
    made = node("Constant", "", "c", value=numpy_helper.from_array(np.bool_(True)))
    proto.graph.node.insert(0, made)
    assert [each.name for graph in live(proto.graph) for each in graph.node] == ["c/Constant", "y/If", "r/Relu"]


def test_two_branches_may_use_one_name_for_values_of_different_types(tmp_path: Path) -> None:
    full = [node("Relu", "x", "t"), node("Add", "t one", "r", name="full")]
    half = [
        node("Cast", "x", "t", to=HALF),
        node("Add", "t two", "u", name="half"),
        node("Cast", "u", "r", name="back", to=FLOAT),
    ]
    proto = chosen(branch(full, one=np.ones(1, np.float32)), branch(half, two=np.ones(1, np.float16)))
    assert not found(proto, tmp_path)
    assert parsed(proto)[0] is not None


def test_a_note_on_a_value_that_nothing_makes_is_no_value(tmp_path: Path) -> None:
    proto = model([node("Relu", "x", "y")])
    proto.graph.value_info.append(value("gone", INT16, [2]))
    assert not found(proto, tmp_path)
    assert parsed(proto)[0] is not None


def test_an_inner_graph_still_reads_the_names_around_it(tmp_path: Path) -> None:
    """``x`` is of the outer graph; both branches make an ``r`` of their own, and so does the outer graph."""
    proto = chosen(branch([node("MatMul", "k k", "r")]), branch(PLAIN))
    proto.graph.node.insert(0, node("Cast", "x", "k", to=INT64))
    proto.graph.node.append(node("Relu", "y", "r", name="outer"))
    assert [finding.rule for finding in found(proto, tmp_path)] == ["integer-input"]
