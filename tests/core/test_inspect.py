"""``accel inspect`` on real files; fault 18's canary and hostile names."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from safetensors.numpy import save_file

from accel import engine_file
from accel.commands.inspect import run
from accel.engine_file import EngineManifest, TypedLayers
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError
from accel.model import Signature, TensorSpec


def saved(path: Path, name: str = "layer/MatMul", weight: Any = None) -> Path:
    array = np.ones((4, 3), np.float32) if weight is None else weight
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="hand"), str(path)
    )
    return path


def shown(path: Path, *, as_json: bool = False, width: int = 100) -> str:
    stream = io.StringIO()
    assert run(path, json=as_json, out=Console(file=stream, width=width)) == 0
    return stream.getvalue()


def test_json_is_one_document_with_every_fact(tmp_path: Path) -> None:
    record = json.loads(shown(saved(tmp_path / "m.onnx"), as_json=True))
    assert record["signature"] == {
        "inputs": [{"name": "x", "shape": ["batch", 4], "dtype": "float32"}],
        "outputs": [{"name": "y", "shape": ["batch", 3], "dtype": "float32"}],
    }
    assert (record["parameters"], record["macs"], record["opset"], record["producer"]) == (12, 12, 17, "hand")
    assert record["operators"] == {"MatMul": 1}
    assert record["precision"]["floating"] == ["layer/MatMul"]
    assert record["size_bytes"] == (tmp_path / "m.onnx").stat().st_size


def test_tables_name_the_same(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", weight=np.zeros((4, 3), np.float32))
    for fact in ("x", "[batch, 4]", "float32", "MatMul", "12 (one sample)", "warning: w: all 12 weights are zero"):
        assert fact in shown(path)
    assert "MatMul" in shown(path, width=20)


def test_names_from_the_file_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx")
    proto = onnx.load(str(path))
    proto.producer_name = "\x1b[31m::error::[bold]evil[/bold]"
    onnx.save(proto, str(path))
    text = shown(path)
    assert "\x1b" not in text
    assert "::error" not in text
    assert "[bold]evil" in text
    assert json.loads(shown(path, as_json=True))["producer"] == "\x1b[31m::error::[bold]evil[/bold]"


def test_weights_without_a_graph(tmp_path: Path) -> None:
    save_file({"fc.weight": np.ones((3, 4), np.float16), "fc.bias": np.ones(3, np.float32)}, tmp_path / "w.safetensors")
    record = json.loads(shown(tmp_path / "w.safetensors", as_json=True))
    assert {"name": "fc.weight", "shape": [3, 4], "dtype": "float16"} in record["tensors"]
    assert record["parameters"] == 15
    assert "fc.weight" in shown(tmp_path / "w.safetensors")


def test_a_state_dict(tmp_path: Path) -> None:
    import torch

    torch.save({"fc.weight": torch.ones(3, 4)}, tmp_path / "w.pt")
    assert json.loads(shown(tmp_path / "w.pt", as_json=True))["tensors"] == [
        {"name": "fc.weight", "shape": [3, 4], "dtype": "float32"}
    ]


def test_an_ir(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "m.xml"
    openvino.save_model(openvino.Core().read_model(str(saved(tmp_path / "m.onnx"))), path, compress_to_fp16=False)
    record = json.loads(shown(path, as_json=True))
    assert (record["format"], record["macs"], record["parameters"], record["opset"]) == ("openvino-ir", 12, 12, None)
    assert [file["path"] for file in record["files"]] == ["m.xml", "m.bin"]
    assert "MatMul" in shown(path)


@pytest.mark.parametrize("name", ["model.py", "recipe.yaml"])
def test_inspect_never_imports_user_code(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(f"open({str(tmp_path / 'canary')!r}, 'w')\n")
    with pytest.raises(UsageError, match="runs no code"):
        shown(tmp_path / name)
    assert not (tmp_path / "canary").exists()


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(1, 1), tmp_path / "module.pt")
    (tmp_path / "noise.onnx").write_bytes(bytes(range(256)))
    (tmp_path / "empty.safetensors").touch()
    cases: list[tuple[str, type[AccelError]]] = [
        ("absent.onnx", UsageError),
        (".", UsageError),
        ("module.pt", SafetyRefusal),
        ("noise.onnx", ModelFault),
        ("empty.safetensors", ModelFault),
    ]
    for name, error in cases:
        with pytest.raises(error):
            shown(tmp_path / name)


def engine(folder: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "library": "tensorrt-rtx",
        "library_version": "1.7.1.116",
        "compute_capabilities": ["8.6", "12.0"],
        "gpu": None,
        "driver": None,
        "onnx_sha256": "ab" * 32,
        "settings": {"tf32": False, "profiles": [], "hardware_compatibility": "none"},
        "engine_sha256": hashlib.sha256(b"opaque").hexdigest(),
        "engine_bytes": 6,
        "build_s": 1.25,
        "signature": Signature((TensorSpec("x", ("batch", 4), "float32"),), (TensorSpec("y", ("batch", 3), "float16"),)),
        "layers": TypedLayers(quantized_operators=9, int8_typed=9, float_types={"fp16": 2}),
        "notes": ["built for GPUs that are not here"],
    }
    (folder / "model.engine").write_bytes(b"opaque")
    engine_file.write(EngineManifest(**fields | changes), folder)
    return folder / "model.engine"


def test_an_engine_is_told_by_its_manifest(tmp_path: Path) -> None:
    path = engine(tmp_path)
    record = json.loads(shown(path, as_json=True))
    assert (record["format"], record["library"], record["library_version"]) == ("tensorrt-engine", "tensorrt-rtx", "1.7.1.116")
    assert record["files"][0] == {"path": "model.engine", "bytes": 6}
    assert [file["path"] for file in record["files"]] == ["model.engine", "engine.json"]
    assert record["signature"]["outputs"] == [{"name": "y", "shape": ["batch", 3], "dtype": "float16"}]
    assert (record["layers"]["int8_typed"], record["compute_capabilities"]) == (9, ["8.6", "12.0"])
    assert record["warnings"] == []
    text = shown(path)
    for fact in (
        "tensorrt-rtx 1.7.1.116 in 1.2 s, on a machine without a GPU",
        "compute capability 8.6, 12.0",
        "model.engine 6 bytes",
        "9 int8, 2 fp16; 9 quantized in the ONNX file",
        "[batch, 4]",
        "hardware_compatibility",
        "note: built for GPUs that are not here",
    ):
        assert fact in text
    on_gpu = shown(engine(tmp_path, compute_capabilities=[], gpu="NVIDIA L4", gpu_compute_capability="8.9", driver="580.1"))
    assert "on NVIDIA L4, compute capability 8.9, driver 580.1" in " ".join(on_gpu.split())
    assert "the kind of GPU it was built on" in on_gpu


def test_an_engine_that_is_damaged_or_of_another_tool(tmp_path: Path) -> None:
    path = engine(tmp_path)
    path.write_bytes(b"OPAQUE")
    with pytest.raises(ModelFault, match="damaged or replaced"):
        shown(path)
    (tmp_path / "engine.json").unlink()
    with pytest.raises(ModelFault, match=r"no engine\.json beside it"):
        shown(path)
    hostile = engine(tmp_path, notes=["\x1b[31m::error::[bold]evil[/bold]"], settings={"\x1b[2J": "\x1b[2J"})
    assert "\x1b" not in shown(hostile)
