from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from accel.compress.onnx_writing import drop_unused_opsets_, load, name_all_nodes_, strip_metadata_, write
from accel.errors import PassFault, StorageFault


def branching() -> onnx.ModelProto:
    """If with a node of another domain in one branch; metadata and a doc string on both levels."""
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    inner = helper.make_node("Gelu", ["x"], ["inner"], domain="com.microsoft")
    inner.metadata_props.add(key="stack_trace", value="/home/someone/net.py")
    then = helper.make_graph([inner], "then", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [2])])
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["other"])],
        "else",
        [],
        [helper.make_tensor_value_info("other", TensorProto.FLOAT, [2])],
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, doc_string="/home/someone")
    inputs = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [2]),
    ]
    opsets = [helper.make_opsetid(domain, 1) for domain in ("com.microsoft", "ai.onnx.ml", "com.microsoft.nchwc")]
    model = helper.make_model(
        helper.make_graph([node], "g", inputs, [out]), opset_imports=[helper.make_opsetid("", 20), *opsets], producer_name="me"
    )
    model.metadata_props.add(key="where", value="/home/someone")
    return model


def test_metadata_goes_at_every_level() -> None:
    model = branching()
    strip_metadata_(model)
    assert b"/home" not in model.SerializeToString()
    assert model.producer_name == "me"


def test_only_operator_sets_in_use_stay() -> None:
    model = branching()
    drop_unused_opsets_(model)
    assert [entry.domain for entry in model.opset_import] == ["", "com.microsoft"], "one of them is used inside a branch only"


def test_every_node_gets_a_name_of_its_own() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], name="same"),
        helper.make_node("Relu", ["a"], ["b"], name="same"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]))
    name_all_nodes_(model)
    assert [node.name for node in model.graph.node] == ["same", "same_1", "Relu", "Relu_1"]


def matrix(size: int = 64) -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.arange(size * size, dtype=np.float32).reshape(size, size), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="m")], "g", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_one_file_below_the_limit(tmp_path: Path) -> None:
    write(matrix(), tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_weights_beside_the_file_above_it_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        write(matrix(), tmp_path / "model.onnx", limit=1000)
        assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
        assert not any(file.is_symlink() or file.stat().st_nlink > 1 for file in tmp_path.iterdir())
        contents.append([(tmp_path / name).read_bytes() for name in ("model.onnx", "model.onnx.data")])
    assert contents[0] == contents[1] and len(contents[0][0]) < 1000
    x = np.ones((1, 64), np.float32)
    wanted = ReferenceEvaluator(matrix()).run(None, {"x": x})
    np.testing.assert_array_equal(ReferenceEvaluator(load(tmp_path / "model.onnx")).run(None, {"x": x}), wanted)


def test_a_folder_that_cannot_be_written_is_a_storage_fault(tmp_path: Path) -> None:
    with pytest.raises(StorageFault, match=r"model\.onnx: cannot be written"):
        write(matrix(), tmp_path / "missing" / "model.onnx")


@pytest.mark.parametrize("content", [b"\xff\xfe\x00 not protobuf", b"\x08"])
def test_what_is_not_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(PassFault, match=r"model\.onnx: "):
        load(file)
    with pytest.raises(PassFault, match="cannot be read"):
        load(tmp_path / "absent.onnx")
