"""``accel inspect`` on real files; fault 18's canary and hostile names."""

from __future__ import annotations

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

from accel.commands.inspect import run
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError


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
