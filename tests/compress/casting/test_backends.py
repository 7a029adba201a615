"""What ``cast`` writes, on every runtime that is here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from accel import catalog
from accel.compress.cast import Cast
from accel.compress.onnx_writing import write
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Batch, Job, QuantizationProfile
from accel.errors import BackendFault
from accel.model import OnnxModel, Target
from accel.onnx_file import read

Array = NDArray[Any]
MakeJob = Callable[..., Job]
ATTENTION = """<ir_version: 10, opset_import: ["" : 20]> g (float[n,4,16] x) => (float[n,4,16] y)
    { u = LayerNormalization<axis = -1>(x, scale, bias)
      q = MatMul(u, wq)  k = MatMul(u, wk)  v = MatMul(u, wv)  t = Transpose<perm = [0, 2, 1]>(k)
      p = MatMul(q, t)  s = Mul(p, quarter)  a = Softmax(s)  o = MatMul(a, v)  h = Add(o, x)
      e = Gelu(h)  y = MatMul(e, wo) }"""


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """One block of a transformer: LayerNormalization, attention with Softmax, Gelu, a residual addition."""
    drawn = np.random.default_rng(0)
    proto = parser.parse_model(ATTENTION)
    weights = {name: drawn.standard_normal((16, 16)) / 4 for name in ("wq", "wk", "wv", "wo")}
    weights |= {"scale": np.ones(16), "bias": np.zeros(16), "quarter": np.array(0.25)}
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for node in proto.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    path = tmp_path_factory.mktemp("attention") / "model.onnx"
    write(proto, path)
    return read(path)


class Sequences:
    def has(self, split: str) -> bool:
        return split == "calibration"

    def calibration(self) -> list[Batch]:
        return [Batch({"x": np.random.default_rng(1).standard_normal((16, 4, 16)).astype(np.float32)})]


def on(name: str, model: OnnxModel, inputs: dict[str, Array], cache: Path) -> Array:
    with catalog.backend(name).compile(model, Target(name, name), cache) as runner:
        return np.asarray(runner(inputs)[0])


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_each_cpu_runtime_is_close_to_fp32_or_names_the_node(
    float_model: OnnxModel, make_job: MakeJob, images: Array, tmp_path: Path, dtype: str, backend: str
) -> None:
    result = Cast(dtype=dtype)(float_model, make_job())  # type: ignore[arg-type]
    inputs = {"image": images[:5]}
    wanted = on(backend, float_model, inputs, tmp_path)
    if (backend, dtype) == ("onnxruntime", "bf16"):
        with pytest.raises(
            BackendFault, match=r"node stem/Conv: onnxruntime cannot compile it: Could not find an implementation"
        ):
            on(backend, result, inputs, tmp_path)
        return
    found = on(backend, result, inputs, tmp_path)
    assert np.linalg.norm(found - wanted) < {"fp16": 2e-3, "bf16": 2e-2}[dtype] * np.linalg.norm(wanted)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_softmax_and_layer_normalization_run_in_fp16(
    attention: OnnxModel, make_job: MakeJob, tmp_path: Path, backend: str
) -> None:
    result = Cast()(attention, make_job(task=Sequences()))
    assert result.notes[0] == "12 of 12 nodes that make floats are in fp16, 2 Cast added"
    inputs = {"x": np.random.default_rng(2).standard_normal((3, 4, 16)).astype(np.float32)}
    wanted, found = (on(backend, model, inputs, tmp_path) for model in (attention, result))
    assert np.linalg.norm(found - wanted) < 2e-3 * np.linalg.norm(wanted)


def typed_by_tensorrt(path: Path) -> Counter[tuple[str, str, str]]:
    """Kind of each layer, first input type and first output type of the strongly typed network."""
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed (pip install tensorrt-rtx-cu13)")

    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    reader = trt.OnnxParser(network, logger)
    assert reader.parse_from_file(str(path)), [reader.get_error(index).desc() for index in range(reader.num_errors)]
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return Counter(
        (layer.type.name, layer.get_input(0).dtype.name if layer.num_inputs else "", layer.get_output_type(0).name)
        for layer in layers
    )


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "HALF"), ("bf16", "BF16")])
def test_tensorrt_types_every_layer_as_asked(
    float_model: OnnxModel, attention: OnnxModel, make_job: MakeJob, dtype: str, name: str
) -> None:
    net = Cast(dtype=dtype)(float_model, make_job(folder="net"))  # type: ignore[arg-type]
    layers = typed_by_tensorrt(net.path)
    assert layers["CONVOLUTION", name, name] == 6 and layers["MATRIX_MULTIPLY", name, name] == 1
    assert {key[2] for key in layers if key[0] != "CAST"} == {name}
    assert layers["CAST", "FLOAT", name] == layers["CAST", name, "FLOAT"] == 1
    block = Cast(dtype=dtype)(attention, make_job(task=Sequences(), folder="block"))  # type: ignore[arg-type]
    layers = typed_by_tensorrt(block.path)
    assert layers["MATRIX_MULTIPLY", name, name] == 6
    assert layers["SOFTMAX", name, name] == layers["NORMALIZATION", name, name] == 1


def test_tensorrt_reads_q_dq_with_scales_in_fp16(
    float_model: OnnxModel, make_job: MakeJob, tensorrt: QuantizationProfile
) -> None:
    int8 = QuantizeStaticOnnxRuntime()(float_model, make_job(profile=tensorrt, folder="int8"))
    layers = typed_by_tensorrt(Cast()(int8, make_job(folder="cast")).path)
    assert layers["CONVOLUTION", "HALF", "HALF"] == 6
    assert layers["QUANTIZE", "HALF", "INT8"] == 9 and layers["DEQUANTIZE", "INT8", "HALF"] == 16
    assert not layers["QUANTIZE", "FLOAT", "INT8"]


def test_int8_beside_fp16_gives_on_every_runtime_what_the_file_says(
    float_model: OnnxModel, make_job: MakeJob, images: Array, tensorrt: QuantizationProfile, tmp_path: Path
) -> None:
    """ONNX Runtime makes the float biases anew in FP16 unless it is told not to, and is then 5.8 dB from here."""
    int8 = QuantizeStaticOnnxRuntime()(float_model, make_job(profile=tensorrt, folder="int8"))
    result = Cast()(int8, make_job(folder="cast"))
    inputs = {"image": images[:5]}
    wanted = np.asarray(ReferenceEvaluator(str(result.path)).run(None, inputs)[0])
    for backend in ("onnxruntime", "openvino"):
        assert np.linalg.norm(on(backend, result, inputs, tmp_path) - wanted) < 0.03 * np.linalg.norm(wanted)
