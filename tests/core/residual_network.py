"""A small residual network as an ONNX file, and as the Q/DQ files that the project's own quantizer makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from accel import catalog
from accel.contracts import Batch, Job, QuantizationProfile
from accel.onnx_file import read

CONVOLUTIONS = ("stem/Conv", "block0.conv1/Conv", "block0.conv2/Conv", "block1.conv1/Conv", "block1.conv2/Conv")


def network(path: Path, *, channels: int = 8, scale: float = 1.0) -> Path:
    """Five convolutions, two with a residual addition behind; ``scale``: what the fourth's weights are multiplied by."""
    values = np.random.default_rng(0)
    tensors: dict[str, Any] = {}
    nodes: list[Any] = []

    def conv(source: str, made: str, inputs: int, name: str) -> None:
        weights = values.standard_normal((channels, inputs, 3, 3)) / np.sqrt(9 * inputs)
        tensors[f"{name}.w"] = (weights * (scale if name == "block1.conv1" else 1.0)).astype(np.float32)
        tensors[f"{name}.b"] = (0.1 * values.standard_normal(channels)).astype(np.float32)
        nodes.append(
            helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [made], name=f"{name}/Conv", pads=[1, 1, 1, 1])
        )

    def relu(source: str, made: str, name: str) -> None:
        nodes.append(helper.make_node("Relu", [source], [made], name=f"{name}/Relu"))

    conv("x", "a", 3, "stem")
    relu("a", "h", "stem")
    value = "h"
    for index in range(2):
        conv(value, f"c{index}", channels, f"block{index}.conv1")
        relu(f"c{index}", f"d{index}", f"block{index}.act1")
        conv(f"d{index}", f"e{index}", channels, f"block{index}.conv2")
        nodes.append(helper.make_node("Add", [f"e{index}", value], [f"f{index}"], name=f"block{index}/Add"))
        value = f"h{index}"
        relu(f"f{index}", value, f"block{index}.act2")
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["p"], name="pool/GlobalAveragePool"))
    nodes.append(helper.make_node("Flatten", ["p"], ["q"], name="flat/Flatten"))
    tensors["fc.w"] = values.standard_normal((10, channels)).astype(np.float32)
    tensors["fc.b"] = np.zeros(10, np.float32)
    nodes.append(helper.make_node("Gemm", ["q", "fc.w", "fc.b"], ["y"], name="fc/Gemm", transB=1))
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 10]),
    ]
    weights = [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


class _Noise:
    def calibration(self) -> Iterator[Batch]:
        values = np.random.default_rng(1)
        for _ in range(2):
            yield Batch({"x": values.standard_normal((8, 3, 16, 16)).astype(np.float32)})

    def has(self, split: str) -> bool:
        return split == "calibration"


def quantized(path: Path, folder: Path, backend: str, *, kept: tuple[str, ...] = (), **changes: Any) -> Path:
    """In the dialect of ``backend``, with ``changes``, by onnxruntime's quantizer. ``kept``: nodes that stay in float."""
    from accel.compress.ignored_scope import IgnoredScope
    from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime

    folder.mkdir()
    profile: QuantizationProfile = replace(catalog.backend(backend).quantization, **changes)
    task: Any = _Noise()
    step = QuantizeStaticOnnxRuntime(ignored_scope=IgnoredScope(names=kept))
    return step(read(path), replace(Job.local(folder, task), profile=profile)).path
