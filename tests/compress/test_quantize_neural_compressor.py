"""neural-compressor before ``export_onnx``: folded weights, both runtimes, the same model read back."""

from __future__ import annotations

import copy
import io
import json
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from accel.accelerate.tensorrt_engine import TensorRt
from accel.compress.calibration import NeuralCompressorCalibration
from accel.compress.edits import edits_of, from_json, replay_, to_json
from accel.compress.export_onnx import ExportOnnx
from accel.compress.prune import Prune
from accel.compress.quantize_aware import IgnoredModules
from accel.compress.quantize_neural_compressor import QuantizeStaticNeuralCompressor, QuantizeWeightOnlyNeuralCompressor, core
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Job
from accel.errors import MissingBackend, ModelFault, PassFault
from accel.model import NeuralCompressed, OnnxModel, Target, TorchModel
from accel.onnx_graph import quantization

Array = NDArray[Any]
MakeJob = Callable[..., Job]


def outputs_of(module: nn.Module, images: Array) -> Array:
    with torch.no_grad():
        found: Array = module(torch.from_numpy(images)).numpy()
    return found


def decibels(found: Array, wanted: Array) -> float:
    return float(10 * np.log10((wanted.astype(np.float64) ** 2).sum() / ((found - wanted).astype(np.float64) ** 2).sum()))


library = pytest.mark.skipif(find_spec("neural_compressor") is None, reason="the extra neural-compressor is not installed")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def quantized(
    torch_model: TorchModel, images: Array, make_task: Any, cpu: Any, tmp_path_factory: pytest.TempPathFactory
) -> TorchModel:
    job = Job.local(tmp_path_factory.mktemp("quantized"), make_task(images), profile=cpu)
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        result = QuantizeStaticNeuralCompressor()(torch_model, job)
    assert told.getvalue() == "", "the library logs much"
    return result


@pytest.fixture(scope="module")
def file(quantized: TorchModel, execute: Any, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return ExportOnnx()(quantized, Job.local(tmp_path_factory.mktemp("file"), execute=execute))


@library
def test_it_computes_what_int8_will(
    quantized: TorchModel, torch_model: TorchModel, images: Array, file: OnnxModel, execute: Any
) -> None:
    wanted = outputs_of(torch_model.module, images)
    found = outputs_of(quantized.module, images)
    assert 25 < decibels(found, wanted) < 60, "rounded, and still the network"
    assert decibels(np.asarray(execute(file.path, {"image": images})[0]), found) > 30
    assert quantized.notes[0] == "quantized: 7 layers"


@library
def test_the_file_holds_int8_weights_and_is_no_larger_than_the_defaults(
    file: OnnxModel, float_model: OnnxModel, make_job: MakeJob
) -> None:
    default = QuantizeStaticOnnxRuntime()(float_model, make_job(folder="default"))
    assert file.path.stat().st_size <= 1.1 * default.path.stat().st_size
    graph = onnx.load(str(file.path)).graph
    floats = [w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) > 1]
    assert floats == [], "a weight left in float32"
    weights = {w.name for w in graph.initializer}
    assert not [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] in weights], "a weight that is rounded"
    assert quantization(onnx.load(str(file.path))).floating == quantization(onnx.load(str(default.path))).floating


@library
def test_openvino_runs_it_in_int8(file: OnnxModel, quantized: TorchModel, images: Array, tmp_path: Path) -> None:
    from accel.accelerate.openvino_model import OpenVino

    with OpenVino().compile(file, Target("t", "openvino", batch=len(images)), tmp_path) as runner:
        found = np.asarray(runner({"image": images})[0])
        precision = runner.executed_precision()
    assert decibels(found, outputs_of(quantized.module, images)) > 30
    assert precision.int8_operators == precision.quantized_operators > 0


@library
def test_it_reads_back_as_it_was(quantized: TorchModel, torch_model: TorchModel, images: Array) -> None:
    record = json.loads(json.dumps(to_json(edits_of(quantized.module))))
    assert [entry["edit"] for entry in record] == ["neural_compressed"]
    fresh = copy.deepcopy(torch_model.module)
    for parameter in fresh.parameters():
        nn.init.normal_(parameter)  # what the factory draws is not what was trained
    back = replay_(fresh, from_json(record), torch_model.signature)
    back.load_state_dict(quantized.module.state_dict(), strict=True)
    assert np.array_equal(outputs_of(back.eval(), images), outputs_of(quantized.module, images))
    assert edits_of(back) == edits_of(quantized.module)


@library
def test_another_version_is_refused(quantized: TorchModel, torch_model: TorchModel) -> None:
    (edit,) = edits_of(quantized.module)
    assert isinstance(edit, NeuralCompressed)
    with pytest.raises(ModelFault, match=r"neural-compressor 3\.1; here are .* install those versions"):
        replay_(torch_model.module, [replace(edit, neural_compressor="3.1")], torch_model.signature)


@library
def test_the_model_that_goes_in_stays_as_it_is(torch_model: TorchModel, make_job: MakeJob) -> None:
    before = {name: value.clone() for name, value in torch_model.module.state_dict().items()}
    flags = [part.training for part in torch_model.module.modules()]
    QuantizeStaticNeuralCompressor(calibration=NeuralCompressorCalibration(num_samples=8))(torch_model, make_job())
    after = torch_model.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert [part.training for part in torch_model.module.modules()] == flags
    assert edits_of(torch_model.module) == ()


@library
def test_what_is_ignored_stays_in_floating_point(
    torch_model: TorchModel, make_job: MakeJob, execute: Any, tmp_path: Path
) -> None:
    step = QuantizeStaticNeuralCompressor(ignored_scope=IgnoredModules(names=("layer1.0.conv1",), patterns=("fc",)))
    result = step(torch_model, make_job())
    assert "layer1.0.conv1 (conv2d) kept in floating point: in ignored_scope" in result.notes
    assert "fc (linear) kept in floating point: in ignored_scope" in result.notes
    file = ExportOnnx()(result, make_job(folder="file"))
    assert set(quantization(onnx.load(str(file.path))).floating) == {"layer1.0.conv1/Conv", "fc/Gemm"}
    with pytest.raises(PassFault, match="ignored_scope: 'layer9' matches no module"):
        replaced = replace(step, ignored_scope=IgnoredModules(names=("layer9",)))
        replaced(torch_model, make_job(folder="wrong"))


@library
def test_nothing_left_to_quantize_is_an_error(torch_model: TorchModel, make_job: MakeJob) -> None:
    step = QuantizeStaticNeuralCompressor(ignored_scope=IgnoredModules(patterns=(".*",)))
    with pytest.raises(PassFault, match=r"changed nothing: .* in ignored_scope"):
        step(torch_model, make_job())


@library
def test_mse_takes_one_histogram_of_all_batches(torch_model: TorchModel, make_job: MakeJob, images: Array) -> None:
    """The extremes of 32 samples, moved by a hundredth of those of the other 8, are no histogram of all 40."""
    mse = QuantizeStaticNeuralCompressor(calibration=NeuralCompressorCalibration(method="mse"))(torch_model, make_job())
    whole = QuantizeStaticNeuralCompressor()(torch_model, make_job(folder="whole"))

    def first_scale(model: TorchModel) -> float:
        state = model.module.state_dict()
        return float(state[next(name for name in state if name.endswith("activation_post_process_0.scale"))][0])

    widest = float(images.max() - images.min()) / 255
    assert first_scale(whole) < 0.98 * widest
    assert first_scale(whole) < first_scale(mse) < 1.001 * widest


@library
def test_symmetric_activations_are_refused(torch_model: TorchModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match=r"unsigned activations .* approach: qat"):
        QuantizeStaticNeuralCompressor()(torch_model, make_job(profile=TensorRt.quantization))


@library
def test_a_second_quantization_and_a_later_pruning_are_refused(quantized: TorchModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match="prepared already"):
        QuantizeStaticNeuralCompressor()(quantized, make_job())
    with pytest.raises(PassFault, match="prune it before quantize"):
        Prune(pruning_ratio=0.5)(quantized, make_job(folder="pruned"))


@library
def test_what_runs_in_int8_on_onnx_runtime(file: OnnxModel, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file.path), options, providers=["CPUExecutionProvider"])
    executed = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert executed["QLinearConv"] >= 3, "those whose output another layer reads; additions stay in floating point"


def test_without_the_library_the_way_out_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, torch_model: TorchModel, make_job: MakeJob
) -> None:
    monkeypatch.setitem(sys.modules, "neural_compressor", None)
    ours = ("pt2e_neural_compressor", "weights_neural_compressor", "neural_compressor_library")
    rooms = tuple(f"accel.compress.{name}" for name in ours)
    for name in [name for name in sys.modules if name.startswith(("neural_compressor.", *rooms))]:
        monkeypatch.delitem(sys.modules, name)
    import accel.compress as room

    for name in ours:
        monkeypatch.delattr(room, name, raising=False)
    with pytest.raises(MissingBackend, match=r"neural_compressor.* is not installed; pip install 'accel-toolkit\[neural-comp"):
        core()
    with pytest.raises(MissingBackend):
        QuantizeStaticNeuralCompressor()(torch_model, make_job())
    with pytest.raises(MissingBackend):
        QuantizeWeightOnlyNeuralCompressor()(torch_model, make_job())
