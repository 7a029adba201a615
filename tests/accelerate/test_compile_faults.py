"""Broken models end in an error that names the file and the node, never in a crash or a library's own exception."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from accel import catalog
from accel.accelerate.compile_faults import find_node, shortened
from accel.errors import BackendFault
from accel.model import OnnxModel, Signature, Target, TensorSpec

RUNTIMES = ["onnxruntime", "openvino"]
SIGNATURE = Signature((TensorSpec("x", ("batch", 3), "float32"),), (TensorSpec("y", ("batch", 3), "float32"),))
RELU = helper.make_node("Relu", ["x"], ["a"], name="stem/Relu")


def write(path: Path, nodes: Sequence[NodeProto], domain: str = "") -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros((4, 4), np.float32), "w")],
    )
    domains = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=domains, ir_version=10), path)
    return path


BROKEN = {
    "unknown operator": [RELU, helper.make_node("Fooify", ["a"], ["y"], name="layer1/Foo")],
    "operator of a foreign domain": [RELU, helper.make_node("Fooify", ["a"], ["y"], name="layer1/Foo", domain="com.acme")],
    "shapes that do not fit": [RELU, helper.make_node("MatMul", ["a", "w"], ["y"], name="layer1/MatMul")],
    "an input that nothing makes": [RELU, helper.make_node("Add", ["a", "ghost"], ["y"], name="layer1/Add")],
    "a type the operator does not take": [
        RELU,
        helper.make_node("Cast", ["a"], ["c"], name="layer1/Cast", to=TensorProto.INT16),
        helper.make_node("Celu", ["c"], ["y"], name="layer1/Celu"),
    ],
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("what", BROKEN)
def test_the_node_is_named(runtime: str, what: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    path = write(tmp_path / "net.onnx", BROKEN[what], "com.acme" if "foreign" in what else "")
    with pytest.raises(BackendFault) as caught:
        catalog.backend(runtime).compile(OnnxModel(path=path, signature=SIGNATURE), Target(name="t", backend=runtime), tmp_path)
    message = str(caught.value)
    assert message.startswith(f"net.onnx, node {BROKEN[what][-1].name}: {runtime} cannot compile it: ")
    assert "\n" not in message
    assert ".cpp:" not in message and ".cc:" not in message


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("what", ["empty", "cut short", "not there"])
def test_a_file_that_is_no_model(runtime: str, what: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    path = write(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"], name="only/Relu")])
    if what == "empty":
        path.write_bytes(b"")
    elif what == "cut short":
        path.write_bytes(path.read_bytes()[:40])
    else:
        path.unlink()
    with pytest.raises(BackendFault, match=rf"^net\.onnx: {runtime} cannot compile it: \w"):
        catalog.backend(runtime).compile(OnnxModel(path=path, signature=SIGNATURE), Target(name="t", backend=runtime), tmp_path)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_what_compiles_but_does_not_run_is_a_fault_too(runtime: str, tmp_path: Path) -> None:
    """Two rows do not broadcast to five, and that there are two is known only with the data."""
    pytest.importorskip(runtime)
    nodes = [
        helper.make_node(
            "Constant", [], ["c"], name="five/Constant", value=numpy_helper.from_array(np.ones((5, 3), np.float32))
        ),
        helper.make_node("Add", ["x", "c"], ["y"], name="layer1/Add"),
    ]
    path = write(tmp_path / "net.onnx", nodes)
    backend = catalog.backend(runtime)
    with backend.compile(OnnxModel(path=path, signature=SIGNATURE), Target(name="t", backend=runtime), tmp_path) as runner:
        for _ in range(2):
            with pytest.raises(BackendFault, match=rf"^net\.onnx: {runtime} failed while running: \w"):
                runner({"x": np.zeros((2, 3), np.float32)})
            np.testing.assert_array_equal(runner({"x": np.ones((5, 3), np.float32)})[0], np.full((5, 3), 2.0))


def test_noise_is_cut_and_length_bounded() -> None:
    assert shortened("[ONNXRuntimeError] : 1 : FAIL : Load model from /a/b.onnx failed:Node (x) is bad") == "Node (x) is bad"
    assert (
        shortened("Exception from src/core.cpp:84:\nCheck 'a(b)' failed at src/x.hpp:12:\nno such\nthing\n\n")
        == "no such thing"
    )
    assert len(shortened("word " * 1000)) == 500
    assert shortened("Exception from src/core.cpp:84:\n") != ""


def test_a_message_about_nothing_in_the_file_names_no_node(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"], name="only/Relu")])
    assert find_node("Node (other) failed", path) is None
    assert find_node("something failed", path) is None
    assert find_node("Node (only/Relu) failed", path) == "only/Relu"
    assert find_node("<Node(Relu): y>", path) == "only/Relu"
    assert find_node("Node (only/Relu) failed", tmp_path / "absent.onnx") is None


def test_a_node_without_a_name_is_told_by_what_it_makes(tmp_path: Path) -> None:
    path = write(tmp_path / "net.onnx", [helper.make_node("Relu", ["x"], ["y"])])
    assert find_node("<Node(Relu): y>", path) == "Relu that makes y"


@pytest.mark.parametrize(("code", "told"), [(TensorProto.BFLOAT16, True), (TensorProto.INT16, False)])
def test_a_node_in_bf16_says_so_and_what_to_do(code: int, told: bool, tmp_path: Path) -> None:
    """ONNX Runtime (1.32) has a kernel for neither on a CPU; only of BF16 is known what to do."""
    pytest.importorskip("onnxruntime")
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], name="stem/Cast", to=code),
        helper.make_node("Identity", ["c"], ["i"], name="stem/Identity"),
        helper.make_node("Relu", ["i"], ["r"], name="stem/Relu"),
        helper.make_node("Cast", ["r"], ["y"], name="head/Cast", to=TensorProto.FLOAT),
    ]
    path = write(tmp_path / "net.onnx", nodes)
    with pytest.raises(BackendFault) as caught:
        catalog.backend("onnxruntime").compile(
            OnnxModel(path=path, signature=SIGNATURE), Target(name="t", backend="onnxruntime"), tmp_path
        )
    message = str(caught.value)
    assert message.startswith("net.onnx, node stem/Relu: onnxruntime cannot compile it: Could not find an implementation")
    way_out = "set dtype: fp16 in the cast pass, or choose another target"
    assert (f"the node is in bf16, and this onnxruntime has no kernel for that: {way_out}" in message) is told
