"""Small ONNX files for the tests of the TensorRT backend: one or two convolutions, whole and broken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

FLOATS = np.random.default_rng(0).standard_normal((8, 8, 3, 3)).astype(np.float32) / 10
WEIGHT = numpy_helper.from_array(FLOATS, "w")
IMAGE = ("batch", 8, 16, 16)


def conv(source: str = "image", weight: str = "w", bias: str = "", name: str = "conv1/Conv") -> NodeProto:
    inputs = [source, weight, bias] if bias else [source, weight]
    return helper.make_node("Conv", inputs, ["y"], name=name, pads=[1] * 4)


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    weights: Sequence[TensorProto] = (WEIGHT,),
    shape: Sequence[int | str] = IMAGE,
) -> Path:
    image, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name in ("image", "y"))
    graph = helper.make_graph(list(nodes), "small", [image], [result], list(weights))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def floating(path: Path, shape: Sequence[int | str] = IMAGE) -> Path:
    return save(path, [conv()], shape=shape)


def residual(path: Path, blocks: int = 3) -> Path:
    """Convolutions with ReLU and additions between them, as in a ResNet."""
    nodes, source = [], "image"
    for index in range(blocks):
        nodes += [
            helper.make_node("Conv", [source, "w"], [f"a{index}"], name=f"layer{index}.conv/Conv", pads=[1] * 4),
            helper.make_node("Relu", [f"a{index}"], [f"b{index}"], name=f"layer{index}.relu/Relu"),
            helper.make_node("Add", [f"b{index}", source], [f"c{index}"], name=f"layer{index}/Add"),
        ]
        source = f"c{index}"
    return save(path, [*nodes, conv(source, name="head/Conv")])


def quantized(path: Path, *, zero_point: int = 0, unsigned: bool = False, bias: str = "float") -> Path:
    """One convolution with Q/DQ on data and weights; ``bias``: ``float``, or ``int32`` behind a DequantizeLinear."""
    rounded = np.clip(np.round(FLOATS / 0.003), -127, 127).astype(np.int8)
    weights = [
        numpy_helper.from_array(rounded, "wq"),
        numpy_helper.from_array(np.full(8, 0.003, np.float32), "ws"),
        numpy_helper.from_array(np.zeros(8, np.int8), "wz"),
        numpy_helper.from_array(np.array(0.02, np.float32), "s"),
        numpy_helper.from_array(np.array(zero_point, np.uint8 if unsigned else np.int8), "z"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], name="conv1/QuantizeLinear"),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["dq"], name="conv1/DequantizeLinear"),
        helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], name="conv1/weight", axis=0),
    ]
    if bias == "float":
        weights.append(numpy_helper.from_array(np.ones(8, np.float32), "b"))
    else:
        weights += [
            numpy_helper.from_array(np.arange(8, dtype=np.int32), "bq"),
            numpy_helper.from_array(np.full(8, 6e-5, np.float32), "bs"),
            numpy_helper.from_array(np.zeros(8, np.int32), "bz"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["bq", "bs", "bz"], ["b"], name="conv1/bias", axis=0))
    return save(path, [*nodes, conv("dq", "w", "b")], weights)
