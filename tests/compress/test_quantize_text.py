"""``approach: dynamic`` and ``weight_only`` on a small model of text: what is stored how, and how close it stays."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from pydantic import TypeAdapter, ValidationError

from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.accelerate.openvino_model import OpenVino
from accel.compress import product_rounding
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.product_weights import rows_in_int8
from accel.compress.quantize_dynamic import QuantizeDynamic
from accel.compress.quantize_weight_only import QuantizeWeightOnlyNncf, QuantizeWeightOnlyOnnxRuntime
from accel.compress.weight_settings import BlockWeights, CompressedWeights, WeightCalibration
from accel.contracts import Batch, Job, QuantizationProfile
from accel.errors import DataFault, PassFault
from accel.model import OnnxModel, Target
from accel.onnx_file import read
from accel.onnx_graph import quantization

Array = NDArray[Any]
CPU = QuantizationProfile("uint8", False, "per_channel", "int32", True, "onnxruntime")
TENSORRT = QuantizationProfile("int8", True, "per_channel", "float", True, "onnxruntime")


WORDS, WIDTH, INNER = 64, 48, 40


def text_model(folder: Path, *, opset: int = 20) -> OnnxModel:
    """(batch, length) ids and mask to (batch, 48)."""
    random = np.random.default_rng(0)

    def matrix(*shape: int) -> NDArray[np.float32]:
        return np.asarray(random.normal(size=shape) / np.sqrt(shape[0]), np.float32)

    weights = {
        "table": random.normal(size=(WORDS, WIDTH)).astype(np.float32),
        "first.weight": matrix(WIDTH, INNER),
        "first.bias": matrix(INNER),
        "second.weight": matrix(WIDTH, INNER),
        "second.bias": matrix(WIDTH),
        "last": np.array([-1], np.int64),
        "token": np.array([1], np.int64),
        "flat": np.array([-1, INNER], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["words"], name="words/Gather"),
        node("MatMul", ["words", "first.weight"], ["product"], name="first/MatMul"),
        node("Add", ["product", "first.bias"], ["sum"], name="first/Add"),
        node("Relu", ["sum"], ["hidden"], name="Relu"),
        node("Transpose", ["hidden"], ["turned"], name="Transpose", perm=[0, 2, 1]),
        node("MatMul", ["hidden", "turned"], ["scores"], name="scores/MatMul"),
        node("Softmax", ["scores"], ["shares"], name="Softmax", axis=-1),
        node("MatMul", ["shares", "hidden"], ["mixed"], name="mixed/MatMul"),
        node("Cast", ["mask"], ["floats"], name="Cast", to=TensorProto.FLOAT),
        node("Unsqueeze", ["floats", "last"], ["wide"], name="Unsqueeze"),
        node("Mul", ["mixed", "wide"], ["masked"], name="Mul"),
        node("ReduceMean", ["masked", "token"], ["mean"], name="ReduceMean", keepdims=0),
        node("Gemm", ["mean", "second.weight", "second.bias"], ["embedding"], name="second/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("ids", "mask")],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    path = folder / "text.onnx"
    onnx.save(model, str(path))
    return read(path)


def token_rows(count: int, *, seed: int = 1, length: int = 12) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """Ids and masks (count, length); rows of different lengths, filled up with zeros."""
    random = np.random.default_rng(seed)
    mask = (np.arange(length) < random.integers(3, length + 1, (count, 1))).astype(np.int64)
    return {"ids": random.integers(1, WORDS, (count, length)) * mask, "mask": mask}


class Rows:
    """Calibration data, one sample a batch."""

    def __init__(self, count: int = 64) -> None:
        self.rows = token_rows(count, seed=5)

    def has(self, split: str) -> bool:
        return split == "calibration"

    def calibration(self) -> Iterable[Batch]:
        for index in range(len(self.rows["ids"])):
            yield Batch({name: rows[index : index + 1] for name, rows in self.rows.items()})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    return text_model(tmp_path_factory.mktemp("text"))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.local(tmp_path, task=Rows(), profile=CPU)  # type: ignore[arg-type]


def run(model: OnnxModel, inputs: dict[str, Any], backend: Callable[[], Any] = OnnxRuntime) -> Array:
    made = backend()
    with made.compile(model, Target("t", made.name), model.path.parent) as runner:
        return np.asarray(runner(inputs)[0])


def error(model: OnnxModel, found: OnnxModel, backend: Callable[[], Any] = OnnxRuntime) -> float:
    inputs: dict[str, Any] = dict(token_rows(40))
    wanted = run(model, inputs)
    return float(np.linalg.norm(run(found, inputs, backend) - wanted) / np.linalg.norm(wanted))


def graph_of(model: OnnxModel) -> onnx.GraphProto:
    return onnx.load(str(model.path)).graph


def stored(model: OnnxModel) -> dict[str, str]:
    """Node name to operator of what had weights."""
    names = ("words/Gather", "first/MatMul", "second/Gemm", "scores/MatMul")
    return {node.name: node.op_type for node in graph_of(model).node if node.name in names}


def test_dynamic_stores_integers_and_keeps_names(model: OnnxModel, job: Job) -> None:
    found = QuantizeDynamic()(model, job)
    assert stored(found) == {
        "words/Gather": "Gather",
        "first/MatMul": "MatMulInteger",
        "second/Gemm": "MatMulInteger",
        "scores/MatMul": "MatMul",
    }
    kinds = {weight.data_type for weight in graph_of(found).initializer if len(weight.dims) == 2 and weight.dims[1] > 1}
    assert kinds == {onnx.TensorProto.INT8}
    assert found.notes == (
        "quantized: 2 products, weights in INT8 for each output, activations as they come",
        "quantized: 1 embedding tables in INT8 for each row",
        "scores/MatMul, mixed/MatMul kept in floating point: both inputs are computed",
    )
    assert quantization(onnx.load(str(found.path))).quantized == 2
    assert error(model, found) < 0.03
    assert found.path.stat().st_size < 0.5 * model.path.stat().st_size


def test_dynamic_is_closer_than_the_librarys_own_call(model: OnnxModel, job: Job, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    plain = tmp_path / "plain.onnx"
    quantize_dynamic(str(model.path), str(plain))
    theirs = error(model, OnnxModel(path=plain, signature=model.signature))
    assert error(model, QuantizeDynamic()(model, job)) < theirs


@pytest.mark.parametrize("dtype", ["int4", "int8"])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("size", [16, 32])  # 48 inputs are one and a half groups of 32
def test_blocks_run_on_both_runtimes(model: OnnxModel, job: Job, dtype: Any, symmetric: bool, size: Any) -> None:
    weights = BlockWeights(dtype=dtype, symmetric=symmetric, group_size=size)
    found = QuantizeWeightOnlyOnnxRuntime(weights=weights)(model, job)
    assert stored(found) | {"words/Gather": ""} == {
        "words/Gather": "",
        "first/MatMul": "MatMulNBits",
        "second/Gemm": "MatMulNBits",
        "scores/MatMul": "MatMul",
    }
    within = 0.02 if dtype == "int8" else 0.2
    assert error(model, found) < within and error(model, found, OpenVino) < within
    node = next(node for node in graph_of(found).node if node.op_type == "MatMulNBits")
    assert len(node.input) == (3 if symmetric else 4)
    assert quantization(onnx.load(str(found.path))).weight_only == 2


@pytest.mark.parametrize("symmetric", [False, True])
def test_gptq_is_closer_than_rounding_and_than_the_librarys_rounding(model: OnnxModel, job: Job, symmetric: bool) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    scope = IgnoredScope(names=("second/Gemm",))  # which the library leaves in floating point
    errors = []
    kinds: tuple[Literal["rtn", "gptq"], ...] = ("rtn", "gptq")
    for how in kinds:
        weights = BlockWeights(group_size=32, symmetric=symmetric, algorithm=how, embedding_dtype="float32")
        errors.append(error(model, QuantizeWeightOnlyOnnxRuntime(weights=weights, ignored_scope=scope)(model, job)))
    library = MatMulNBitsQuantizer(onnx.load(str(model.path)), block_size=32, is_symmetric=symmetric, accuracy_level=4)
    library.process()
    path = job.folder / "library.onnx"
    onnx.save(library.model.model, str(path))
    theirs = error(model, OnnxModel(path=path, signature=model.signature))
    assert errors[1] < 0.9 * errors[0]  # rows of words that have nothing to do with one another leave it little to gain
    assert errors[1] < theirs


def test_nncf_writes_what_openvino_keeps_compressed(model: OnnxModel, job: Job) -> None:
    found = QuantizeWeightOnlyNncf(weights=CompressedWeights(dtype="int8"))(model, job)
    assert found.notes[0] == "converted from opset 20 to 21: DequantizeLinear in blocks needs 21"
    assert "quantized: 3 weights in uint8 by rtn" in found.notes
    assert error(model, found, OpenVino) < 0.02 and error(model, found) < 0.02
    assert found.path.stat().st_size < 0.5 * model.path.stat().st_size


def test_gptq_refills_the_blocks_that_nncf_made(model: OnnxModel, job: Job) -> None:
    errors = []
    kinds: tuple[Literal["rtn", "gptq"], ...] = ("rtn", "gptq")
    for how in kinds:
        weights = CompressedWeights(group_size=16, algorithm=how, embedding_dtype="float32")
        found = QuantizeWeightOnlyNncf(weights=weights)(model, job)
        assert any(f"1 weights in uint4 by {how}" in note for note in found.notes), found.notes
        errors.append(error(model, found, OpenVino))
        assert abs(errors[-1] - error(model, found)) < 0.02  # the same numbers on both
    assert errors[1] < errors[0]


def test_tables_have_a_scale_for_each_row() -> None:
    table = np.array([[1.0, -2.0], [0.0, 0.0], [0.001, 0.0005]], np.float32)
    integers, scales = rows_in_int8(table)
    assert integers.tolist() == [[64, -127], [0, 0], [127, 64]] and scales[1] == 1.0
    assert np.abs(integers * scales - table).max() <= 0.5 * scales.max()


def test_embedding_dtype_float32_leaves_tables_alone(model: OnnxModel, job: Job) -> None:
    found = QuantizeWeightOnlyOnnxRuntime(weights=BlockWeights(embedding_dtype="float32"))(model, job)
    assert any(weight.name == "table" for weight in graph_of(found).initializer)


@pytest.mark.parametrize("step", [QuantizeDynamic, QuantizeWeightOnlyOnnxRuntime, QuantizeWeightOnlyNncf])
def test_ignored_layers_stay_and_are_named(model: OnnxModel, job: Job, step: Any) -> None:
    found = step(ignored_scope=IgnoredScope(names=("first/MatMul",)))(model, job)
    assert stored(found)["first/MatMul"] == "MatMul"
    assert any(weight.name == "first.weight" for weight in graph_of(found).initializer)
    assert any("first/MatMul kept in floating point: in ignored_scope" in note for note in found.notes)
    with pytest.raises(PassFault, match="changed nothing"):
        step(ignored_scope=IgnoredScope(patterns=(".+",)))(model, job)


@pytest.mark.parametrize("step", [QuantizeDynamic, QuantizeWeightOnlyOnnxRuntime])
def test_tensorrt_is_refused(model: OnnxModel, tmp_path: Path, step: Any) -> None:
    with pytest.raises(PassFault, match="set approach: static"):
        step()(model, Job.local(tmp_path, profile=TENSORRT))


def test_gptq_without_data_says_so(model: OnnxModel, tmp_path: Path) -> None:
    step = QuantizeWeightOnlyOnnxRuntime(weights=BlockWeights(algorithm="gptq"))
    assert "calibration" in step.needs and "calibration" not in QuantizeWeightOnlyOnnxRuntime().needs
    with pytest.raises(DataFault, match=r"data\.calibration"):
        step(model, Job.local(tmp_path, profile=CPU))


def test_memory_is_bounded_by_reading_the_samples_again(model: OnnxModel, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    step = QuantizeWeightOnlyOnnxRuntime(weights=BlockWeights(algorithm="gptq"), calibration=WeightCalibration(num_samples=8))
    whole = step(model, job).path.read_bytes()
    monkeypatch.setattr(product_rounding, "MOST_BYTES", 1)
    assert step(model, job).path.read_bytes() == whole
    assert product_rounding.chunks(["a", "b"], {"a": 4, "b": 4}) == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (BlockWeights, {"group_size": 20}),
        (BlockWeights, {"dtype": "int2"}),
        (BlockWeights, {"algorithm": "awq"}),
        (CompressedWeights, {"dtype": "int8", "algorithm": "gptq"}),
    ],
)
def test_bad_settings_are_refused(kind: Any, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(given)
