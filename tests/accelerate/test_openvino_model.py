from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.onnx_operators import quantized_operators
from accel.accelerate.openvino_graph import quantized_in
from accel.accelerate.openvino_model import CompiledRunner, OpenVino
from accel.errors import BackendFault, DataFault, StorageFault
from accel.model import OnnxModel, Signature, Target, TensorSpec
from accel.onnx_file import read

openvino = pytest.importorskip("openvino")

SIGNATURE = Signature(
    inputs=(TensorSpec("x", ("batch", 16, 12, 12), "float32"),),
    outputs=(TensorSpec("y", ("batch", 8), "float32"), TensorSpec("m", ("batch", 16), "float32")),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """A Q/DQ convolution and a Gemm, a Relu on the input itself, and a convolution that stays in float and gives ``m``."""
    values = np.random.default_rng(0)
    tensors = {
        "scale": np.array(0.05, np.float32),
        "zero": np.array(0, np.uint8),
        "w_scale": np.full(16, 0.01, np.float32),
        "w_zero": np.zeros(16, np.int8),
        "w8": values.integers(-100, 100, (16, 16, 3, 3)).astype(np.int8),
        "w": values.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12,
        "g_scale": np.full(8, 0.01, np.float32),
        "g_zero": np.zeros(8, np.int8),
        "g8": values.integers(-100, 100, (8, 16)).astype(np.int8),
        "axes": np.array([2, 3]),
    }

    def quantized(source: str, target: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_q"], name=f"{target}/Q"),
            helper.make_node("DequantizeLinear", [f"{target}_q", "scale", "zero"], [target], name=f"{target}/DQ"),
        ]

    nodes = [
        helper.make_node("Relu", ["x"], ["x_r"], name="in/Relu"),
        *quantized("x_r", "x_dq"),
        helper.make_node("DequantizeLinear", ["w8", "w_scale", "w_zero"], ["w_dq"], name="w/DQ", axis=0),
        helper.make_node("Conv", ["x_dq", "w_dq"], ["a"], name="low/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="low/Relu"),
        helper.make_node("Conv", ["b", "w"], ["c"], name="high/Conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["c_r"], name="high/Relu"),
        helper.make_node("ReduceMean", ["c_r", "axes"], ["m"], name="pool/ReduceMean", keepdims=0),
        *quantized("m", "m_dq"),
        helper.make_node("DequantizeLinear", ["g8", "g_scale", "g_zero"], ["g_dq"], name="g/DQ", axis=0),
        helper.make_node("Gemm", ["m_dq", "g_dq"], ["y"], name="head/Gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, 12, 12])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8]),
            helper.make_tensor_value_info("m", TensorProto.FLOAT, ["batch", 16]),
        ],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return OnnxModel(path=path, signature=SIGNATURE)


def target(**changes: Any) -> Target:
    return Target(name="edge", backend="openvino", **changes)


def compiled(model: OnnxModel, cache: Path, **changes: Any) -> CompiledRunner:
    return OpenVino().compile(model, target(**changes), cache)


def inputs(count: int = 2) -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((count, 16, 12, 12)).astype(np.float32)}


def test_ir_runs_as_the_onnx_file_does(model: OnnxModel, tmp_path: Path) -> None:
    shipped = OpenVino().deploy(model, target(options={"format": "ir"}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    assert shipped.path == tmp_path / "model.xml"
    with compiled(model, tmp_path) as one, compiled(shipped, tmp_path) as two:
        for by_onnx, by_ir in zip(one(inputs()), two(inputs()), strict=True):
            np.testing.assert_array_equal(by_onnx, by_ir)
        told = one.executed_precision()
        assert told == two.executed_precision()
    assert (told.quantized_operators, told.int8_operators) == (2, 2)
    assert told.operators["Convolution"] == 2
    assert read(shipped.path).signature == SIGNATURE


def test_ir_keeps_float_weights_in_fp32_and_no_path_of_this_machine(model: OnnxModel, tmp_path: Path) -> None:
    OpenVino().deploy(model, target(options={"format": "ir"}), tmp_path)
    weights = next(t for t in onnx.load(str(model.path)).graph.initializer if t.name == "w").raw_data
    assert weights in (tmp_path / "model.bin").read_bytes()
    assert str(model.path.parent) not in (tmp_path / "model.xml").read_text()


def test_an_ir_is_shipped_as_it_is(model: OnnxModel, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    shipped = OpenVino().deploy(model, target(options={"format": "ir"}), first)
    again = OpenVino().deploy(shipped, target(), second)
    assert again.path.read_bytes() == shipped.path.read_bytes()


def test_a_full_disk_leaves_no_half_ir(model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(graph: object, path: str, **_: object) -> None:
        Path(path).touch()
        raise RuntimeError("basic_ios::clear: iostream error")

    monkeypatch.setattr(openvino, "save_model", full)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10}))
    with pytest.raises(StorageFault, match="the disk is full"):
        OpenVino().deploy(model, target(options={"format": "ir"}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_ir_and_onnx_count_the_same_quantized_operators(model: OnnxModel) -> None:
    assert quantized_in(openvino.Core().read_model(str(model.path))) == quantized_operators(model.path) == 2


@pytest.mark.parametrize("form", ["onnx", "ir"])
def test_compiling_counts_nothing(form: str, model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compile time that is reported holds no reading of the file a second time."""
    shipped = OpenVino().deploy(model, target(options={"format": form}), tmp_path)
    counted: list[Path] = []

    def count(path: Path) -> int:
        counted.append(path)
        return 2

    monkeypatch.setattr("accel.accelerate.openvino_model._quantized_operators", count)
    with compiled(shipped, tmp_path) as runner:
        runner(inputs())
        assert counted == []
        assert runner.executed_precision().quantized_operators == 2
    assert counted == [shipped.path]


def test_fp32_is_not_bf16_and_bf16_is_told(model: OnnxModel, tmp_path: Path) -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in BF16")
    with compiled(model, tmp_path) as full, compiled(model, tmp_path, precision="bf16") as half:
        assert full.executed_precision().float_precision == "fp32"
        assert half.executed_precision().float_precision == "bf16"
        apart = np.abs(np.asarray(full(inputs())[1]) / np.asarray(half(inputs())[1]) - 1).max()
        assert 1e-4 < apart < 0.1


def test_a_precision_the_device_lacks_is_refused(model: OnnxModel, tmp_path: Path) -> None:
    """Asked for FP16, OpenVINO 2026.4 silently takes BF16 on a CPU that has no FP16."""
    if "FP16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU computes in FP16")
    with pytest.raises(BackendFault, match=r"target edge: cpu here computes in .*fp32, not in fp16"):
        compiled(model, tmp_path, precision="fp16")


def test_settings_reach_the_runtime(model: OnnxModel, tmp_path: Path) -> None:
    with compiled(model, tmp_path, threads=2, options={"num_streams": 2, "performance_hint": "throughput"}) as runner:
        assert runner._compiled.get_property("NUM_STREAMS") == 2
        assert str(runner._compiled.get_property("PERFORMANCE_HINT")).endswith("THROUGHPUT")
    with compiled(model, tmp_path) as runner:
        assert runner._compiled.get_property("NUM_STREAMS") == 1
        assert str(runner._compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")
        assert runner._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() == "f32"
    assert list(tmp_path.iterdir()) == []  # no hidden cache of compiled blobs


def test_an_operator_on_the_input_leaves_it(model: OnnxModel, tmp_path: Path) -> None:
    """The input is shared with the runtime, and its first operator is one that works in place."""
    given = inputs()
    copy = given["x"].copy()
    with compiled(model, tmp_path) as runner:
        for _ in range(3):
            runner(given)
    assert (copy < 0).any()
    np.testing.assert_array_equal(given["x"], copy)


def test_the_first_call_of_a_shape_gives_what_later_ones_do(model: OnnxModel, tmp_path: Path) -> None:
    with compiled(model, tmp_path) as runner:
        first, second, third = (runner(inputs())[0] for _ in range(3))
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, third)
        assert runner(inputs(5))[0].shape == (5, 8)
        np.testing.assert_array_equal(runner(inputs())[0], first)


def test_the_compiled_model_is_freed(model: OnnxModel, tmp_path: Path) -> None:
    with compiled(model, tmp_path) as runner:
        runner(inputs())
        held = weakref.ref(runner._compiled), weakref.ref(runner._request)
        assert all(reference() is not None for reference in held)
    gc.collect()
    assert all(reference() is None for reference in held)


@pytest.mark.parametrize("kind", ["plain", "transposed", "float64"])
def test_arrays_that_are_filled_again_are_read_again(kind: str, model: OnnxModel, tmp_path: Path) -> None:
    """From the third call on the same arrays stay bound; one of which OpenVINO had to make a copy must not."""
    given = inputs()
    (name, plain), other = next(iter(given.items())), inputs()
    array = plain.T.copy().T if kind == "transposed" else plain.astype(np.float64) if kind == "float64" else plain.copy()
    with compiled(model, tmp_path) as runner, compiled(model, tmp_path) as fresh:
        for call in range(6):
            array[...] = plain * (call + 1) / 6
            expected = fresh({name: (plain * (call + 1) / 6).astype(plain.dtype)})[0]
            np.testing.assert_array_equal(runner({name: array})[0], expected)
        assert bool(runner._bound) == (kind == "plain")
        np.testing.assert_array_equal(runner(other)[0], fresh(other)[0])
        array[...] = -plain
        np.testing.assert_array_equal(runner({name: array})[0], fresh({name: -plain})[0])


def test_bound_arrays_are_checked_like_any_others(model: OnnxModel, tmp_path: Path) -> None:
    given = inputs()
    with compiled(model, tmp_path) as runner:
        for _ in range(4):
            first = runner(given)[0]
        assert runner._bound
        kept = first.copy()
        next(iter(given.values()))[...] = 0
        runner(given)
        np.testing.assert_array_equal(first, kept)  # the caller's to keep
        with pytest.raises(DataFault, match="stranger"):
            runner({**given, "stranger": np.zeros(1, np.float32)})
    with pytest.raises(BackendFault, match="closed"):
        runner(given)
