"""Axes that vary: samples of any size calibrate, together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from accel.compress.calibration import Calibration, NncfCalibration
from accel.compress.export_onnx import ExportOnnx
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Batch, Job
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel

MakeJob = Callable[..., Job]
SIZES = ((12, 20), (9, 9), (16, 8), (24, 31))


class AnySize:
    """One sample of each size; the last is larger in value, too."""

    def has(self, split: str) -> bool:
        return split == "calibration"

    def calibration(self) -> Iterable[Batch]:
        for number, (height, width) in enumerate(SIZES, 1):
            drawn = np.random.default_rng(number).standard_normal((2, 3, height, width))
            yield Batch({"image": (number * drawn).astype(np.float32)})


class Everywhere(nn.Module):
    """Convolutions, and a mean over whatever size there is."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(image))))
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    torch.manual_seed(3)
    signature = Signature(
        (TensorSpec("image", ("batch", 3, "height", "width"), "float32"),), (TensorSpec("logits", ("batch", 5), "float32"),)
    )
    job = Job.local(tmp_path_factory.mktemp("float"))
    return ExportOnnx()(TorchModel(module=Everywhere().eval(), signature=signature), job)


def run(path: Path, image: Any) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, {"image": image})[0]


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy", "nncf"])
def test_samples_of_several_sizes_calibrate_and_the_file_takes_any(
    method: Literal["minmax", "percentile", "entropy", "nncf"], file: OnnxModel, make_job: MakeJob
) -> None:
    step: QuantizeStaticOnnxRuntime | QuantizeStaticNncf
    if method == "nncf":
        step = QuantizeStaticNncf(calibration=NncfCalibration(num_samples=8))
    else:
        step = QuantizeStaticOnnxRuntime(calibration=Calibration(method=method, num_samples=8))
    result = step(file, make_job(task=AnySize()))
    assert result.signature == file.signature
    for number, (height, width) in enumerate((*SIZES, (40, 13)), 1):
        image = np.random.default_rng(number).standard_normal((3, 3, height, width)).astype(np.float32)
        found, wanted = run(result.path, image), run(file.path, image)
        assert found.shape == wanted.shape
        assert np.linalg.norm(found - wanted) < 0.1 * np.linalg.norm(wanted)


def test_every_size_counts_for_the_ranges(file: OnnxModel, make_job: MakeJob) -> None:
    """The last sample reaches four times as far as the first: without it, the input's scale would be a quarter."""
    few = QuantizeStaticOnnxRuntime(calibration=Calibration(num_samples=2))(file, make_job(task=AnySize(), folder="few"))
    every = QuantizeStaticOnnxRuntime(calibration=Calibration(num_samples=8))(file, make_job(task=AnySize(), folder="every"))

    def scale(model: OnnxModel) -> float:
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(str(model.path)).graph
        name = next(node.input[1] for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "image")
        return float(numpy_helper.to_array(next(weight for weight in graph.initializer if weight.name == name)))

    assert scale(every) > 2.5 * scale(few)
