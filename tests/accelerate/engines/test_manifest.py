"""Each field that can keep an engine from running where it is about to be loaded, one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from accel.accelerate.engines.manifest import require_fits
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.engine_file import EngineManifest, TypedLayers
from accel.errors import BackendFault, ModelFault
from accel.model import Signature, TensorSpec

BYTES = b"an engine"
ADA = NvidiaDevice(0, "NVIDIA GeForce RTX 4090", "8.9", "580.65.06", 24 << 30)
L4 = NvidiaDevice(0, "NVIDIA L4", "8.9", "580.65.06", 24 << 30)
AMPERE = NvidiaDevice(0, "NVIDIA A10", "8.6", "580.65.06", 24 << 30)
TURING = NvidiaDevice(0, "Tesla T4", "7.5", "580.65.06", 16 << 30)
SPECS = (TensorSpec("x", (1, 4), "float32"),)


def manifest(**changes: Any) -> EngineManifest:
    """Built ahead of time by TensorRT-RTX for Ada and Blackwell."""
    fields: dict[str, Any] = {
        "library": "tensorrt-rtx",
        "library_version": "1.7.1.116",
        "compute_capabilities": ["8.9", "12.0"],
        "gpu": None,
        "driver": None,
        "onnx_sha256": "0" * 64,
        "settings": {"tf32": False},
        "engine_sha256": hashlib.sha256(BYTES).hexdigest(),
        "engine_bytes": len(BYTES),
        "build_s": 1.0,
        "signature": Signature(SPECS, SPECS),
        "layers": TypedLayers(quantized_operators=0, int8_typed=0, float_types={}),
    }
    return EngineManifest(**fields | changes)


def on_ada(**changes: Any) -> EngineManifest:
    """Built by TensorRT for the GPU that was there."""
    fields: dict[str, Any] = {
        "library": "tensorrt",
        "library_version": "11.1.0",
        "compute_capabilities": [],
        "gpu": ADA.name,
        "gpu_compute_capability": ADA.compute_capability,
        "driver": ADA.driver,
    }
    return manifest(**fields | changes)


def fits(
    found: EngineManifest,
    folder: Path,
    version: str | None = None,
    name: str | None = None,
    device: NvidiaDevice | None = ADA,
    settings: dict[str, Any] | None = None,
    content: bytes = BYTES,
) -> None:
    engine = folder / "model.engine"
    engine.write_bytes(content)
    library: Any = SimpleNamespace(name=name or found.library, version=version or found.library_version)
    require_fits(found, engine, library, device, settings)


@contextmanager
def refused(field: str, *parts: str) -> Iterator[None]:
    """One sentence: file, field, both values, way out."""
    with pytest.raises(BackendFault, match=rf"^model\.engine: {field}: ") as caught:
        yield
    for part in (*parts, "accel optimize"):
        assert part in str(caught.value)


def test_what_fits_is_let_through(tmp_path: Path) -> None:
    fits(manifest(), tmp_path)
    fits(manifest(), tmp_path, device=None)
    fits(manifest(), tmp_path, settings={"tf32": False})
    fits(on_ada(), tmp_path)


def test_engine_bytes(tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match=r"8 bytes, .* one with 9"):
        fits(manifest(), tmp_path, content=BYTES[:-1])
    with pytest.raises(ModelFault, match="engine_sha256"):
        fits(manifest(), tmp_path, content=BYTES[::-1])


def test_library(tmp_path: Path) -> None:
    with refused("library", "tensorrt-rtx", "here is tensorrt;", "library: tensorrt-rtx"):
        fits(manifest(), tmp_path, name="tensorrt")


@pytest.mark.parametrize("here", ["1.7.1.117", "1.8.0.1", "1.6.0", "2.0.0"])
def test_library_version_of_rtx_is_the_same(tmp_path: Path, here: str) -> None:
    with refused("library_version", "1.7.1.116", f"here is {here};", "install tensorrt-rtx 1.7.1.116"):
        fits(manifest(settings={"version_compatible": True}), tmp_path, version=here)


@pytest.mark.parametrize(
    ("built", "here", "compatible", "loads"),
    [
        ("11.1.0", "11.1.0", False, True),
        ("11.1.0", "11.2.0", False, False),
        ("11.1.0", "11.2.0", True, True),
        ("11.2.0", "11.1.0", True, False),
        ("10.13.0", "11.1.0", True, True),
        ("11.1.0", "12.0.0", True, False),
        ("8.6.1", "10.13.0", True, True),
        ("8.6.1", "11.0.0", True, False),
        ("11.1.0", "unknown", True, False),
    ],
)
def test_library_version_of_tensorrt(tmp_path: Path, built: str, here: str, compatible: bool, loads: bool) -> None:
    found = on_ada(library_version=built, settings={"version_compatible": compatible})
    if loads:
        fits(found, tmp_path, version=here)
        return
    with refused("library_version", built, here):
        fits(found, tmp_path, version=here)


def test_compute_capabilities(tmp_path: Path) -> None:
    with refused("compute_capabilities", "8.9, 12.0", "8.6 (NVIDIA A10)", "add 8.6 to the target's compute_capabilities"):
        fits(manifest(), tmp_path, device=AMPERE)


def test_gpu_compute_capability(tmp_path: Path) -> None:
    with refused("gpu_compute_capability", "8.9", "8.6 (NVIDIA A10)"):
        fits(on_ada(), tmp_path, device=AMPERE)
    with refused("gpu_compute_capability", "8.9", "8.6 (NVIDIA A10)", "add 8.6"):
        fits(on_ada(library="tensorrt-rtx"), tmp_path, device=AMPERE)


def test_gpu(tmp_path: Path) -> None:
    with refused("gpu", ADA.name, L4.name):
        fits(on_ada(), tmp_path, device=L4)
    with refused("gpu", "unknown", ADA.name):
        fits(on_ada(gpu=None, gpu_compute_capability=None), tmp_path)
    fits(on_ada(settings={"hardware_compatibility": "same_compute_capability"}), tmp_path, device=L4)
    fits(on_ada(library="tensorrt-rtx"), tmp_path, device=L4)  # its kernels are made where it is loaded


def test_hardware_compatibility(tmp_path: Path) -> None:
    found = on_ada(settings={"hardware_compatibility": "ampere_plus"})
    fits(found, tmp_path, device=AMPERE)
    with refused("hardware_compatibility", "8.0 and later", "7.5"):
        fits(found, tmp_path, device=TURING)


@pytest.mark.parametrize(("built", "loads"), [("580.65.06", True), ("575.51", True), ("580.65.07", False), ("590.1", False)])
def test_driver(tmp_path: Path, built: str, loads: bool) -> None:
    if loads:
        fits(on_ada(driver=built), tmp_path)
        return
    with refused("driver", built, ADA.driver, "update the driver"):
        fits(on_ada(driver=built), tmp_path)


def test_settings(tmp_path: Path) -> None:
    found = manifest(settings={"tf32": False, "library": "tensorrt-rtx", "workspace_mb": 64})
    with refused("settings.tf32", "built for False", "here is True", "set tf32 to"):
        fits(found, tmp_path, settings={"tf32": True})
    with refused("settings.workspace_mb", "64", "128"):
        fits(found, tmp_path, settings={"workspace_mb": 128, "tf32": False})
    # what is no setting of the build, or is judged elsewhere
    fits(found, tmp_path, settings={"streams": 2, "library": "auto", "tf32": False})
    fits(found, tmp_path, settings={})
