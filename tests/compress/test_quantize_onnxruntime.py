from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter, ValidationError

from accel.compress.calibration import Calibration
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.onnx_writing import write
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.quantized_graph import release_outputs_
from accel.contracts import Job, QuantizationProfile, Task
from accel.errors import DataFault, PassFault
from accel.model import OnnxModel

Array = NDArray[Any]
MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def quantized(
    float_model: OnnxModel, images: Array, cpu: QuantizationProfile, tmp_path_factory: pytest.TempPathFactory
) -> OnnxModel:
    from accel.contracts import Batch

    class Once:
        def has(self, split: str) -> bool:
            return True

        def calibration(self) -> list[Batch]:
            return [Batch({"image": images})]

    job = Job.local(tmp_path_factory.mktemp("int8"), task=Once(), profile=cpu)  # type: ignore[arg-type]
    return QuantizeStaticOnnxRuntime()(float_model, job)


def graph_of(model: OnnxModel) -> onnx.GraphProto:
    return onnx.load(str(model.path)).graph


def executed(path: Path, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)


def scales(model: OnnxModel) -> dict[str, float]:
    """Activation scales by tensor."""
    weights = {w.name: numpy_helper.to_array(w) for w in graph_of(model).initializer}
    return {n.input[0]: float(weights[n.input[1]]) for n in graph_of(model).node if n.op_type == "QuantizeLinear"}


def test_onnxruntime_runs_every_convolution_and_addition_in_int8(quantized: OnnxModel, tmp_path: Path) -> None:
    ran = executed(quantized.path, tmp_path)
    assert ran["QLinearConv"] == 6 and ran["QLinearAdd"] == 2 and ran["QGemm"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "Add"} & set(ran)
    assert quantized.notes[0] == "quantized: 6 Conv, 1 Gemm"


def test_the_dialect_is_u8s8(quantized: OnnxModel) -> None:
    graph = graph_of(quantized)
    types = {w.name: w.data_type for w in graph.initializer}
    activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    assert activations and all(types[node.input[2]] == TensorProto.UINT8 for node in activations)
    weights = [node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in types]
    assert {types[node.input[0]] for node in weights} == {TensorProto.INT8, TensorProto.INT32}, (
        "weights and biases, stored as such"
    )
    for node in weights:
        zero = next(numpy_helper.to_array(w) for w in graph.initializer if w.name == node.input[2])
        assert not zero.any()
    channels = {w.name: list(w.dims) for w in graph.initializer}
    assert channels["layer1.0.conv1.weight_scale"] == [16]


def test_outputs_stay_close_and_the_logits_have_more_than_256_levels(
    quantized: OnnxModel, float_model: OnnxModel, images: Array, make_job: MakeJob
) -> None:
    execute: Callable[..., Any] | None = make_job().execute
    assert execute is not None
    wanted, got = (execute(model.path, {"image": images})[0] for model in (float_model, quantized))
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)
    assert graph_of(quantized).node[-1].op_type == "Gemm"


def test_the_file_is_small_and_clean(quantized: OnnxModel, float_model: OnnxModel) -> None:
    model = onnx.load(str(quantized.path))
    assert quantized.path.stat().st_size * 2.4 < float_model.path.stat().st_size
    assert [entry.domain for entry in model.opset_import] == [""]
    assert model.producer_name == "pytorch"
    assert not model.metadata_props and not model.graph.value_info
    read = {name for node in model.graph.node for name in node.input}
    assert {w.name for w in model.graph.initializer} <= read
    assert str(Path.home()).encode() not in quantized.path.read_bytes()


def test_operators_keep_their_names(quantized: OnnxModel, float_model: OnnxModel) -> None:
    def names(model: OnnxModel) -> list[str]:
        return sorted(node.name for node in graph_of(model).node if node.op_type in ("Conv", "Gemm", "Add"))

    assert names(quantized) == names(float_model)


def test_signature_is_kept(quantized: OnnxModel, float_model: OnnxModel) -> None:
    assert quantized.signature == float_model.signature
    onnx.checker.check_model(str(quantized.path), full_check=True)


def test_same_bytes_again_whatever_the_order_of_hashes(float_model: OnnxModel, tmp_path: Path, images: Array) -> None:
    np.save(tmp_path / "images.npy", images[:4])
    script = """
import sys, numpy as np
from pathlib import Path
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Batch, Job, QuantizationProfile
from accel.onnx_file import read
class Data:
    def has(self, split): return True
    def calibration(self): return [Batch({"image": np.load("images.npy")})]
for method in ("minmax", "percentile"):
    folder = Path(sys.argv[2] + method)
    folder.mkdir()
    profile = QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime")
    step = QuantizeStaticOnnxRuntime(calibration={"method": method, "percentile": 99.0})
    step(read(Path(sys.argv[1])), Job.local(folder, Data(), profile=profile))
"""
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(float_model.path), seed],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1", "PATH": ""},
        )
        assert (done.stdout, done.stderr) == ("", ""), "the quantizer's own noise stays inside"
    for method in ("minmax", "percentile"):
        one, two = ((tmp_path / (seed + method) / "model.onnx").read_bytes() for seed in "12")
        assert one == two and str(tmp_path).encode() not in one


def test_nothing_is_written_beside_the_input(float_model: OnnxModel, quantized: OnnxModel) -> None:
    assert sorted(file.name for file in float_model.path.parent.iterdir()) == ["model.onnx", "scratch"]
    assert list((quantized.path.parent / "scratch").iterdir()) == []


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_each_method_gives_other_scales_than_minmax(
    method: Any, quantized: OnnxModel, float_model: OnnxModel, make_job: MakeJob
) -> None:
    step = QuantizeStaticOnnxRuntime(calibration=Calibration(method=method, percentile=99.9))
    other = scales(step(float_model, make_job()))
    whole = scales(quantized)
    assert other.keys() == whole.keys()
    assert all(other[name] <= whole[name] * 1.001 for name in whole), "a cut-off never widens a range"
    assert other["image"] < 0.8 * whole["image"], "the one value far outside is cut off"


def test_mse_repairs_a_range_with_an_outlier(float_model: OnnxModel, make_job: MakeJob, make_task: Callable[..., Task]) -> None:
    """One value of half a million at three times the others' range: the whole range spends half of the levels on it alone."""
    values = np.random.default_rng(3).uniform(-1, 1, (2000, 1, 16, 16)).astype(np.float32)
    values[0, 0, 0, 0] = 3.0
    found = {}
    for method in ("minmax", "mse"):
        step = QuantizeStaticOnnxRuntime(calibration=Calibration(method=method, num_samples=len(values)))
        found[method] = scales(step(float_model, make_job(folder=method, task=make_task(values, batch=500))))["image"]

    def error(scale: float) -> float:
        """Cut from below at -1, which both do."""
        return float(((np.clip(np.rint(values / scale) * scale, -1.0, 255 * scale - 1.0) - values) ** 2).mean())

    assert found["mse"] < 0.8 * found["minmax"]
    assert error(found["mse"]) < 0.8 * error(found["minmax"])


def test_percentile_means_what_it_says(float_model: OnnxModel, images: Array, make_job: MakeJob) -> None:
    step = QuantizeStaticOnnxRuntime(calibration=Calibration(method="percentile", percentile=99.0))
    found = scales(step(float_model, make_job()))["image"] * 255
    wanted = float(np.quantile(images, 0.995) - np.quantile(images, 0.005))
    assert found == pytest.approx(wanted, rel=0.02)


def test_histograms_do_not_depend_on_batches_or_their_order(
    float_model: OnnxModel, images: Array, make_job: MakeJob, make_task: Callable[..., Task]
) -> None:
    """The library's own histograms grow with each larger batch: a tiny first batch takes all memory."""
    step = QuantizeStaticOnnxRuntime(calibration=Calibration(method="percentile", percentile=99.5))
    tiny_first = np.concatenate([images[:1] * 1e-9, images])
    orders = [tiny_first, tiny_first[::-1]]
    found = [
        scales(step(float_model, make_job(folder=str(i), task=make_task(order, batch=1 + 4 * i))))
        for i, order in enumerate(orders)
    ]
    assert found[0] == found[1]


def test_tensorrt_dialect(float_model: OnnxModel, make_job: MakeJob, tensorrt: QuantizationProfile) -> None:
    result = QuantizeStaticOnnxRuntime()(float_model, make_job(profile=tensorrt))
    graph = graph_of(result)
    weights = {w.name: w for w in graph.initializer}
    pairs = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    for node in pairs:
        zero = weights[node.input[2]]
        assert zero.data_type == TensorProto.INT8 and not numpy_helper.to_array(zero).any()
    maker = {value: node.op_type for node in graph.node for value in node.output}
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert len(convolutions) == 7
    for node in convolutions:
        assert [maker.get(value) for value in node.input] == ["DequantizeLinear", "DequantizeLinear", None]
        assert weights[node.input[2]].data_type == TensorProto.FLOAT, "no DequantizeLinear feeds a bias"
    relus = [node for node in graph.node if node.op_type == "Relu"]
    assert relus and all(maker[node.input[0]] in ("Conv", "Add") for node in relus), (
        "no Q/DQ between a convolution and its Relu"
    )


def test_residual_additions_get_no_pair_of_their_own_if_the_profile_says_so(
    float_model: OnnxModel, make_job: MakeJob, tensorrt: QuantizationProfile
) -> None:
    """TensorRT fuses convolution, addition and Relu where only the skip connection is quantized."""
    feeds = []
    for wanted in (True, False):
        job = make_job(profile=replace(tensorrt, quantize_residual_add=wanted), folder=str(wanted))
        graph = graph_of(QuantizeStaticOnnxRuntime()(float_model, job))
        maker = {value: node.op_type for node in graph.node for value in node.output}
        feeds.append([sorted(maker[value] for value in node.input) for node in graph.node if node.op_type == "Add"])
    assert feeds[0] == [["DequantizeLinear", "DequantizeLinear"]] * 2
    assert feeds[1] == [["Conv", "DequantizeLinear"], ["Conv", "Conv"]]


def test_weights_per_tensor_if_the_profile_asks(float_model: OnnxModel, make_job: MakeJob, cpu: QuantizationProfile) -> None:
    result = QuantizeStaticOnnxRuntime()(float_model, make_job(profile=replace(cpu, weight_granularity="per_tensor")))
    shapes = {w.name: list(w.dims) for w in graph_of(result).initializer}
    assert shapes["layer1.0.conv1.weight_scale"] == []


def test_ignored_layers_stay_in_float_and_are_named(float_model: OnnxModel, make_job: MakeJob) -> None:
    step = QuantizeStaticOnnxRuntime(ignored_scope=IgnoredScope(names=("fc/Gemm",), patterns=(r"layer2\..*conv1/Conv",)))
    result = step(float_model, make_job())
    maker = {value: node.op_type for node in graph_of(result).node for value in node.output}
    for node in graph_of(result).node:
        if node.name in ("fc/Gemm", "layer2.0.conv1/Conv"):
            assert node.input[1] not in maker, "its weight is a float initializer"
    assert result.notes[0] == "quantized: 5 Conv"
    assert "fc/Gemm kept in floating point: in ignored_scope" in result.notes
    assert "layer2.0.conv1/Conv kept in floating point: in ignored_scope" in result.notes


def test_an_unmatched_name_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match=r"names: 'fc/Gem' \(did you mean 'fc/Gemm'\?\)"):
        QuantizeStaticOnnxRuntime(ignored_scope=IgnoredScope(names=("fc/Gem",)))(float_model, make_job())


def test_nothing_quantized_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    step = QuantizeStaticOnnxRuntime(ignored_scope=IgnoredScope(types=("Conv", "Gemm")))
    with pytest.raises(PassFault, match=r"quantize changed nothing: none of 7 .* \(ignored_scope covers them\)"):
        step(float_model, make_job())


def test_a_quantized_model_is_refused(quantized: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match="quantized already"):
        QuantizeStaticOnnxRuntime()(quantized, make_job())


def test_no_calibration_data_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(DataFault, match=r"set data\.calibration"):
        QuantizeStaticOnnxRuntime()(float_model, make_job(task=None))


def test_no_profile_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match="no profile"):
        QuantizeStaticOnnxRuntime()(float_model, make_job(profile=None))


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile", "mse"])
def test_all_zero_data_is_not_silent(
    method: Any, float_model: OnnxModel, make_job: MakeJob, make_task: Callable[..., Task]
) -> None:
    task = make_task(np.zeros((4, 1, 16, 16), np.float32))
    result = QuantizeStaticOnnxRuntime(calibration=Calibration(method=method))(float_model, make_job(task=task))
    assert any(note.startswith("warning: calibration: input 'image' is all zero") for note in result.notes)
    assert all(np.isfinite(scale) and scale > 0 for scale in scales(result).values())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scale_that_is_not_a_number_is_explained(
    value: float, float_model: OnnxModel, make_job: MakeJob, tmp_path: Path
) -> None:
    model = onnx.load(str(float_model.path))
    weight = next(w for w in model.graph.initializer if w.name == "layer1.0.conv1.weight")
    damaged = numpy_helper.to_array(weight).copy()
    damaged[3] = value
    weight.CopyFrom(numpy_helper.from_array(damaged, weight.name))
    write(model, tmp_path / "damaged.onnx")
    with pytest.raises(PassFault, match=r"quantize: onnxruntime's quantization .*NaN"):
        QuantizeStaticOnnxRuntime()(OnnxModel(path=tmp_path / "damaged.onnx", signature=float_model.signature), make_job())


def test_nodes_without_names(float_model: OnnxModel, make_job: MakeJob, tmp_path: Path) -> None:
    """Any exporter's file: ``nodes_to_exclude`` of the library cannot tell nodes without a name apart."""
    model = onnx.load(str(float_model.path))
    for node in model.graph.node:
        node.name = ""
    write(model, tmp_path / "nameless.onnx")
    step = QuantizeStaticOnnxRuntime(ignored_scope=IgnoredScope(names=("Conv_1",)))
    result = step(OnnxModel(path=tmp_path / "nameless.onnx", signature=float_model.signature), make_job())
    assert result.notes[:2] == ("quantized: 5 Conv, 1 Gemm", "Conv_1 kept in floating point: in ignored_scope")


def test_a_product_of_two_activations_is_quantized_or_explained(
    make_job: MakeJob, tmp_path: Path, float_model: OnnxModel
) -> None:
    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"], name="flat"),
        helper.make_node("Transpose", ["flat"], ["turned"], name="turned", perm=[1, 0]),
        helper.make_node("MatMul", ["flat", "turned"], ["y"], name="product"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "batch"])],
    )
    write(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    model = OnnxModel(path=tmp_path / "m.onnx", signature=float_model.signature)
    assert QuantizeStaticOnnxRuntime()(model, make_job()).notes[0] == "quantized: 1 MatMul"


def test_progress_is_told(float_model: OnnxModel, make_job: MakeJob) -> None:
    told: list[tuple[int, int, str]] = []
    QuantizeStaticOnnxRuntime(calibration=Calibration(method="percentile", num_samples=5))(
        float_model, make_job(progress=lambda done, total, what: told.append((done, total, what)))
    )
    assert told == [(number, 10, "calibrating") for number in range(1, 11)]


def test_settings_are_checked_by_name() -> None:
    adapter = TypeAdapter(QuantizeStaticOnnxRuntime)
    bad: list[tuple[str, Any]] = [
        ("calibration.method", "average"),
        ("calibration.percentile", 101),
        ("calibration.num_samples", 0),
        ("engine", "nncf"),
        ("approach", "qat"),
        ("bits", 4),
    ]
    for where, value in bad:
        *outer, field = where.split(".")
        document = {outer[0]: {field: value}} if outer else {field: value}
        with pytest.raises(ValidationError) as caught:
            adapter.validate_python(document)
        assert caught.value.errors()[0]["loc"][-1] == field


def test_temporary_models_never_lie_where_a_kill_would_leave_them(float_model: OnnxModel, make_job: MakeJob) -> None:
    """The scratch folder outlives a kill, and a sweep keeps what is in it; the job's folder is emptied for the next run."""
    seen: list[tuple[int, int]] = []

    def look(done: int, total: int, what: str) -> None:
        seen.append((len(list(job.scratch.iterdir())), len([path for path in job.folder.iterdir() if path.is_dir()])))

    job = replace(make_job(), progress=look)
    QuantizeStaticOnnxRuntime()(float_model, job)
    assert seen and set(seen) == {(0, 2)}, "scratch itself, and the temporary folder"
    assert sorted(path.name for path in job.folder.iterdir()) == ["model.onnx", "scratch"]


def test_the_pair_at_an_output_is_dropped_by_identity_not_by_name() -> None:
    """Names are optional in ONNX: all the nodes here have none."""
    scale, zero = numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.uint8(128), "z")
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("MatMul", ["xd", "w"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    weights = [scale, zero, numpy_helper.from_array(np.eye(2, dtype=np.float32), "w")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 20)]
    )
    release_outputs_(model)
    assert [node.op_type for node in model.graph.node] == ["QuantizeLinear", "DequantizeLinear", "MatMul"]
    assert list(model.graph.node[2].output) == ["y"]
    onnx.checker.check_model(model)
