from __future__ import annotations

import gzip
import hashlib
import random
from pathlib import Path

import pytest

from accel.benchmarks.size import files, totals
from accel.errors import BackendFault


def test_files_are_listed_with_bytes_gzip_and_digest(tmp_path: Path) -> None:
    noise = random.Random(0).randbytes(3_000_000)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "weights.bin").write_bytes(noise)
    (tmp_path / "model.onnx").write_bytes(b"abc" * 1000)
    (tmp_path / "manifest.json").write_text("{}")
    weights, model = files(tmp_path)
    assert (weights.path, model.path) == ("data/weights.bin", "model.onnx")
    assert (weights.bytes, model.bytes) == (3_000_000, 3000)
    assert weights.gzip_bytes == len(gzip.compress(noise, 9, mtime=0))
    assert model.gzip_bytes == len(gzip.compress(b"abc" * 1000, 9, mtime=0)) < 100
    assert model.sha256 == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert totals([weights, model]) == (3_003_000, weights.gzip_bytes + model.gzip_bytes)


def test_empty_folder_and_empty_file(tmp_path: Path) -> None:
    assert files(tmp_path) == []
    assert totals([]) == (0, 0)
    (tmp_path / "empty").touch()
    (found,) = files(tmp_path)
    assert (found.bytes, found.gzip_bytes) == (0, 20)


@pytest.mark.parametrize("target", ["inside", "outside", "dangling"])
def test_links_do_not_ship(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "ships"
    folder.mkdir()
    (folder / "inside").touch()
    (tmp_path / "outside").touch()
    place = {"inside": folder / "inside", "outside": tmp_path / "outside", "dangling": tmp_path / "nothing"}[target]
    (folder / "model.onnx").symlink_to(place)
    with pytest.raises(BackendFault, match=r"model\.onnx: a link"):
        files(folder)
