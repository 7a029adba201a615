"""Files that accel's own passes make: those for TensorRT are clean and are taken, those for CPUs are found out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from tests.accelerate.lint.cases import builds, parsed
from torch import Tensor, nn

from accel.accelerate.lint_tensorrt import lint, lint_rtx
from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.accelerate.tensorrt_engine import TensorRt
from accel.compress.export_onnx import ExportOnnx
from accel.compress.quantize_aware import PROFILES, convert_qat, prepare_qat
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Batch, Job, QuantizationProfile
from accel.errors import AccelError
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel

SIGNATURE = Signature(
    (TensorSpec("image", ("batch", 3, 12, 12), "float32"),), (TensorSpec("logits", ("batch", 10), "float32"),)
)
IMAGES = np.random.default_rng(0).standard_normal((16, 3, 12, 12)).astype(np.float32)
MakeFile = Callable[[str], OnnxModel]


class Residual(nn.Module):
    """Every kind of weighted operator, a residual addition with an identity and one with a convolution on the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second, self.skip = nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(8, 16, 1, 2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.deep = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.first(x))
        x = torch.relu(self.second(x) + self.skip(x))
        out: Tensor = self.head(torch.relu(self.deep(self.up(x))).mean((2, 3)))
        return out


class Images:
    def has(self, split: str) -> bool:
        return split == "calibration"

    def calibration(self) -> Iterable[Batch]:
        return [Batch({"image": IMAGES})]


def trained(net: nn.Module, profile: QuantizationProfile) -> TorchModel:
    """Some steps of quantization-aware training, with what it gives."""
    images = torch.from_numpy(IMAGES)
    prepared = prepare_qat(net, images, profile).train()
    optimizer = torch.optim.SGD(prepared.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        loss: Tensor = prepared(images).square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return TorchModel(module=convert_qat(prepared.eval()), signature=SIGNATURE)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Residual().eval()
    made: dict[str, OnnxModel] = {}
    profiles = {"cpu": OnnxRuntime.quantization, "tensorrt": TensorRt.quantization}
    profiles["tensorrt, skip"] = replace(TensorRt.quantization, quantize_residual_add=True)

    def job(profile: QuantizationProfile | None = None) -> Job:
        return Job.local(tmp_path_factory.mktemp("made"), task=Images(), profile=profile)  # type: ignore[arg-type]

    def file(name: str) -> OnnxModel:
        if name not in made:
            engine, _, dialect = name.partition(" for ")
            if name == "float":
                made[name] = ExportOnnx()(TorchModel(module=net, signature=SIGNATURE), job())
            elif engine == "onnxruntime":
                made[name] = QuantizeStaticOnnxRuntime()(file("float"), job(profiles[dialect]))
            elif engine == "nncf":
                made[name] = QuantizeStaticNncf()(file("float"), job(profiles[dialect]))
            else:
                made[name] = ExportOnnx()(trained(net, profiles[dialect]), job(profiles[dialect]))
        return made[name]

    return file


def rules(path: Path, *, rtx: bool = False) -> Counter[str]:
    return Counter(finding.rule for finding in (lint_rtx if rtx else lint)(path))


def test_an_exported_network_is_clean_and_builds(make: MakeFile) -> None:
    path = make("float").path
    assert rules(path) == rules(path, rtx=True) == Counter()
    assert builds(path)


@pytest.mark.parametrize("engine", ["onnxruntime", "qat"])
def test_a_file_quantized_for_tensorrt_is_taken_and_builds(make: MakeFile, engine: str) -> None:
    """The skip through a convolution stays in float in the backend's profile: the one thing to say about it."""
    path = make(f"{engine} for tensorrt").path
    assert rules(path) == {"residual-float": 1}
    assert rules(path, rtx=True) == {"residual-float": 1, "int8-on-rtx": 7}
    assert builds(path)
    made, _ = parsed(path)
    network = made[0]
    kinds = Counter(str(network.get_layer(index).type).removeprefix("LayerType.") for index in range(network.num_layers))
    assert kinds["DEQUANTIZE"] >= 2 * kinds["CONVOLUTION"], "data and weights of each"


def test_with_the_skip_quantized_too_nothing_is_left_to_say(make: MakeFile) -> None:
    path = make("onnxruntime for tensorrt, skip").path
    assert rules(path) == Counter()
    assert builds(path)


@pytest.mark.parametrize("name", ["onnxruntime for cpu", "nncf for cpu"])
def test_a_file_quantized_for_cpus_is_found_out_as_the_parser_does(make: MakeFile, name: str) -> None:
    found = lint_rtx(make(name).path)
    errors = Counter(finding.rule for finding in found if finding.severity == "error")
    assert set(errors) == {"unsigned-activation", "zero-point"} | (set() if name.startswith("nncf") else {"int32-bias"})
    made, said = parsed(make(name).path)
    assert made is None
    assert "Non-zero zero point" in said[0]
    assert {finding.severity for finding in found[: sum(errors.values())]} == {"error"}, "errors come first"


def test_the_profile_for_training_code_gives_a_file_that_is_taken() -> None:
    ours, backends = PROFILES["tensorrt"], TensorRt.quantization
    assert replace(ours, quantize_residual_add=False) == replace(backends, quantize_residual_add=False)


def mutated(proto: onnx.ModelProto, random: np.random.Generator) -> onnx.ModelProto:
    """A copy with some inputs dropped or exchanged, attributes of other types, tensors of other types and shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    values = [name for node in copy.graph.node for name in (*node.input, *node.output)]
    for _ in range(4):
        node = copy.graph.node[random.integers(len(copy.graph.node))]
        tensor = copy.graph.initializer[random.integers(len(copy.graph.initializer))]
        change = random.integers(8)
        if change == 0 and node.input:
            del node.input[int(random.integers(len(node.input))) :]
        elif change == 1 and node.input:
            node.input[int(random.integers(len(node.input)))] = values[random.integers(len(values))]
        elif change == 2:
            node.op_type = ("Resize", "If", "Loop", "TopK", "Cast", "MaxPool", "Relu", "Nothing")[random.integers(8)]
        elif change == 3:
            node.domain = ("com.microsoft", "my")[random.integers(2)]
        elif change == 4:
            name = ("axis", "perm", "output_dtype", "block_size", "mode", "dilations", "body")[random.integers(7)]
            given = ("text", 3, [1, 9], 0.5)[random.integers(4)]
            node.attribute.append(onnx.helper.make_attribute(name, given))
        elif change == 5:
            tensor.data_type = int(random.integers(26))
        elif change == 6:
            tensor.dims.append(int(random.integers(4)))
        else:
            del node.output[:]
    return copy


def test_damaged_files_give_findings_or_an_error_of_ours(make: MakeFile, tmp_path: Path) -> None:
    """No exception of Python's: that would be exit code 70."""
    proto = onnx.load(str(make("onnxruntime for cpu").path))
    path = tmp_path / "m.onnx"
    random = np.random.default_rng(7)
    told = 0
    for _ in range(60):
        path.write_bytes(mutated(proto, random).SerializeToString())
        try:
            told += bool(lint(path)) + bool(lint_rtx(path))
        except AccelError:
            told += 1
    assert told > 60
