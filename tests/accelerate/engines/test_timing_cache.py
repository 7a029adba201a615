"""The timing cache on disk: kept for the next build, and ignored with a note where it is damaged.

TensorRT itself is a fake here: TensorRT-RTX has no such cache, and TensorRT needs a GPU for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accel import atomic
from accel.accelerate.engines import timing_cache as tensorrt_timing
from accel.accelerate.engines.editions import edition
from accel.accelerate.engines.library import TensorRtLibrary
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.errors import StorageFault

DEVICE = NvidiaDevice(0, "NVIDIA A100-SXM4 40GB", "8.0", "580.1", 0)


def library(version: str = "11.4.1") -> TensorRtLibrary:
    return TensorRtLibrary("tensorrt", version, None, edition("tensorrt", 11))


class Timing:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def serialize(self) -> bytes:
        return self.data + b" and more"


class Config:
    """As the library's: refuses a cache that starts with ``other``."""

    def __init__(self, *, raises: bool = False) -> None:
        self.timing: Any = None
        self._raises = raises

    def create_timing_cache(self, data: bytes) -> Timing | None:
        if not data.startswith(b"other"):
            return Timing(data)
        if self._raises:
            raise RuntimeError("wrong version")
        return None

    def set_timing_cache(self, timing: Timing, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        self.timing = timing
        return True

    def get_timing_cache(self) -> Any:
        return self.timing


def test_what_was_measured_is_there_for_the_next_build(tmp_path: Path) -> None:
    place = tensorrt_timing.place(tmp_path, library(), DEVICE)
    first, second = Config(), Config()
    assert tensorrt_timing.attach(first, place) == ()
    assert first.timing.data == b""
    assert tensorrt_timing.keep(first, place) == ()
    assert tensorrt_timing.attach(second, place) == ()
    assert second.timing.data == b" and more"


def test_one_file_for_each_library_gpu_and_driver(tmp_path: Path) -> None:
    places = {
        tensorrt_timing.place(tmp_path, library(), DEVICE),
        tensorrt_timing.place(tmp_path, library("11.4.0"), DEVICE),
        tensorrt_timing.place(tmp_path, library(), NvidiaDevice(0, DEVICE.name, "8.0", "581.0", 0)),
        tensorrt_timing.place(tmp_path, library(), NvidiaDevice(0, "NVIDIA L4/x", "8.9", "580.1", 0)),
    }
    assert len(places) == 4
    assert {place.parent for place in places} == {tmp_path}


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "folder"])
def test_a_damaged_file_is_ignored_with_a_note(damage: str, tmp_path: Path) -> None:
    place = tensorrt_timing.place(tmp_path, library(), DEVICE)
    config = Config()
    tensorrt_timing.attach(config, place)
    tensorrt_timing.keep(config, place)
    whole = place.read_bytes()
    place.unlink()
    if damage == "folder":
        place.mkdir()
    else:
        changed = {"cut": whole[:-1], "flipped": whole[:-1] + b"!", "empty": b"", "foreign": b"x" * 500}
        place.write_bytes(changed[damage])
    again = Config()
    (note,) = tensorrt_timing.attach(again, place)
    assert place.name in note
    assert "was ignored" in note
    assert again.timing.data == b""


@pytest.mark.parametrize("raises", [True, False])
def test_one_that_the_library_does_not_take(raises: bool, tmp_path: Path) -> None:
    place = tmp_path / "timing.bin"
    config = Config()
    config.timing = Timing(b"other")
    tensorrt_timing.keep(config, place)
    again = Config(raises=raises)
    (note,) = tensorrt_timing.attach(again, place)
    assert "does not suit this library" in note
    assert again.timing.data == b""


def test_a_full_disk_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise StorageFault(f"{path}: the disk is full")

    monkeypatch.setattr(atomic, "write", full)
    config = Config()
    config.timing = Timing(b"")
    (note,) = tensorrt_timing.keep(config, tmp_path / "timing.bin")
    assert "the disk is full" in note
    assert tensorrt_timing.keep(Config(), tmp_path / "timing.bin") == ()
