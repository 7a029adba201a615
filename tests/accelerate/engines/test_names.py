from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from accel.accelerate.engines.names import OnnxNodes, copied_for, few, nodes_in, nodes_in_name, nodes_of

KINDS = {"stem/Conv": "Conv", "stem/Relu": "Relu", "side/Conv": "Conv", "Add": "Add", "head/Gemm": "Gemm", "far": "Relu"}
READERS = {
    "stem/Conv": ("stem/Relu",),
    "stem/Relu": ("side/Conv", "Add"),
    "side/Conv": ("Add",),
    "Add": ("head/Gemm",),
    "head/Gemm": (),
    "far": (),
}
KNOWN = OnnxNodes(KINDS, READERS)


@pytest.mark.parametrize(
    ("metadata", "nodes"),
    [
        ("[ONNX Layer: a/Conv]", ("a/Conv",)),
        ("[ONNX Layer: a]\x1e[ONNX Layer: b]\x1e[ONNX Layer: a]", ("a", "b")),
        ("[ONNX Layer: a]\x1f[ONNX Layer: b]", ("a", "b")),
        ("[ONNX Layer: a][ONNX Layer: b]", ("a", "b")),
        ("[ONNX Layer: blocks[0]/Conv]\x1e[ONNX Layer: b]", ("blocks[0]/Conv", "b")),
        ("[SHAPE] something else", ()),
        ("", ()),
    ],
)
def test_metadata(metadata: str, nodes: tuple[str, ...]) -> None:
    assert nodes_in(metadata) == nodes


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("stem/Conv + stem/Relu", ("stem/Conv", "stem/Relu")),
        ("stem.weight + stem.weight_Q + stem/Conv + PWN(stem/Relu)", ("stem/Conv", "stem/Relu")),
        ("PWN(PWN(stem/Relu, Add), far)", ("stem/Relu", "Add", "far")),
        ("stem/Conv || side/Conv", ("stem/Conv", "side/Conv")),
        ("head/Gemm_25 + (Unnamed Layer* 14) [Shuffle]", ("head/Gemm",)),
        ("stem/Relu_clone_1", ("stem/Relu",)),
        ("{ForeignNode[stem/Relu...head/Gemm]}", ("stem/Relu", "side/Conv", "Add", "head/Gemm")),
        ("{ForeignNode[stem/Conv...far]}", ("stem/Conv", "far")),
        ("{ForeignNode[a.weight...Add]}", ("Add",)),
        ("{ForeignNode[Add]}", ("Add",)),
        ("Reformatting CopyNode for Input Tensor 0 to stem/Conv + stem/Relu", ()),
        ("[trainStation1]", ()),
        ("__myl_AddRelu_myl0_3", ()),
    ],
)
def test_the_name_of_a_layer(name: str, nodes: tuple[str, ...]) -> None:
    assert nodes_in_name(name, KNOWN) == nodes


def test_without_the_file_every_part_is_a_node() -> None:
    assert nodes_in_name("a/Conv + a/Relu") == ("a/Conv", "a/Relu")
    assert nodes_in_name("{ForeignNode[a...b]}") == ("a", "b")


def test_what_a_reformat_is_for() -> None:
    assert copied_for("Reformatting CopyNode for Input Tensor 1 to stem/Conv + stem/Relu") == "stem/Conv + stem/Relu"
    assert copied_for("Reformatting CopyNode for Output Tensor 0 to stem/Conv") == "stem/Conv"
    assert copied_for("stem/Conv") is None


def test_nodes_of_a_file(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"], "last"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:])), str(tmp_path / "m.onnx"))
    found = nodes_of(tmp_path / "m.onnx")
    assert found.kinds == {"first": "Relu", "node_of_b": "Neg", "last": "Add"}
    assert found.readers == {"first": ("node_of_b", "last"), "node_of_b": ("last",), "last": ()}


def test_few() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([str(number) for number in range(7)]) == "0, 1, 2, 3, 4 and 2 more"
