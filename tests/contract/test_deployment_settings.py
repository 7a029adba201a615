"""A deployment script gives the runtime what the backend gave it when the file was measured, for every option."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from accel import catalog
from accel.accelerate import cuda_driver
from accel.benchmarks.snippet import deployment_snippet
from accel.contracts import SuitsFile
from accel.errors import BackendFault, UsageError
from accel.model import OnnxModel, Signature, Target, TensorSpec

SIGNATURE = Signature((TensorSpec("x", ("batch", 4), "float32"),), (TensorSpec("y", ("batch", 4), "float32"),))


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return OnnxModel(path=path, signature=SIGNATURE)


def target(backend: str, changes: dict[str, Any]) -> Target:
    return Target(name="t", backend=backend, **changes)


def compile_it(backend: str, changes: dict[str, Any], model: OnnxModel) -> None:
    catalog.backend(backend).compile(model, target(backend, changes), model.path.parent)


class Recorded(Exception):
    """Ends a call whose arguments are all that is wanted."""


SETTINGS = [
    ("onnxruntime", {}),
    ("onnxruntime", {"threads": 2}),
    ("onnxruntime", {"options": {"graph_optimization_level": "disable"}}),
    ("onnxruntime", {"options": {"graph_optimization_level": "basic", "execution_providers": ["CPUExecutionProvider"]}}),
    ("onnxruntime", {"device": "gpu"}),
    ("onnxruntime", {"device": "gpu", "options": {"provider_options": {"CUDAExecutionProvider": {"device_id": 1}}}}),
    ("openvino", {}),
    ("openvino", {"threads": 2, "options": {"num_streams": 2}}),
    ("openvino", {"options": {"performance_hint": "throughput"}}),
    ("openvino", {"options": {"performance_hint": "throughput", "num_streams": 1}}),
    ("eager", {"threads": 2}),
]


@pytest.mark.parametrize(("backend", "changes"), SETTINGS, ids=str)
def test_settings_are_json_ready(backend: str, changes: dict[str, Any]) -> None:
    found = catalog.backend(backend).runtime_settings(target(backend, changes))
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(("backend", "changes"), [entry for entry in SETTINGS if entry[0] == "onnxruntime"], ids=str)
def test_the_script_gives_onnxruntime_what_was_measured(
    backend: str, changes: dict[str, Any], model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What both hand to the library, for every option."""
    onnxruntime = pytest.importorskip("onnxruntime")
    calls: list[dict[str, Any]] = []

    def session(
        path: str, options: Any, *, providers: list[Any], enable_fallback: int = 1, disabled_optimizers: list[str] | None = None
    ) -> None:
        names = ["intra_op_num_threads", "inter_op_num_threads", "execution_mode", "graph_optimization_level"]
        facts: dict[str, Any] = {name: getattr(options, name) for name in names}
        try:
            facts["spinning"] = options.get_session_config_entry("session.intra_op.allow_spinning")
        except RuntimeError:  # not set
            facts["spinning"] = None
        calls.append({**facts, "providers": providers, "disabled": disabled_optimizers})
        raise Recorded

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(cuda_driver, "problem", lambda: None)
    with pytest.raises(BackendFault, match="Recorded"):
        compile_it(backend, changes, model)
    with pytest.raises(Recorded):
        run_script(backend, changes, model.path.parent)
    assert calls[0] == calls[1]
    assert calls[0]["providers"]
    assert calls[0]["disabled"] == ["MatMulAddFusion"]
    assert calls[0]["spinning"] == ("0" if changes.get("threads", 1) > 1 else None)


@pytest.mark.parametrize(("backend", "changes"), [entry for entry in SETTINGS if entry[0] == "openvino"], ids=str)
def test_the_script_gives_openvino_what_was_measured(
    backend: str, changes: dict[str, Any], model: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    calls: list[Any] = []

    def compile_model(core: object, model: object, *given: object) -> None:
        calls.append(given)
        raise Recorded

    monkeypatch.setattr(openvino.Core, "compile_model", compile_model)
    with pytest.raises(Recorded):
        compile_it(backend, changes, model)
    with pytest.raises(Recorded):
        run_script(backend, changes, model.path.parent)
    assert calls[0] == calls[1]
    assert calls[0][1]["INFERENCE_PRECISION_HINT"] == "f32"


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"options": {"channels_last": True}}, {"options": {"mode": "compile"}}],
    ids=str,
)
def test_no_script_is_written_that_runs_otherwise_than_measured(changes: dict[str, Any]) -> None:
    settings = catalog.backend("eager").runtime_settings(target("eager", changes))
    assert json.loads(json.dumps(settings)) == settings
    with pytest.raises(UsageError, match="no script is written for PyTorch with"):
        deployment_snippet(
            "eager", "model.safetensors", SIGNATURE, "def f(p):\n    return p\n", settings=settings, factory="a.py:b"
        )


def run_script(backend: str, changes: dict[str, Any], folder: Path) -> None:
    """Run the deployment script for ``model.onnx`` in ``folder``, in this process."""
    found = catalog.backend(backend)
    asked = target(backend, changes)
    settings = (
        found.runtime_settings_for(asked, folder / "model.onnx")
        if isinstance(found, SuitsFile)
        else found.runtime_settings(asked)
    )
    code = deployment_snippet(backend, "model.onnx", SIGNATURE, "def preprocess(path):\n    return path\n", settings=settings)
    exec(code, {"__file__": str(folder / "run.py"), "__name__": "__main__"})
