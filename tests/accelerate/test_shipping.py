from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.shipping import require_onnx, ship
from accel.errors import BackendFault, StorageFault
from accel.model import OnnxModel, Signature, TensorSpec, TorchModel

SIGNATURE = Signature((TensorSpec("x", ("n", 64), "float32"),), (TensorSpec("y", ("n", 64), "float32"),))


def write(path: Path, external: str | None = None) -> OnnxModel:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m/MatMul")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 64])],
        [numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external is not None, location=external, size_threshold=0)
    return OnnxModel(path=path, signature=SIGNATURE, notes=("kept",))


def test_one_file(tmp_path: Path) -> None:
    source = write(tmp_path / "a name.onnx")
    ships = tmp_path / "ships"
    ships.mkdir()
    shipped = ship(source, ships)
    assert [path.name for path in ships.iterdir()] == ["model.onnx"]
    assert shipped.path.read_bytes() == source.path.read_bytes()
    assert (shipped.signature, shipped.notes) == (SIGNATURE, ("kept",))


def test_external_data_is_copied_under_its_name_and_not_linked(tmp_path: Path) -> None:
    source = write(tmp_path / "a.onnx", external="weights.bin")
    ships = tmp_path / "ships"
    ships.mkdir()
    shipped = ship(source, ships)
    assert sorted(path.name for path in ships.iterdir()) == ["model.onnx", "weights.bin"]
    assert (ships / "weights.bin").stat().st_nlink == 1
    assert not (ships / "weights.bin").is_symlink()
    source.path.unlink()
    (tmp_path / "weights.bin").unlink()
    assert len(onnx.load(str(shipped.path)).graph.initializer[0].raw_data) == 64 * 64 * 4


def test_an_ir_is_both_files(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text("<net/>")
    (tmp_path / "net.bin").write_bytes(b"weights")
    ships = tmp_path / "ships"
    ships.mkdir()
    shipped = ship(OnnxModel(path=tmp_path / "net.xml", signature=SIGNATURE), ships)
    assert shipped.path == ships / "model.xml"
    assert (ships / "model.bin").read_bytes() == b"weights"


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "a.onnx")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageFault, match="the disk is full"):
        ship(source, tmp_path)


def test_a_module_is_refused() -> None:
    from torch import nn

    with pytest.raises(BackendFault, match="put export_onnx into the passes"):
        require_onnx(TorchModel(module=nn.Identity(), signature=SIGNATURE), "openvino")
