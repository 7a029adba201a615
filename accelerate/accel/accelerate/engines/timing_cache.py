"""TensorRT's timing cache in a file: what it measured of kernels, so that the next build does not measure it again.

One file for each library version, GPU and driver, in our frame: a line, the SHA-256 of the rest, the rest. What was damaged is
found before the library sees it.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from accel import atomic
from accel.accelerate.engines.library import TensorRtLibrary
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.errors import StorageFault

_MAGIC = b"accel tensorrt timing cache 1\n"
_DIGEST_BYTES = 32


def place(cache: Path, library: TensorRtLibrary, device: NvidiaDevice) -> Path:
    """The file for this library version, GPU and driver, below the folder ``cache``."""
    parts = (library.name, library.version, device.name, device.compute_capability, device.driver)
    return cache / f"timing-{'-'.join(re.sub(r'[^A-Za-z0-9.]+', '_', part) for part in parts)}.bin"


def attach(config: Any, path: Path) -> tuple[str, ...]:
    """Give the builder what was kept, if it is whole; gives notes. Whatever is wrong with the file costs time, nothing else."""
    kept, notes = _read(path)
    timing = _created(config, kept)
    if timing is None and kept:
        notes = (f"the timing cache {path.name} does not suit this library and was ignored",)
        timing = _created(config, b"")
    if timing is not None:
        config.set_timing_cache(timing, False)
    return notes


def keep(config: Any, path: Path) -> tuple[str, ...]:
    """Write what the builder measured; gives notes. The last of two builds at once wins, which costs the other's time alone."""
    timing = config.get_timing_cache()
    if timing is None:
        return ()
    data = bytes(timing.serialize())
    try:
        atomic.write(path, _MAGIC + hashlib.sha256(data).digest() + data)
    except StorageFault as fault:
        return (f"the timing cache was not kept: {fault}",)
    return ()


def _created(config: Any, data: bytes) -> Any:
    try:
        return config.create_timing_cache(data)
    except (RuntimeError, ValueError, TypeError):  # of another version: the library returns None or raises
        return None


def _read(path: Path) -> tuple[bytes, tuple[str, ...]]:
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return b"", ()
    except OSError as error:
        return b"", (f"the timing cache {path.name} cannot be read ({error.strerror}) and was ignored",)
    start = len(_MAGIC) + _DIGEST_BYTES
    digest, data = found[len(_MAGIC) : start], found[start:]
    if not found.startswith(_MAGIC) or hashlib.sha256(data).digest() != digest:
        return b"", (f"the timing cache {path.name} is damaged and was ignored",)
    return data, ()
