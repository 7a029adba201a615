"""Through the pass, on ONNX Runtime: INT4 weights, learned rounding, corrected biases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from pydantic import TypeAdapter, ValidationError

from accel.accelerate.openvino_model import OpenVino
from accel.compress.qdq_onnxruntime import activations
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.repair.float_network import own_biases_
from accel.compress.repair_settings import AdaRound, StaticWeights
from accel.contracts import Job, QuantizationProfile, Task
from accel.errors import PassFault
from accel.model import OnnxModel, Target
from accel.onnx_graph import parameters

Array = NDArray[Any]
Execute = Callable[[Path, dict[str, Array]], Sequence[Array]]
MakeJob = Callable[..., Job]
LEARNED = AdaRound(iterations=100)


def pass_with(**settings: Any) -> QuantizeStaticOnnxRuntime:
    return QuantizeStaticOnnxRuntime(**settings)


def error(found: OnnxModel, model: OnnxModel, images: Array, execute: Execute) -> float:
    wanted, got = (execute(each.path, {"image": images})[0] for each in (model, found))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize(("bits", "share"), [(3, 0.5), (4, 0.6)])
def test_learned_rounding_repairs_weights_of_few_bits(
    bits: int, share: float, float_model: OnnxModel, images: Array, execute: Execute, make_job: MakeJob
) -> None:
    weights = StaticWeights(dtype="int4", bits=bits)
    plain = pass_with(weights=weights)(float_model, make_job(folder="plain"))
    learned = pass_with(weights=weights, adaround=LEARNED)(float_model, make_job(folder="learned"))
    before, after = (error(found, float_model, images, execute) for found in (plain, learned))
    assert after < share * before
    assert any(note.startswith("adaround: rounding learned for 7 layers") for note in learned.notes)


@pytest.fixture(scope="module")
def in_int4(
    float_model: OnnxModel,
    images: Array,
    cpu: QuantizationProfile,
    make_task: Callable[..., Task],
    tmp_path_factory: pytest.TempPathFactory,
) -> OnnxModel:
    job = Job.local(tmp_path_factory.mktemp("int4"), task=make_task(images), profile=cpu)
    return pass_with(weights=StaticWeights(dtype="int4", bits=3))(float_model, job)


def test_int4_is_stored_as_such_at_opset_21(in_int4: OnnxModel, float_model: OnnxModel, make_job: MakeJob) -> None:
    model = onnx.load(str(in_int4.path))
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 21)]
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {value: node for node in model.graph.node for value in node.output}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(layers) == 7
    for node in layers:
        weight = makers[node.input[1]]
        assert weight.op_type == "DequantizeLinear" and makers[weight.input[0]].op_type == "Cast"
        integers = stored[makers[weight.input[0]].input[0]]
        assert integers.data_type == TensorProto.INT4
        values = numpy_helper.to_array(integers).astype(np.int64)
        assert values.min() >= -4 and values.max() <= 3, "3-bit levels"
        assert stored[weight.input[1]].dims == [values.shape[0]], "a scale for each output"
        assert stored[makers[node.input[2]].input[0]].data_type == TensorProto.INT32
    whole = pass_with()(float_model, make_job())
    assert in_int4.path.stat().st_size < 0.75 * whole.path.stat().st_size


def test_it_runs_in_int8_all_the_same(in_int4: OnnxModel, tmp_path: Path) -> None:
    """Without the Cast every convolution would run in floating point, on weights made floats again for each inference."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(in_int4.path), options, providers=["CPUExecutionProvider"])
    ran = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    assert ran["QLinearConv"] == 6 and ran["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "Cast"} & set(ran)


def test_openvino_runs_it_in_int8_too(in_int4: OnnxModel, images: Array, execute: Execute, tmp_path: Path) -> None:
    with OpenVino().compile(in_int4, Target("cpu", "openvino"), tmp_path) as runner:
        found = runner({"image": images[:8]})[0]
        executed = runner.executed_precision()
    assert executed.int8_operators == executed.quantized_operators == 7
    wanted = execute(in_int4.path, {"image": images[:8]})[0]
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)


def test_every_weight_counts_as_a_parameter(in_int4: OnnxModel, float_model: OnnxModel) -> None:
    counts = [parameters(onnx.load(str(model.path))) for model in (in_int4, float_model)]
    assert counts[0] == pytest.approx(counts[1], rel=0.01)


def test_the_notes_say_that_it_buys_size_and_not_speed(in_int4: OnnxModel) -> None:
    assert any(note.startswith("INT4 weights buy size, not speed") for note in in_int4.notes)
    assert any("in INT4, 3 bits of it used" in note for note in in_int4.notes)


def test_learned_int8_is_no_worse(float_model: OnnxModel, images: Array, execute: Execute, make_job: MakeJob) -> None:
    plain = pass_with()(float_model, make_job(folder="plain"))
    learned = pass_with(adaround=LEARNED)(float_model, make_job(folder="learned"))
    assert error(learned, float_model, images, execute) < 1.05 * error(plain, float_model, images, execute)
    assert not any("INT4" in note for note in learned.notes)


def test_bias_correction_repairs_the_mean_of_the_outputs(
    float_model: OnnxModel, images: Array, execute: Execute, make_job: MakeJob
) -> None:
    weights = StaticWeights(bits=3)
    plain = pass_with(weights=weights)(float_model, make_job(folder="plain"))
    corrected = pass_with(weights=weights, bias_correction=True)(float_model, make_job(folder="corrected"))
    wanted = execute(float_model.path, {"image": images})[0].mean(axis=0)
    means = [execute(found.path, {"image": images})[0].mean(axis=0) for found in (plain, corrected)]
    before, after = (float(np.abs(mean - wanted).max()) for mean in means)
    assert before > 0.05, "the network needs it"
    assert after < 0.1 * before
    assert any(note.startswith("bias_correction: 7 biases corrected") for note in corrected.notes)


def test_a_part_of_many_samples_says_what_a_bias_is_off_by(
    float_model: OnnxModel,
    images: Array,
    make_job: MakeJob,
    make_task: Callable[[Array], Task],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 200 every third; for rounding, all of them."""
    read: list[int] = []

    def counted(model: onnx.ModelProto, values: Sequence[str], groups: Any, folder: Path) -> Any:
        read.append(sum(len(group["image"]) for group in groups))
        return activations(model, values, groups, folder)

    monkeypatch.setattr("accel.compress.repair.layer_by_layer.activations", counted)
    task = make_task(np.concatenate([images] * 5))
    pass_with(bias_correction=True)(float_model, make_job(folder="biases", task=task))
    assert len(images) == 40 and set(read) == {67}
    read.clear()
    pass_with(adaround=AdaRound(iterations=0))(float_model, make_job(folder="rounding", task=task))
    assert set(read) == {200}


def test_biases_are_corrected_in_float_where_the_dialect_has_them_so(
    float_model: OnnxModel, make_job: MakeJob, tensorrt: QuantizationProfile
) -> None:
    result = pass_with(bias_correction=True)(float_model, make_job(profile=tensorrt))
    stored = {tensor.name: tensor for tensor in onnx.load(str(result.path)).graph.initializer}
    layers = [node for node in onnx.load(str(result.path)).graph.node if node.op_type == "Conv"]
    assert all(stored[node.input[2]].data_type == TensorProto.FLOAT for node in layers)


def test_the_given_file_is_left_as_it_was(float_model: OnnxModel, make_job: MakeJob) -> None:
    before = float_model.path.read_bytes()
    job = make_job()
    pass_with(weights=StaticWeights(bits=4), adaround=LEARNED, cross_layer_equalization=True)(float_model, job)
    assert float_model.path.read_bytes() == before
    assert sorted(file.name for file in job.folder.iterdir()) == ["model.onnx", "scratch"]


def test_each_layer_gets_a_bias_of_its_own(float_model: OnnxModel) -> None:
    graph = onnx.load(str(float_model.path)).graph
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    shared = layers[1].input[2]
    layers[3].input[2] = shared
    del layers[0].input[2:]
    own_biases_(graph)
    names = [node.input[2] for node in layers]
    assert len(set(names)) == len(names)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    assert not stored[names[0]].any()
    assert np.array_equal(stored[names[3]], stored[shared])


@pytest.mark.parametrize("settings", [{"adaround": AdaRound()}, {"weights": StaticWeights(dtype="int4")}])
def test_one_scale_for_a_layer_is_refused(
    settings: dict[str, Any], float_model: OnnxModel, make_job: MakeJob, cpu: QuantizationProfile
) -> None:
    with pytest.raises(PassFault, match="one scale for a whole layer"):
        pass_with(**settings)(float_model, make_job(profile=replace(cpu, weight_granularity="per_tensor")))


def test_int4_is_refused_for_tensorrt(float_model: OnnxModel, make_job: MakeJob, tensorrt: QuantizationProfile) -> None:
    with pytest.raises(PassFault, match=r"TensorRT.*set weights\.dtype: int8"):
        pass_with(weights=StaticWeights(dtype="int4"))(float_model, make_job(profile=tensorrt))


def test_what_settings_take() -> None:
    adapter = TypeAdapter(QuantizeStaticOnnxRuntime)
    found = adapter.validate_python({"weights": {"dtype": "int4", "bits": 3}, "adaround": {}, "smooth_quant": {"alpha": 0.7}})
    assert (found.weights.used_bits, found.adaround) == (3, AdaRound())
    for wrong in ({"weights": {"dtype": "int4", "bits": 5}}, {"adaround": {"iterations": -1}}, {"smooth_quant": {"alpha": 2}}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)


@pytest.mark.parametrize("settings", [{"adaround": LEARNED}, {"weights": StaticWeights(dtype="int4")}], ids=["learned", "int4"])
def test_the_bias_of_a_channel_that_is_nearly_off_is_kept(
    settings: dict[str, Any], float_model: OnnxModel, tmp_path: Path, make_job: MakeJob
) -> None:
    """In INT32 steps of its own weights' scale it would be cut off at a thousandth."""
    graph = onnx.load(str(float_model.path))
    stored = {tensor.name: tensor for tensor in graph.graph.initializer}
    layer = next(node for node in graph.graph.node if node.op_type == "Conv")
    weight, bias = (numpy_helper.to_array(stored[name]).copy() for name in layer.input[1:3])
    weight[2] *= 1e-10
    bias[2] = 1.5
    for name, value in zip(layer.input[1:3], (weight, bias), strict=True):
        stored[name].CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(graph, str(tmp_path / "off.onnx"))
    model = OnnxModel(path=tmp_path / "off.onnx", signature=float_model.signature)
    result = onnx.load(str(pass_with(**settings)(model, make_job()).path)).graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in result.initializer}
    makers = {value: node for node in result.node for value in node.output}
    maker = makers[next(node for node in result.node if node.name == layer.name).input[2]]
    found = known[maker.input[0]].astype(np.float64) * known[maker.input[1]]
    assert found[2] == pytest.approx(1.5, rel=0.01)
