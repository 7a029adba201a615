"""A residual net, a task over arrays and a job that runs files on ONNX Runtime, for the tests of passes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from accel.compress.export_onnx import ExportOnnx
from accel.contracts import Batch, Job, Predict, QuantizationProfile, Score, Split
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel

Array = NDArray[Any]


class Block(nn.Module):
    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.down: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.down = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: torch.Tensor = self.relu(y + self.down(x))
        return out


class ResidualNet(nn.Module):
    """Six convolutions, two additions, a linear layer; batch norms with statistics that are not the initial ones."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        x = self.layer2(self.layer1(x))
        out: torch.Tensor = self.fc(x.mean((2, 3)))
        return out


class ArraysTask:
    """Calibration data from one array (n, ...) for input ``image``; nothing else."""

    def __init__(self, images: Array | None, batch: int = 8) -> None:
        self.images = images
        self.batch = batch

    def calibration(self) -> Iterable[Batch]:
        images = np.empty(0) if self.images is None else self.images
        for start in range(0, len(images), self.batch):
            yield Batch({"image": images[start : start + self.batch]})

    def training(self) -> Iterable[Batch]:
        raise AssertionError("no pass of these tests may read training data")

    selection = validation = training

    def has(self, split: Split) -> bool:
        return split == "calibration" and self.images is not None

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        raise AssertionError("no pass of these tests may judge")


def run_on_onnxruntime(path: Path, inputs: Mapping[str, Array]) -> Sequence[Any]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    outputs: Sequence[Array] = session.run(None, dict(inputs))
    return outputs


def randomized(module: nn.Module) -> nn.Module:
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.3)
            part.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.3)
    return module.eval()


@pytest.fixture(scope="session")
def images() -> Array:
    """(40, 1, 16, 16) float32, a few values far outside the rest."""
    drawn = np.random.default_rng(1).standard_normal((40, 1, 16, 16)).astype(np.float32)
    drawn[3, 0, 2, 2] = 14.0
    return drawn


@pytest.fixture(scope="session")
def make_task() -> Callable[..., ArraysTask]:
    return ArraysTask


@pytest.fixture(scope="session")
def torch_model() -> TorchModel:
    torch.manual_seed(0)
    signature = Signature(
        (TensorSpec("image", ("batch", 1, 16, 16), "float32"),), (TensorSpec("logits", ("batch", 10), "float32"),)
    )
    return TorchModel(module=randomized(ResidualNet()), signature=signature)


@pytest.fixture(scope="session")
def execute() -> Callable[[Path, Mapping[str, Array]], Sequence[Array]]:
    return run_on_onnxruntime


@pytest.fixture(scope="session")
def float_model(torch_model: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """The residual net as ``export_onnx`` writes it; not to be changed."""
    job = Job.local(tmp_path_factory.mktemp("float"), execute=run_on_onnxruntime)
    return ExportOnnx()(torch_model, job)


@pytest.fixture
def make_job(tmp_path: Path, images: Array, cpu: QuantizationProfile) -> Callable[..., Job]:
    """``make_job(task=..., profile=..., folder=...)``: by default the images, the CPU's profile, a folder of the test's own."""

    def make(**settings: Any) -> Job:
        folder = tmp_path / str(settings.pop("folder", "step"))
        folder.mkdir(exist_ok=True)
        settings.setdefault("task", ArraysTask(images))
        settings.setdefault("profile", cpu)
        return Job.local(folder, execute=run_on_onnxruntime, **settings)

    return make


@pytest.fixture(scope="session")
def cpu() -> QuantizationProfile:
    return QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime")


@pytest.fixture(scope="session")
def tensorrt() -> QuantizationProfile:
    return QuantizationProfile("int8", True, "per_channel", "float", True, "onnxruntime")
