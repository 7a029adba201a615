"""Layer times of a small FP32 and a small Q/DQ net, in the names of the ONNX file; and what is made of odd profiles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import catalog
from accel.accelerate.layer_nodes import FileNodes
from accel.accelerate.onnxruntime_profile import WARMUP, layer_profile
from accel.accelerate.openvino_profile import Counter, means_ms
from accel.contracts import LayerProfile, LayerRun, ProfilesLayers
from accel.errors import BackendFault, DataFault
from accel.model import Target
from accel.onnx_file import read

RUNTIMES = ("onnxruntime", "openvino")


def network(path: Path, *, quantized: bool) -> Path:
    """Two convolutions with activations, an addition, a pool, a linear layer."""
    values = np.random.default_rng(0)
    tensors: dict[str, Any] = {"flat": np.array([0, -1])}
    nodes = []

    def weights(name: str, *shape: int) -> str:
        integers = values.integers(-100, 100, shape).astype(np.int8)
        if not quantized:
            tensors[name] = integers.astype(np.float32) / 1000
            return name
        tensors[f"{name}8"] = integers
        tensors[f"{name}_s"] = np.full(shape[0], 0.001, np.float32)
        tensors[f"{name}_z"] = np.zeros(shape[0], np.int8)
        given = [f"{name}8", f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("DequantizeLinear", given, [name], name=f"{name}/DQ", axis=0))
        return name

    def between(source: str) -> str:
        if not quantized:
            return source
        tensors.setdefault("s", np.float32(0.05))
        tensors.setdefault("z", np.uint8(0))
        nodes.append(helper.make_node("QuantizeLinear", [source, "s", "z"], [f"{source}_q"], name=f"{source}/Q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{source}_q", "s", "z"], [f"{source}_d"], name=f"{source}/DQ"))
        return f"{source}_d"

    x = between("x")
    nodes.append(helper.make_node("Conv", [x, weights("w1", 16, 16, 3, 3)], ["a"], name="one/Conv", pads=[1, 1, 1, 1]))
    nodes.append(helper.make_node("Relu", ["a"], ["b"], name="one/Relu"))
    b = between("b")
    nodes.append(helper.make_node("Conv", [b, weights("w2", 16, 16, 3, 3)], ["c"], name="two/Conv", pads=[1, 1, 1, 1]))
    c = between("c")
    nodes.append(helper.make_node("Add", [x, c], ["d"], name="two/Add"))
    nodes.append(helper.make_node("Relu", ["d"], ["e"], name="two/Relu"))
    e = between("e")
    nodes.append(helper.make_node("GlobalAveragePool", [e], ["p"], name="pool/GlobalAveragePool"))
    p = between("p")
    nodes.append(helper.make_node("Reshape", [p, "flat"], ["f"], name="flat/Reshape"))
    f = between("f")
    nodes.append(helper.make_node("Gemm", [f, weights("w3", 10, 16)], ["y"], name="head/Gemm", transB=1))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, 24, 24])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def profiled(runtime: str, path: Path, folder: Path, **changes: Any) -> LayerProfile:
    pytest.importorskip(runtime)
    backend = catalog.backend(runtime)
    assert isinstance(backend, ProfilesLayers)
    inputs = {"x": np.random.default_rng(1).standard_normal((2, 16, 24, 24)).astype(np.float32)}
    target = Target("here", runtime, batch=2, **changes)
    return backend.profile(read(path), target, inputs, queries=4, cache=folder)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("quantized", [False, True], ids=["fp32", "int8"])
def test_layers_carry_the_names_of_the_file(runtime: str, quantized: bool, tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx", quantized=quantized)
    found = profiled(runtime, path, tmp_path)
    by_node = {node: layer for layer in found.layers for node in layer.nodes}
    known = {str(node.name) for node in onnx.load(path).graph.node}
    assert set(by_node) <= known
    for name in ("one/Conv", "two/Conv", "head/Gemm"):
        layer = by_node[name]
        assert layer.precision == ("int8" if quantized else "fp32"), name
        assert layer.ms is not None
        assert layer.ms >= 0
    assert by_node["one/Relu"] is by_node["one/Conv"]  # joined to it
    assert {"two/Add", "two/Relu", "pool/GlobalAveragePool"} <= set(by_node)
    if quantized:
        assert by_node["w1/DQ"] is by_node["b/Q"] is by_node["one/Conv"]
    assert sum(layer.ms or 0.0 for layer in found.layers) > 0
    assert list(tmp_path.iterdir()) == [path]


def test_bf16_layers_are_told(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no BF16")
    found = profiled("openvino", network(tmp_path / "net.onnx", quantized=False), tmp_path, precision="bf16")
    ran = {node: layer.precision for layer in found.layers for node in layer.nodes}
    assert ran["one/Conv"] == "bf16"


def test_an_ir_is_profiled_without_nodes(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = network(tmp_path / "net.onnx", quantized=False)
    openvino.save_model(openvino.Core().read_model(str(path)), str(tmp_path / "net.xml"), compress_to_fp16=False)
    found = profiled("openvino", tmp_path / "net.xml", tmp_path)
    assert any(layer.kind == "Convolution" for layer in found.layers)
    assert all(layer.nodes == () for layer in found.layers)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_wrong_inputs_are_told(runtime: str, tmp_path: Path) -> None:
    pytest.importorskip(runtime)
    model = read(network(tmp_path / "net.onnx", quantized=False))
    inputs = {"x": np.zeros((2, 16, 24), np.float32)}
    with pytest.raises(DataFault):
        catalog.backend(runtime).profile(model, Target("here", runtime, batch=2), inputs, queries=1, cache=tmp_path)


def test_an_engine_is_profiled_at_the_shapes_it_is_fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[object] = []

    class Engine:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            done.append("closed")

        def __call__(self, inputs: Mapping[str, Any]) -> list[Any]:
            done.append(sorted(inputs))
            return []

        def profile(self, queries: int) -> LayerProfile:
            done.append(queries)
            return LayerProfile((run("conv", "one/Conv"),))

    backend = catalog.backend("tensorrt")
    monkeypatch.setattr(type(backend), "compile", lambda *_: Engine())
    assert isinstance(backend, ProfilesLayers)
    model = read(network(tmp_path / "net.onnx", quantized=False))
    target = Target("here", "tensorrt", device="gpu")
    found = backend.profile(model, target, {"x": np.zeros((1, 16, 24, 24), np.float32)}, queries=7, cache=tmp_path)
    assert [layer.nodes for layer in found.layers] == [("one/Conv",)]
    assert done == [["x"], 7, "closed"]


# -- what a profile says ---------------------------------------------------------------------------------------------------


def events(*layers: Mapping[str, Any], runs: int = WARMUP + 3) -> str:
    """A profile of ``runs`` inferences, each a thousand microseconds after the one before."""
    found: list[dict[str, Any]] = []
    for run in range(runs):
        found.append({"cat": "Session", "name": "model_run", "ts": 1000 * run, "dur": 900, "args": {}})
        for place, layer in enumerate(layers):
            took = layer["us"][run] if isinstance(layer["us"], list) else layer["us"]
            told = {"op_name": layer["kind"], "node_index": str(place), "output_type_shape": [{layer["type"]: [1]}]}
            told["input_type_shape"] = [{layer.get("reads", layer["type"]): [1]}]
            found.append(
                {"cat": "Node", "name": f"{layer['name']}_kernel_time", "ts": 1000 * run + place, "dur": took, "args": told}
            )
    return json.dumps(found)


def file_of(*nodes: onnx.NodeProto) -> FileNodes:
    return FileNodes(helper.make_graph(list(nodes), "g", [], []))


def test_inferences_that_warm_up_do_not_count_and_one_that_was_disturbed_neither() -> None:
    text = events({"name": "c", "kind": "Conv", "type": "float", "us": [9000, 900, 90, 10, 5000, 12]})
    (layer,) = layer_profile(text, None).layers
    assert layer.ms == pytest.approx(0.012)


def test_names_that_the_library_made_lead_back_to_the_file() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="one/Conv"),
        helper.make_node("Relu", ["a"], ["one_out"], name="one/Relu"),
        helper.make_node("QuantizeLinear", ["one_out"], ["q"]),
        helper.make_node("Conv", ["q", "w"], ["y"], name="two_q"),
    ]
    text = events(
        {"name": "one_out_nchwc", "kind": "Conv", "type": "float", "us": 5},
        {"name": "ReorderOutput", "kind": "ReorderOutput", "type": "float", "us": 1},
        {"name": "QuantizeLinear_2", "kind": "QuantizeLinear", "type": "uint8", "reads": "float", "us": 1},
        {"name": "two_q_token_7", "kind": "QLinearConv", "type": "uint8", "us": 1},
    )
    conv, reorder, quantize, second = layer_profile(text, file_of(*nodes)).layers
    assert conv.nodes == ("one/Conv", "one/Relu")
    assert reorder.nodes == ()
    assert (quantize.nodes, quantize.precision) == (("q",), "fp32")  # called after what it makes
    assert (second.nodes, second.precision) == (("two_q",), "int8")


def test_the_body_of_a_loop_counts_as_often_as_it_runs() -> None:
    text = json.loads(events({"name": "step", "kind": "Add", "type": "float", "us": 4}))
    text += [{**event, "ts": event["ts"] + 5} for event in text if event["cat"] == "Node"]
    (layer,) = layer_profile(json.dumps(text), None).layers
    assert layer.ms == pytest.approx(0.008)


@pytest.mark.parametrize(
    "text", ["", "[", "{}", "[]", '[{"name": "model_run"}]', '[{"cat": "Node", "name": "c_kernel_time", "ts": 1}]', "[1, 2]"]
)
def test_what_is_no_profile_is_a_fault_with_a_sentence(text: str) -> None:
    with pytest.raises(BackendFault, match="onnxruntime's profile"):
        layer_profile(text, None)


def test_hostile_names_stay_text() -> None:
    name = "::error::\x1b[31m<script>|" + "n" * 10_000
    (layer,) = layer_profile(events({"name": name, "kind": "Conv", "type": "float", "us": 5}), None).layers
    assert layer.name == name


def counter(mean_us: int | None) -> Counter:
    return Counter("c", "Convolution", "c", "f32", mean_us)


def test_the_first_inferences_are_taken_out_of_openvinos_mean() -> None:
    # five at 1000 us, then 20 at 100: the mean of all is 280
    assert means_ms({"c": counter(1000)}, {"c": counter(280)}, 20) == {"c": pytest.approx(0.1)}
    assert means_ms({"c": counter(3)}, {"c": counter(1)}, 2) == {"c": 0.0}  # rounding is not less than no time
    assert means_ms({"c": counter(None)}, {"c": counter(None)}, 20) == {}


def run(name: str, *nodes: str) -> LayerRun:
    return LayerRun(name, "", nodes, "fp32")


def test_what_is_no_layer_of_its_own_goes_to_its_neighbours() -> None:
    file = file_of(
        helper.make_node("DequantizeLinear", ["w8"], ["w"], name="DQ"),
        helper.make_node("Conv", ["x", "w"], ["a"], name="Conv"),
        helper.make_node("BatchNormalization", ["a"], ["b"], name="BN"),
        helper.make_node("Relu", ["b"], ["c"], name="Relu"),
        helper.make_node("Shape", ["c"], ["s"], name="Shape"),
        helper.make_node("MaxPool", ["c"], ["d"], name="Pool"),
    )
    # named by its last node, as ONNX Runtime does
    joined, pool = file.completed([run("one", "Relu"), run("two", "Pool")])
    assert joined.nodes == ("DQ", "Conv", "BN", "Relu")
    assert pool.nodes == ("Pool",)  # the Shape was folded: nobody's
    joined, _ = file.completed([run("one", "Conv"), run("two", "Pool")])
    assert joined.nodes == ("DQ", "Conv", "BN", "Relu")
