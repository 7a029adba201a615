from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.onnxruntime_session import OnnxRuntime, SessionPlan, SessionRunner
from accel.errors import BackendFault, MissingBackend
from accel.model import OnnxModel, Signature, Target, TensorSpec

onnxruntime = pytest.importorskip("onnxruntime")

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


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


@dataclass
class _Node:
    name: str
    op_type: str = "Conv"


@dataclass
class _Part:
    ep_name: str
    nodes: list[_Node]

    def get_nodes(self) -> list[_Node]:
        return self.nodes


@dataclass
class _Session:
    """What a session on a GPU build tells; there is no GPU where this test has to run."""

    providers: list[str]
    parts: list[_Part]

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[_Part]:
        return self.parts


def require_assigned(session: _Session, asked: list[str], **options: Any) -> tuple[str, ...]:
    target = Target(name="edge", backend="onnxruntime", options={"execution_providers": asked, **options})
    plan = SessionPlan(Path("net.onnx"), OnnxRuntime().runtime_settings(target), target, {})
    return plan._require_assigned(session, asked)


def test_nodes_that_stray_to_the_cpu_are_named() -> None:
    parts = [_Part(CUDA, [_Node("a")]), _Part(CPU, [_Node("b"), _Node("", "Gather")])]
    session = _Session([CUDA, CPU], parts)
    with pytest.raises(BackendFault, match=f"2 nodes do not run on {CUDA}: b, Gather"):
        require_assigned(session, [CUDA])
    assert require_assigned(session, [CUDA, CPU]) == ()
    assert require_assigned(session, [CUDA], allow_fallback=True) == (f"2 nodes do not run on {CUDA}: b, Gather (allowed)",)


def test_a_provider_that_did_not_load_is_named() -> None:
    with pytest.raises(BackendFault, match=f"{CUDA} asked for, but the session runs on {CPU}"):
        require_assigned(_Session([CPU], []), [CUDA])


@pytest.mark.parametrize("options", [{}, {"execution_providers": [CUDA, CPU]}], ids=["by device", "by name"])
def test_fp32_on_a_gpu_is_not_tf32(
    options: dict[str, Any], model: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no GPU where this test has to run: what the session is asked for is looked at."""
    asked: list[Any] = []

    def make(path: str, settings: Any, *, providers: list[Any], **_: Any) -> _Session:
        asked.append(providers)
        raise RuntimeError("no GPU")

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", make)
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
