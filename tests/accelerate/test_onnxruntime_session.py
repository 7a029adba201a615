from __future__ import annotations

import gc
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate import cuda_driver
from accel.accelerate.onnxruntime_providers import CPU, CUDA, TENSORRT
from accel.accelerate.onnxruntime_session import OnnxRuntime, SessionRunner
from accel.errors import BackendFault, MissingBackend
from accel.model import OnnxModel, Signature, Target, TensorSpec

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Two inputs of different dtypes, two outputs in an order that is not the one they are made in."""
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "ids"], ["rows"], name="embed/Gather"),
            helper.make_node("Add", ["rows", "x"], ["total"], name="mix/Add"),
            helper.make_node("MatMul", ["total", "w"], ["y"], name="head/MatMul"),
        ],
        "g",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2]),
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 4]),
        ],
        [
            numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(3, 4), "table"),
            numpy_helper.from_array(np.ones((4, 2), np.float32), "w"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    signature = Signature(
        inputs=(TensorSpec("ids", ("batch",), "int64"), TensorSpec("x", ("batch", 4), "float32")),
        outputs=(TensorSpec("y", ("batch", 2), "float32"), TensorSpec("rows", ("batch", 4), "float32")),
    )
    return OnnxModel(path=path, signature=signature)


def compiled(model: OnnxModel, cache: Path, **changes: Any) -> SessionRunner:
    return OnnxRuntime().compile(model, Target(name="edge", backend="onnxruntime", **changes), cache)


INPUTS = {"ids": np.array([2, 0]), "x": np.ones((2, 4), np.float32)}


def test_outputs_are_in_the_signatures_order(model: OnnxModel, tmp_path: Path) -> None:
    with compiled(model, tmp_path) as runner:
        y, rows = runner(INPUTS)
    np.testing.assert_array_equal(rows, [[8, 9, 10, 11], [0, 1, 2, 3]])
    np.testing.assert_array_equal(y, [[42, 42], [10, 10]])


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this build has CUDA")
@pytest.mark.parametrize("providers", [[CUDA], [CUDA, CPU]])
def test_a_provider_that_the_build_lacks_is_refused(providers: list[str], model: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(BackendFault, match=rf"{CUDA} asked for, but this build has only .*{CPU}"):
        compiled(model, tmp_path, options={"execution_providers": providers})


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this build has CUDA")
def test_no_gpu_build_is_a_missing_backend(model: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(MissingBackend, match=r"target edge: this build of onnxruntime has no CUDA.*onnxruntime-gpu"):
        compiled(model, tmp_path, device="gpu")


@pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="this build has CUDA")
def test_fallback_that_is_allowed_is_noted(model: OnnxModel, tmp_path: Path) -> None:
    options = {"execution_providers": [CUDA], "allow_fallback": True}
    with compiled(model, tmp_path, options=options) as runner:
        assert runner.providers == (CPU,)
        assert any(CUDA in note and "as allowed" in note for note in runner.executed_precision().notes)


@pytest.mark.skipif("AzureExecutionProvider" not in onnxruntime.get_available_providers(), reason="no second provider")
@pytest.mark.parametrize("providers", [["AzureExecutionProvider"], ["AzureExecutionProvider", CPU]])
def test_a_provider_that_runs_no_node_is_refused(providers: list[str], model: OnnxModel, tmp_path: Path) -> None:
    """The session lists the provider; only the assignment of the nodes shows that it does nothing."""
    with pytest.raises(BackendFault, match=f"AzureExecutionProvider asked for, but no node runs there; all run on {CPU}"):
        compiled(model, tmp_path, options={"execution_providers": providers})


class GpuBuild:
    """What a build with CUDA and TensorRT gives a session, where there is neither: which providers load, which nodes they take.

    Everything else is the real library, on the CPU.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, loads: list[str], takes: dict[str, list[str]]) -> None:
        self.asked: list[list[Any]] = []
        self.loads, self.takes = loads, takes
        real: Any = onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(cuda_driver, "problem", lambda: None)

        class Session(real):  # type: ignore[misc]
            def __init__(session, path: str, settings: Any, *, providers: list[Any], **more: Any) -> None:
                self.asked.append(providers)
                super().__init__(path, settings, providers=[CPU], **more)

            def get_providers(session) -> list[str]:
                return self.loads

            def get_provider_graph_assignment_info(session) -> list[Any]:
                nodes = {name: [SimpleNamespace(name=node) for node in taken] for name, taken in self.takes.items()}
                return [SimpleNamespace(ep_name=name, get_nodes=lambda found=found: found) for name, found in nodes.items()]

        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)


ALL = ["embed/Gather", "mix/Add", "head/MatMul"]


def test_a_gpu_session_says_what_ran_where(model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = GpuBuild(monkeypatch, loads=[CUDA, CPU], takes={CUDA: ALL[1:], CPU: ALL[:1]})
    options = {"execution_providers": [CUDA, CPU], "provider_options": {CUDA: {"device_id": 0, "use_tf32": True}}}
    with compiled(model, tmp_path, device="gpu", options=options) as runner:
        runner(INPUTS)
        notes = runner.executed_precision().notes
    assert build.asked[0] == [(CUDA, {"use_tf32": "1", "device_id": "0"}), CPU]
    assert notes[0] == f"1 of 3 nodes run on {CPU}: embed/Gather"
    assert notes[1] == f"{CUDA} was given device_id=0, use_tf32=1"
    assert "latency includes the copies" in notes[2]


def test_a_provider_that_does_not_load_is_refused(model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    GpuBuild(monkeypatch, loads=[CPU], takes={CPU: ALL})
    with pytest.raises(MissingBackend, match=f"net.onnx: {CUDA} is in this build of onnxruntime but was not loaded"):
        compiled(model, tmp_path, device="gpu")
    with compiled(model, tmp_path, device="gpu", options={"allow_fallback": True}) as runner:
        notes = runner.executed_precision().notes
    assert "(allowed)" in notes[0]
    assert not any("copies" in note for note in notes)  # nothing ran on a GPU


def test_tensorrt_takes_what_it_can_and_its_engines_are_not_known(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = GpuBuild(monkeypatch, loads=[TENSORRT, CUDA, CPU], takes={TENSORRT: ALL})
    with compiled(model, tmp_path, device="gpu", options={"execution_providers": [TENSORRT, CUDA]}) as runner:
        told = runner.executed_precision()
    cache_off = {"trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0"}
    assert build.asked == [[(TENSORRT, cache_off), (CUDA, {"use_tf32": "0"})]]  # once: an engine takes minutes to build
    assert told.operators == {"Gather": 1, "Add": 1, "MatMul": 1}
    assert "does not tell what TensorrtExecutionProvider runs in its engines" in told.notes[0]
    assert any("NVIDIA_TF32_OVERRIDE=0" in note for note in told.notes)


def test_a_session_that_fails_tells_what_the_machine_lacks(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA failure 35")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    monkeypatch.setattr(cuda_driver, "problem", lambda: "the driver is too old")
    with pytest.raises(BackendFault, match=f"CUDA failure 35; {CUDA}: the driver is too old"):
        compiled(model, tmp_path, options={"execution_providers": [CUDA]})


def test_a_gpu_build_without_a_driver_is_a_missing_backend(
    model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(cuda_driver, "problem", lambda: "there is no NVIDIA driver here")
    assert OnnxRuntime().unavailable("gpu") == "there is no NVIDIA driver here"
    assert OnnxRuntime().unavailable("cpu") is None
    with pytest.raises(MissingBackend, match="target edge: there is no NVIDIA driver here"):
        compiled(model, tmp_path, device="gpu")


@pytest.mark.parametrize("options", [{}, {"execution_providers": [CUDA, CPU]}], ids=["by device", "by name"])
def test_fp32_on_a_gpu_is_not_tf32(
    options: dict[str, Any], model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU where this test has to run: what the session is asked for is looked at."""
    asked: list[Any] = []

    def make(path: str, settings: Any, *, providers: list[Any], **_: Any) -> None:
        asked.append(providers)
        raise RuntimeError("no GPU")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
    monkeypatch.setattr(cuda_driver, "problem", lambda: None)
    with pytest.raises(BackendFault, match="no GPU"):
        compiled(model, tmp_path, device="gpu", options=options)
    assert asked == [[(CUDA, {"use_tf32": "0"}), *([CPU] if options else [])]]


SPINNING = "session.intra_op.allow_spinning"


@pytest.mark.parametrize(("threads", "waits"), [(1, False), (2, True)])
def test_threads_do_not_spin_on_the_cores_of_the_next_row(threads: int, waits: bool, model: OnnxModel, tmp_path: Path) -> None:
    with compiled(model, tmp_path, threads=threads) as runner:
        settings = runner._session.get_session_options()
        if waits:
            assert settings.get_session_config_entry(SPINNING) == "0"
        else:
            with pytest.raises(RuntimeError, match=SPINNING):
                settings.get_session_config_entry(SPINNING)
        assert any("without spinning" in note for note in runner.executed_precision().notes) is waits


def test_the_session_is_freed(model: OnnxModel, tmp_path: Path) -> None:
    with compiled(model, tmp_path) as runner:
        session = weakref.ref(runner._session)
        assert session() is not None
    gc.collect()
    assert session() is None


def test_nothing_is_left_in_the_cache_or_on_the_terminal(
    model: OnnxModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with compiled(model, tmp_path) as runner:
        runner(INPUTS)
        runner.executed_precision()
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_level_is_the_one_asked_for(model: OnnxModel, tmp_path: Path) -> None:
    for level in ("disable", "basic", "extended", "all"):
        with compiled(model, tmp_path, options={"graph_optimization_level": level}) as runner:
            found = runner._session.get_session_options().graph_optimization_level
            assert found.name == {"disable": "ORT_DISABLE_ALL"}.get(level, f"ORT_ENABLE_{level.upper()}")


def test_an_ir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendFault, match="not OpenVINO IR"):
        compiled(OnnxModel(path=tmp_path / "net.xml", signature=Signature((), ())), tmp_path)


NO_GPU = OnnxRuntime().unavailable("gpu")


@pytest.mark.skipif(NO_GPU is not None, reason=str(NO_GPU))
@pytest.mark.parametrize(("kind", "precision"), [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16")])
def test_a_file_runs_on_a_gpu_in_its_own_precision(kind: int, precision: str, tmp_path: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    weights = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 32)).astype(dtype), "w")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="head/MatMul"),
        helper.make_node("Relu", ["a"], ["y"], name="head/Relu"),
    ]
    values = [helper.make_tensor_value_info(name, kind, ["batch", size]) for name, size in (("x", 64), ("y", 32))]
    path = tmp_path / "net.onnx"
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    signature = Signature((TensorSpec("x", ("batch", 64), str(dtype)),), (TensorSpec("y", ("batch", 32), str(dtype)),))
    x = np.random.default_rng(1).standard_normal((8, 64)).astype(dtype)
    with compiled(OnnxModel(path=path, signature=signature), tmp_path, device="gpu", batch=8) as runner:
        (y,) = runner({"x": x})
        told = runner.executed_precision()
    assert runner.providers[0] == CUDA
    expected = np.maximum(x.astype(np.float64) @ numpy_helper.to_array(weights).astype(np.float64), 0)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=1e-2, atol=3e-2 if precision == "fp16" else 1e-4)
    assert told.float_precision == precision
    assert any("latency includes the copies" in note for note in told.notes)
