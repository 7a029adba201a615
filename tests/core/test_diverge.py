"""``accel diverge`` on real runtimes: wrong weights, a runtime's own wrong fusion, and a torch module."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from rich.console import Console
from tests.accelerate.lint.cases import SCALE, model, node, pair
from tests.core.residual_network import network, quantized

from accel.commands.diverge import run
from accel.errors import UsageError, WorkFault

NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.act(self.second(self.act(self.bn(self.stem(x))))).mean((2, 3)))

def net():
    torch.manual_seed(7)
    return Net()
"""
RECIPE = """
version: 1
name: small
model:
  factory: network.py:net
  inputs:
    - {name: image, shape: [batch, 3, 8, 8], dtype: float32}
passes:
  - type: export_onnx
targets:
  - {name: ort, backend: onnxruntime}
"""


def diverged(path: Path, against: Path | None = None, *, code: int, as_json: bool = True, **changes: Any) -> Any:
    out = io.StringIO()
    settings: dict[str, Any] = {
        "backend": "onnxruntime", "vs_backend": None, "inputs": None, "batch_size": 2, "sizes": {}, "below_db": None,
        "allowed": [], "cache": lambda _: path.parent / "cache", "as_json": as_json,
        "out": Console(file=out, width=80),
    }  # fmt: skip
    pytest.importorskip("onnxruntime")
    assert run(path, against, **{**settings, **changes}) == code
    return json.loads(out.getvalue()) if as_json else out.getvalue()


def test_runtimes_that_agree(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = network(tmp_path / "net.onnx")
    text = diverged(path, backend="openvino", code=0, as_json=False)
    assert text.startswith(f"{path} on openvino agrees with net.onnx on ONNX Runtime without optimizations: no layer")
    found = diverged(path, backend="openvino", vs_backend="onnxruntime", code=0)
    assert found["first"] is None and len(found["steps"]) > 10


def test_a_layer_whose_weights_differ_is_the_first(tmp_path: Path) -> None:
    path, other = network(tmp_path / "a.onnx", scale=1.5), network(tmp_path / "b.onnx")
    found = diverged(path, other, code=1)
    assert found["first"]["node"] == "block1.conv1/Conv" and not found["fused"]
    text = diverged(path, other, code=1, as_json=False)
    assert "first differs from b.onnx on ONNX Runtime without optimizations at block1.conv1/Conv: " in text
    assert "> block1.conv1/Conv" in text and "the result: " in text


def test_int8_rounds_and_does_not_diverge(tmp_path: Path) -> None:
    plain = network(tmp_path / "net.onnx")
    path = quantized(plain, tmp_path / "int8", "onnxruntime")
    found = diverged(path, plain, code=0)
    assert found["below_db"] == 10
    assert min(step["sqnr_db"] for step in found["steps"] if step["sqnr_db"] is not None) < 40
    assert diverged(path, plain, code=1, below_db=60.0)["first"] is not None


def wrong_axis(path: Path) -> Path:
    """Scales along input channels: ONNX Runtime's fusion takes them for those of output channels (1.32.0)."""
    scales = np.linspace(0.001, 0.05, 4, dtype=np.float32)
    weights = np.random.default_rng(0).integers(-127, 128, (4, 4, 3, 3)).astype(np.int8)
    nodes = [
        *pair("x", "x_d"),
        node("DequantizeLinear", "w w_s", "w_d", axis=1),
        node("Conv", "x_d w_d", "c", name="layer/op"),
        *pair("c", "y"),
    ]
    path.write_bytes(model(nodes, {"s": SCALE, "z": np.uint8(128), "w": weights, "w_s": scales}).SerializeToString())
    return path


def test_a_wrong_fusion_shows_only_where_a_value_is_looked_at_alone(tmp_path: Path) -> None:
    path = wrong_axis(tmp_path / "axis.onnx")
    found = diverged(path, code=1, batch_size=1)
    assert found["fused"] and found["first"]["node"] == "y/DequantizeLinear"
    assert all(step["sqnr_db"] is None or step["sqnr_db"] > 40 for step in found["steps"])
    text = diverged(path, code=1, batch_size=1, as_json=False)
    assert "a fusion of the runtime is to blame" in text
    assert diverged(path, code=0, batch_size=1, backend="openvino")["first"] is None


@pytest.mark.slow  # torch is imported in two processes, and its exporter runs
def test_the_torch_module_of_a_recipe(tmp_path: Path) -> None:
    import torch

    from accel.compress.export_onnx import ExportOnnx
    from accel.contracts import Job
    from accel.model import Signature, TensorSpec, TorchModel

    (tmp_path / "network.py").write_text(NETWORK)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    made: dict[str, Any] = {}
    exec(NETWORK, made)
    torch.manual_seed(0)
    module = made["net"]().eval()
    spec = (TensorSpec("image", ("batch", 3, 8, 8), "float32"),)
    signature = Signature(spec, (TensorSpec("scores", ("batch", 4), "float32"),))
    path = ExportOnnx()(TorchModel(module=module, signature=signature), Job.local(tmp_path)).path
    found = diverged(path, recipe, code=0)
    assert {"stem/Conv", "second/Conv"} <= {step["node"] for step in found["steps"]}

    proto = onnx.load(str(path))
    (conv,) = [each for each in proto.graph.node if each.name == "second/Conv"]
    (weight,) = [each for each in proto.graph.initializer if each.name == conv.input[1]]
    weight.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(weight), weight.name))
    (tmp_path / "wrong.onnx").write_bytes(proto.SerializeToString())
    assert diverged(tmp_path / "wrong.onnx", recipe, code=1)["first"]["node"] == "second/Conv"


def test_own_inputs_are_taken(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3, 16, 16), np.float32))
    assert diverged(path, inputs=tmp_path / "x.npz", code=0)["first"] is None


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    path = network(tmp_path / "net.onnx")
    other = wrong_axis(tmp_path / "axis.onnx")
    cases: list[tuple[Path, Path | None, dict[str, Any], type[Exception], str]] = [
        (tmp_path / "net.xml", None, {}, UsageError, "found .xml, allowed is .onnx"),
        (path, tmp_path / "net.xml", {}, UsageError, "allowed are .onnx, and .yaml"),
        (path, None, {"backend": "tensorrt"}, UsageError, "found 'tensorrt', allowed are onnxruntime, openvino"),
        (path, None, {"vs_backend": "onnxruntime"}, UsageError, "compared with itself"),
        (path, None, {"inputs": other}, UsageError, "allowed is an .npz file"),
        (path, None, {"below_db": float("nan")}, UsageError, "allowed is a number of decibels"),
        (path, other, {"batch_size": 1}, WorkFault, "no layer has one name in both"),
    ]
    for given, against, changes, kind, message in cases:
        with pytest.raises(kind, match=message):
            diverged(given, against, code=0, **changes)
