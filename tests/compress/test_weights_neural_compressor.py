"""Weights in groups chosen by neural-compressor: what the exported file holds and computes, and the same model read back."""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.accelerate.openvino_model import OpenVino
from accel.compress.calibration import NeuralCompressorCalibration
from accel.compress.edits import edits_of, from_json, replay_, to_json
from accel.compress.export_onnx import ExportOnnx
from accel.compress.grouped_linear import GroupedLinear, grouped_layers
from accel.compress.prune import Prune
from accel.compress.quantize_aware import IgnoredModules
from accel.compress.quantize_neural_compressor import QuantizeStaticNeuralCompressor, QuantizeWeightOnlyNeuralCompressor
from accel.compress.saved import load_model, save
from accel.compress.sparsify import Sparsify
from accel.compress.weight_settings import LibraryWeights, WeightCalibration
from accel.contracts import Batch, Job, QuantizationProfile
from accel.errors import DataFault, MissingBackend, ModelFault, PassFault
from accel.model import OnnxModel, Signature, Target, TensorSpec, TorchModel
from accel.onnx_graph import quantization

Array = NDArray[Any]
WORDS, WIDTH, INNER, LENGTH = 50, 64, 160, 10
CPU = QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime")
pytestmark = pytest.mark.skipif(find_spec("neural_compressor") is None, reason="the extra neural-compressor is not installed")


class Block(nn.Module):
    """Attention and two layers behind a norm, which AWQ can scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)
        self.inner = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, INNER), nn.GELU(), nn.Linear(INNER, WIDTH))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm(x)
        scores = self.query(y) @ y.transpose(1, 2) / WIDTH**0.5 + mask
        x = x + functional.softmax(scores, -1) @ self.value(y)
        found: Tensor = x + self.inner(x)
        return found


class Net(nn.Module):
    """(n, length) ids and mask to (n, 12); the last layer has 48 inputs, one and a half groups of 32."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.head = nn.Linear(WIDTH, 48)
        self.odd = nn.Linear(48, 12)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids)
        for block in self.blocks:
            x = block(x, (1.0 - mask[:, None, :].to(torch.float32)) * -1e4)
        found: Tensor = self.odd(torch.relu(self.head(x.mean(1))))
        return found


SIGNATURE = Signature(
    (TensorSpec("ids", ("batch", "length"), "int64"), TensorSpec("mask", ("batch", "length"), "int64")),
    (TensorSpec("scores", ("batch", 12), "float32"),),
)
IN_STACK = tuple(f"blocks.{index}.{name}" for index in range(2) for name in ("query", "value", "inner.1", "inner.3"))


def net() -> nn.Module:
    torch.manual_seed(0)
    module = Net().eval()
    with torch.no_grad():
        for block in module.blocks:
            assert isinstance(block, Block)
            block.norm.weight[:4] *= 8.0  # channels that matter more
    return module


def rows(count: int = 16, seed: int = 1) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    mask = (np.arange(LENGTH) < random.integers(3, LENGTH + 1, (count, 1))).astype(np.int64)
    return {"ids": random.integers(1, WORDS, (count, LENGTH)) * mask, "mask": mask}


class Rows:
    def __init__(self, calibrates: bool = True) -> None:
        self.calibrates = calibrates

    def has(self, split: str) -> bool:
        return split == "calibration" and self.calibrates

    def calibration(self) -> Iterable[Batch]:
        yield Batch(rows(64, seed=5))


def outputs_of(module: nn.Module) -> Array:
    with torch.no_grad():
        found: Array = module(*map(torch.from_numpy, rows().values())).numpy()
    return found


def error(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def run(model: OnnxModel, backend: Any) -> Array:
    with backend.compile(model, Target("t", backend.name), model.path.parent) as runner:
        return np.asarray(runner(rows())[0])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model() -> TorchModel:
    return TorchModel(module=net(), signature=SIGNATURE)


@pytest.fixture
def job(tmp_path: Path, execute: Any) -> Job:
    return Job.local(tmp_path, task=Rows(), profile=CPU, execute=execute)  # type: ignore[arg-type]


def step(**weights: Any) -> QuantizeWeightOnlyNeuralCompressor:
    return QuantizeWeightOnlyNeuralCompressor(weights=LibraryWeights(**weights), calibration=WeightCalibration(num_samples=48))


@pytest.mark.parametrize(
    ("dtype", "symmetric", "algorithm"),
    [
        ("int4", False, "rtn"),
        ("int4", True, "rtn"),
        ("int8", False, "rtn"),
        ("int8", True, "rtn"),
        ("int4", False, "gptq"),
        ("int4", True, "gptq"),
        ("int8", False, "gptq"),
        ("int4", False, "awq"),
        ("int4", True, "awq"),
    ],
)
def test_the_file_computes_what_the_rounded_module_does(
    model: TorchModel, job: Job, dtype: str, symmetric: bool, algorithm: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    found = step(dtype=dtype, symmetric=symmetric, algorithm=algorithm)(model, job)
    assert capsys.readouterr() == ("", ""), "the library logs much"
    after = model.module.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], value) for name, value in before.items())
    assert not model.edits and all(parameter.requires_grad for parameter in model.module.parameters())
    wanted, rounded = outputs_of(model.module), outputs_of(found.module)
    assert 0 < error(rounded, wanted) < (0.02 if dtype == "int8" else 0.3)
    layers = grouped_layers(found.module)
    assert set(layers) == {*IN_STACK, *(["head"] if algorithm != "gptq" else [])}
    assert all(bool((layer.zeros == 2 ** (layer.bits - 1)).all()) == symmetric for layer in layers.values())

    file = ExportOnnx()(found, job)
    for backend in (OnnxRuntime(), OpenVino()):
        assert error(run(file, backend), rounded) < 0.03, "activations may be rounded, weights are the same"
    graph = onnx.load(str(file.path))
    onnx.checker.check_model(graph, full_check=True)
    kinds = Counter(tensor.data_type for tensor in graph.graph.initializer if tensor.name.endswith("_integers"))
    name = f"{'' if symmetric else 'U'}{dtype.upper()}"
    assert kinds == {onnx.TensorProto.DataType.Value(name): len(layers)}
    assert quantization(graph).weight_only == len(layers)


def test_integers_are_those_of_the_library(model: TorchModel, job: Job) -> None:
    """Held against rounding to the nearest, written out."""
    found = step(symmetric=False)(model, job)
    layer = grouped_layers(found.module)["blocks.0.query"]
    assert isinstance(model.module, Net)
    weight = model.module.get_parameter("blocks.0.query.weight").detach().reshape(WIDTH, -1, 32)
    low, high = weight.amin(2).clamp(max=0), weight.amax(2).clamp(min=0)
    scale = (high - low) / 15
    zero = (-low / scale).round()
    wanted = ((weight / scale[..., None]).round() + zero[..., None]).clamp(0, 15)
    assert torch.equal(layer.integers.reshape(WIDTH, -1, 32).to(torch.float32), wanted)
    assert torch.equal(layer.scales, scale) and torch.equal(layer.zeros.to(torch.float32), zero)
    assert torch.allclose(layer.weight.reshape(WIDTH, -1, 32), (wanted - zero[..., None]) * scale[..., None])


def test_gptq_and_awq_are_closer_than_rounding(model: TorchModel, job: Job) -> None:
    scope = IgnoredModules(names=("head",))
    wanted = outputs_of(model.module)
    errors = {}
    for algorithm in ("rtn", "gptq", "awq"):
        weights = LibraryWeights(algorithm=algorithm)
        found = QuantizeWeightOnlyNeuralCompressor(weights=weights, ignored_scope=scope)(model, job)
        errors[algorithm] = error(outputs_of(found.module), wanted)
    assert errors["gptq"] < errors["rtn"] and errors["awq"] < errors["rtn"], errors


def test_the_file_is_small_and_both_runtimes_keep_it_so(model: TorchModel, job: Job, tmp_path: Path) -> None:
    import onnxruntime

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(1024, 1536), nn.Linear(1536, 16)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.second(torch.relu(self.first(x)))
            return found

    spec = TensorSpec("x", ("batch", "length", 1024), "float32")  # three axes: Transpose and MatMul, not Gemm
    large = TorchModel(module=Large().eval(), signature=Signature((spec,), ()))
    plain = Job.local(tmp_path, execute=job.execute)
    file = ExportOnnx()(step()(large, plain), plain)
    values = 1024 * 1536 + 1536 * 16
    assert file.path.stat().st_size < values * (0.5 + 4.5 / 32) + 20_000, "half a byte, a scale and a zero point for 32"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    executed = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert executed["MatMulNBits"] == 2 and not executed["DequantizeLinear"] and not executed["MatMul"]


def test_what_is_left_is_named(model: TorchModel, job: Job) -> None:
    scope = IgnoredModules(names=("blocks.0.inner.1",), patterns=(r"blocks\.1\.(query|value)",))
    awq = LibraryWeights(algorithm="awq")
    found = QuantizeWeightOnlyNeuralCompressor(weights=awq, ignored_scope=scope)(model, job)
    left = {"blocks.0.inner.1", "blocks.1.query", "blocks.1.value"}
    assert set(grouped_layers(found.module)) == {*IN_STACK, "head"} - left
    assert found.notes[:5] == (
        (
            "quantized: 5 linear layers, weights in 4 bits by awq, a scale and a zero point for 32 each; "
            "activations stay in float32"
        ),
        (
            "quantized: 1 linear layers, weights in 4 bits by rtn, a scale and a zero point for 32 each; "
            "activations stay in float32"
        ),
        "words kept in floating point: left by neural-compressor, which quantizes nn.Linear and no Embedding",
        "blocks.0.inner.1, blocks.1.query, blocks.1.value kept in floating point: in ignored_scope",
        "odd kept in floating point: its inputs cannot be divided into groups of 32",
    )
    place = "blocks.0.inner.1.weight"
    assert torch.equal(found.module.get_parameter(place), model.module.get_parameter(place))


@pytest.mark.parametrize("algorithm", ["rtn", "awq"])
def test_it_reads_back_as_it_was(model: TorchModel, job: Job, tmp_path: Path, algorithm: str) -> None:
    found = step(algorithm=algorithm)(model, job)
    record = json.loads(json.dumps(to_json(edits_of(found.module))))
    assert [entry["edit"] for entry in record] == ["grouped_weights"]
    assert from_json(record) == found.edits
    save(found, tmp_path / "saved", factory=net)
    back = load_model(tmp_path / "saved", factory=net)
    assert np.array_equal(outputs_of(back.module), outputs_of(found.module))
    assert back.edits == found.edits and back.signature == found.signature
    files = []
    for name, each in (("a", found), ("b", back)):
        (tmp_path / name).mkdir()
        files.append(ExportOnnx()(each, Job.local(tmp_path / name, execute=job.execute)).path.read_bytes())
    assert files[0] == files[1]


def test_a_record_that_does_not_fit_is_refused(model: TorchModel, job: Job) -> None:
    (record,) = to_json(step()(model, job).edits)
    for changes, told in (
        ({"layers": ["blocks.7.query"]}, "it has no module 'blocks.7.query'"),
        ({"layers": ["words"]}, "words is no linear layer whose inputs can be divided into groups of 32"),
        ({"bits": 5}, "no integers of 5 bits"),
        ({"group_size": 0}, "in groups of 0"),
    ):
        with pytest.raises(ModelFault, match=told):
            replay_(copy.deepcopy(model.module), from_json([record | changes]), SIGNATURE)


def test_it_is_the_last_pass_that_changes_the_module(model: TorchModel, job: Job) -> None:
    found = step()(model, job)
    with pytest.raises(PassFault, match="a recipe has one quantize pass"):
        step()(found, job)
    calibration = NeuralCompressorCalibration(num_samples=8)
    with pytest.raises(PassFault, match="a recipe has one quantize pass"):
        QuantizeStaticNeuralCompressor(calibration=calibration)(found, job)
    with pytest.raises(PassFault, match="prune it before quantize"):
        Prune(pruning_ratio=0.5)(found, job)
    with pytest.raises(PassFault, match="put sparsify before quantize"):
        Sparsify(sparsity=0.5)(found, job)


def test_an_opset_without_blocks_is_refused(model: TorchModel, job: Job) -> None:
    with pytest.raises(PassFault, match=r"opset 20 has no DequantizeLinear in blocks.* set opset: 21 or leave it out"):
        ExportOnnx(opset=20)(step()(model, job), job)


def test_a_weight_that_is_read_in_another_way_is_not_shipped_in_float(job: Job, tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(32, 40, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.layer.weight

    odd = TorchModel(module=Odd().eval(), signature=Signature((TensorSpec("x", ("batch", 40), "float32"),), ()))
    plain = Job.local(tmp_path, execute=job.execute)
    with pytest.raises(PassFault, match="layer: forward uses its weight in another way"):
        ExportOnnx()(step()(odd, plain), plain)


def test_what_cannot_be_is_refused(model: TorchModel, job: Job, tmp_path: Path) -> None:
    bare = TorchModel(module=nn.Sequential(nn.Linear(32, 4)).eval(), signature=SIGNATURE)
    with pytest.raises(PassFault, match=r"awq in neural-compressor scales one stack of blocks.* algorithm: rtn"):
        step(algorithm="awq")(bare, job)
    with pytest.raises(PassFault, match=r"changed nothing: no nn.Linear is quantized .0: its inputs cannot be divided"):
        step(group_size=64)(bare, job)
    with pytest.raises(PassFault, match=r"'blocks.0.qery' matches no module .* did you mean 'blocks.0.query'"):
        QuantizeWeightOnlyNeuralCompressor(ignored_scope=IgnoredModules(names=("blocks.0.qery",)))(model, job)
    with pytest.raises(DataFault, match="calibration"):
        step(algorithm="awq")(model, Job.local(tmp_path, task=Rows(calibrates=False)))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="awq in neural-compressor searches its scales for int4"):
        LibraryWeights(dtype="int8", algorithm="awq")
    assert step().needs == frozenset() and step(algorithm="awq").needs == {"calibration"}


def test_autoround_is_refused_in_the_recipe() -> None:
    with pytest.raises(ValidationError, match=r"autoround .* language models of Hugging Face's .* set rtn, gptq or awq"):
        LibraryWeights(algorithm="autoround")  # type: ignore[arg-type]


def test_gptq_quantizes_one_stack_and_says_what_it_leaves(model: TorchModel, job: Job) -> None:
    scope = IgnoredModules(names=("blocks.0.inner.1",))
    found = QuantizeWeightOnlyNeuralCompressor(weights=LibraryWeights(algorithm="gptq"), ignored_scope=scope)(model, job)
    assert set(grouped_layers(found.module)) == set(IN_STACK) - {"blocks.0.inner.1"}
    assert "head kept in floating point: left by neural-compressor, whose gptq quantizes one stack of blocks" in found.notes
    assert "blocks.0.inner.1 kept in floating point: in ignored_scope" in found.notes


def test_without_accelerate_gptq_says_what_to_install(model: TorchModel, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("neural_compressor.torch.algorithms.layer_wise")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "neural_compressor.torch.algorithms.weight_only.gptq", raising=False)
    for name in ("accelerate", "accelerate.utils"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingBackend, match=r"accelerate is not installed; pip install 'accel-toolkit.neural-compressor.'"):
        step(algorithm="gptq")(model, job)


def test_a_layer_that_stands_twice_is_one(job: Job, tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(32, 32)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.second(torch.relu(self.first(x)))
            return found

    twice = TorchModel(module=Twice().eval(), signature=Signature((TensorSpec("x", ("batch", 32), "float32"),), ()))
    plain = Job.local(tmp_path, execute=job.execute)
    found = step()(twice, plain)
    assert isinstance(found.module.first, GroupedLinear) and found.module.first is found.module.second
    graph = onnx.load(str(ExportOnnx()(found, plain).path)).graph
    assert Counter(node.op_type for node in graph.node)["DequantizeLinear"] == 1
