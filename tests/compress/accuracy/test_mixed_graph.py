"""A file between two: nothing kept back is the engine's own, everything is the float one, in between each layer is alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.accuracy.mixed_graph import MixedGraph
from accel.compress.onnx_writing import load, name_all_nodes_, write
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Job, QuantizationProfile
from accel.errors import PassFault
from accel.model import OnnxModel

Array = NDArray[Any]
Run = Callable[[onnx.ModelProto], Array]

CASES = ("onnxruntime", "nncf", "tensorrt")
LAYERS = {
    "stem/Conv": "Conv",
    "layer1.0.conv1/Conv": "Conv",
    "layer1.0.conv2/Conv": "Conv",
    "layer1.0/Add": "Add",
    "layer2.0.conv1/Conv": "Conv",
    "layer2.0.conv2/Conv": "Conv",
    "layer2.0.down.0/Conv": "Conv",
    "layer2.0/Add": "Add",
    "fc/Gemm": "Gemm",
}
"""Of the residual net: what has weights, and what joins branches. Relu and ReduceMean go with what they lead to."""


@pytest.fixture(scope="module")
def source(float_model: OnnxModel) -> onnx.ModelProto:
    model = load(float_model.path)
    name_all_nodes_(model)
    return model


@pytest.fixture(scope="module")
def quantized(
    float_model: OnnxModel,
    images: Array,
    cpu: QuantizationProfile,
    tensorrt: QuantizationProfile,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, onnx.ModelProto]:
    """Each case's own file, everything in INT8."""
    found = {}
    for name in CASES:
        profile = tensorrt if name == "tensorrt" else cpu
        job = Job.local(tmp_path_factory.mktemp(name), task=_Images(images), profile=profile)  # type: ignore[arg-type]
        engine = QuantizeStaticNncf() if name == "nncf" else QuantizeStaticOnnxRuntime()
        found[name] = load(engine(float_model, job).path)
    return found


class _Images:
    def __init__(self, images: Array) -> None:
        self.images = images

    def has(self, split: str) -> bool:
        return split == "calibration"

    def calibration(self) -> list[Any]:
        from accel.contracts import Batch

        return [Batch({"image": self.images})]


@pytest.fixture
def run(tmp_path: Path, images: Array, execute: Callable[..., Any]) -> Run:
    """The first output of a model, once it is sure that it is a sound file."""

    def first(model: onnx.ModelProto) -> Array:
        write(model, tmp_path / "mixed.onnx")
        onnx.checker.check_model(str(tmp_path / "mixed.onnx"), full_check=True)
        return np.asarray(execute(tmp_path / "mixed.onnx", {"image": images[:8]})[0])

    return first


def read_through_pairs(model: onnx.ModelProto) -> set[str]:
    """Nodes that read anything through DequantizeLinear."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    return {node.name for node in model.graph.node if dequantized & set(node.input)}


@pytest.mark.parametrize("case", CASES)
def test_with_nothing_kept_back_it_is_what_the_engine_wrote(
    case: str, source: onnx.ModelProto, quantized: dict[str, onnx.ModelProto], run: Run
) -> None:
    before = quantized[case].SerializeToString()
    mixed = MixedGraph(source, quantized[case]).with_float([])
    assert np.array_equal(run(mixed), run(quantized[case]))
    assert len(mixed.graph.node) == len(quantized[case].graph.node)
    assert len(mixed.graph.initializer) == len(quantized[case].graph.initializer)
    assert quantized[case].SerializeToString() == before


@pytest.mark.parametrize("case", CASES)
def test_with_everything_kept_back_it_is_the_float_network(
    case: str, source: onnx.ModelProto, quantized: dict[str, onnx.ModelProto], run: Run
) -> None:
    graph = MixedGraph(source, quantized[case])
    mixed = graph.with_float([layer.name for layer in graph.layers])
    assert np.array_equal(run(mixed), run(source))
    assert [node.name for node in mixed.graph.node] == [node.name for node in source.graph.node]
    assert {weight.name for weight in mixed.graph.initializer} == {weight.name for weight in source.graph.initializer}


@pytest.mark.parametrize("case", CASES)
def test_layers_are_what_has_weights_and_what_joins_branches(
    case: str, source: onnx.ModelProto, quantized: dict[str, onnx.ModelProto]
) -> None:
    graph = MixedGraph(source, quantized[case])
    assert {layer.name: layer.type for layer in graph.layers} == LAYERS
    names = set(LAYERS)
    assert graph.quantizes([]) and graph.quantizes(names - {"fc/Gemm"})
    assert not graph.quantizes(names) and not graph.quantizes(names - {"layer2.0/Add"}), "an Add alone gains nothing"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["stem/Conv", "layer1.0.conv2/Conv", "layer2.0/Add", "fc/Gemm"])
def test_a_layer_kept_back_reads_what_the_float_network_has_it_read(
    case: str, name: str, source: onnx.ModelProto, quantized: dict[str, onnx.ModelProto], run: Run
) -> None:
    graph = MixedGraph(source, quantized[case])
    mixed = graph.with_float([name])
    rounded = read_through_pairs(mixed)
    assert name not in rounded and rounded & set(LAYERS) == set(LAYERS) - {name}
    mine = next(node for node in mixed.graph.node if node.name == name)
    theirs = next(node for node in source.graph.node if node.name == name)
    assert list(mine.input) == list(theirs.input), "the same tensors, the same weights"
    closer = np.linalg.norm(run(mixed) - run(source))
    alone = graph.with_float([other for other in LAYERS if other != name])
    assert read_through_pairs(alone) & set(LAYERS) == {name}
    assert np.linalg.norm(run(alone) - run(source)) > 0 and closer > 0


def test_a_relu_that_rounding_stood_for_is_there_again_where_its_reader_is_in_floating_point(
    source: onnx.ModelProto, quantized: dict[str, onnx.ModelProto]
) -> None:
    """layer1.0.relu/Relu lies between conv1 and conv2; the library left it out, since the unsigned pair clips."""
    relu = "layer1.0.relu/Relu"
    assert relu not in {node.name for node in quantized["onnxruntime"].graph.node}
    graph = MixedGraph(source, quantized["onnxruntime"])
    assert relu in {node.name for node in graph.with_float(["layer1.0.conv2/Conv"]).graph.node}
    assert relu not in {node.name for node in graph.with_float(["layer1.0.conv1/Conv"]).graph.node}


def pair(value: str, scale: str = "s") -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [value, scale, "z"], [f"{value}_q"], name=f"{value}/Q"),
        helper.make_node("DequantizeLinear", [f"{value}_q", scale, "z"], [f"{value}_dq"], name=f"{value}/DQ"),
    ]


def model_of(nodes: list[onnx.NodeProto], opset: int = 20, end: str = "y") -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(np.float32(0.05), "s"),
        numpy_helper.from_array(np.uint8(128), "z"),
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", end)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_a_pair_at_an_output_goes_with_the_node_that_makes_it() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    source = model_of([product])
    last = pair("before")
    last[1].output[0] = "y"
    rounded = model_of([*pair("x"), helper.make_node("MatMul", ["x_dq", "w"], ["before"], name="product"), *last])
    graph = MixedGraph(source, rounded)
    whole, kept = graph.with_float([]), graph.with_float(["product"])
    assert [node.op_type for node in whole.graph.node] == [node.op_type for node in rounded.graph.node]
    assert whole.graph.node[-1].output[0] == "y"
    assert [node.op_type for node in kept.graph.node] == ["MatMul"] and kept.graph.node[0].output[0] == "y"


def test_what_lies_between_goes_with_the_layer_that_reads_it() -> None:
    """A pool that reads a pair, and a product that reads the pool through another: in floating point, both read no pair."""
    names = [("Flatten", "x", "a"), ("Sigmoid", "a", "b")]
    between = [helper.make_node(kind, [given], [made], name=kind) for kind, given, made in names]
    source = model_of([*between, helper.make_node("MatMul", ["b", "w"], ["y"], name="product")])
    rounded = model_of(
        [
            *pair("x"),
            helper.make_node("Flatten", ["x_dq"], ["a"], name="Flatten"),
            *pair("a"),
            helper.make_node("Sigmoid", ["a_dq"], ["b"], name="Sigmoid"),
            *pair("b"),
            helper.make_node("MatMul", ["b_dq", "w"], ["y"], name="product"),
        ]
    )
    graph = MixedGraph(source, rounded)
    assert [layer.name for layer in graph.layers] == ["product"]
    assert [node.op_type for node in graph.with_float(["product"]).graph.node] == ["Flatten", "Sigmoid", "MatMul"]


def test_a_network_that_the_quantizer_changed_is_refused() -> None:
    product = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    source = model_of([product])
    scaled = [
        helper.make_node("Mul", ["x", "s"], ["x2"], name="smooth_quant/Mul"),
        helper.make_node("MatMul", ["x2", "w"], ["y"], name="product"),
    ]
    with pytest.raises(PassFault, match=r"changed the network itself \(node 'smooth_quant/Mul', Mul\).*switch off"):
        MixedGraph(source, model_of(scaled))
    two = [
        helper.make_node("Sigmoid", ["x"], ["a"], name="gate"),
        helper.make_node("MatMul", ["a", "w"], ["y"], name="product"),
    ]
    with pytest.raises(PassFault, match=r"took the node 'gate' \(Sigmoid\) away"):
        MixedGraph(model_of(two), source)
    with pytest.raises(PassFault, match="changed the opset"):
        MixedGraph(source, model_of([product], opset=19))


def test_what_the_user_keeps_back_stays_so(
    float_model: OnnxModel, source: onnx.ModelProto, images: Array, cpu: QuantizationProfile, tmp_path: Path
) -> None:
    from accel.compress.ignored_scope import IgnoredScope

    step = QuantizeStaticOnnxRuntime(ignored_scope=IgnoredScope(names=("fc/Gemm", "layer2.0.conv1/Conv")))
    task: Any = _Images(images)
    result = step(float_model, replace(Job.local(tmp_path, task=task), profile=cpu))
    graph = MixedGraph(source, load(result.path))
    stored = {weight.name for weight in graph.with_float([]).graph.initializer}
    assert {"fc.weight", "layer2.0.conv1.weight"} <= stored
    assert not graph.quantizes(set(LAYERS) - {"fc/Gemm", "layer2.0.conv1/Conv"})
