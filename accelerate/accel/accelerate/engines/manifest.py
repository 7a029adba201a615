"""Whether an engine fits where it is about to be loaded. Asked before the library sees a byte of it.

Rules: NVIDIA, "Engine Compatibility" of TensorRT 11 and of TensorRT-RTX 1.x. The library itself may crash, or answer with an
error that names nothing, when it is given another version's engine.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.accelerate.engines.log import on_one_line
from accel.engine_file import EngineManifest, require_intact
from accel.errors import BackendFault

if TYPE_CHECKING:
    from accel.accelerate.engines.library import TensorRtLibrary
    from accel.accelerate.nvidia_device import NvidiaDevice

_AGAIN = "build it again with `accel optimize` on this machine"
_CAPABILITIES = "or add {} to the target's compute_capabilities where it is built"
# Options that an engine does not have as they were written: two are compared above and below, shapes when it runs, and the
# timing cache decides nothing.
_JUDGED_ELSEWHERE = {"library", "compute_capabilities", "profiles", "timing_cache"}
# Which later major versions load what an earlier one built version compatible; all load later versions of their own.
_LATER_MAJORS = {(8, 10), (10, 11)}


def require_fits(
    manifest: EngineManifest,
    engine: Path,
    library: TensorRtLibrary,
    device: NvidiaDevice | None,
    settings: Mapping[str, Any] | None = None,
) -> None:
    """BackendFault naming the first field that differs, both values and the way out; ModelFault for damaged bytes.

    ``device``: where it shall run; None asks nothing about a GPU. ``settings``: a target's options; those that the engine was
    built with must be equal. None where nobody asks.
    """
    require_intact(engine, manifest)
    _require_library(manifest, engine, library)
    if settings is not None:
        _require_settings(manifest, engine, settings)
    if device is not None:
        _require_device(manifest, engine, device)


def _require_library(manifest: EngineManifest, engine: Path, library: TensorRtLibrary) -> None:
    if manifest.library != library.name:
        raise _differs(engine, "library", manifest.library, library.name, f"set `library: {manifest.library}`, or {_AGAIN}")
    if manifest.library_version == library.version:
        return
    way_out = f"install {manifest.library} {manifest.library_version}, or {_AGAIN}"
    if manifest.library == "tensorrt" and manifest.settings.get("version_compatible"):
        if _loads(_numbers(manifest.library_version), _numbers(library.version)):
            return
        way_out += "; an engine built version compatible runs on later versions of the same major version, and 10 on 11"
    raise _differs(engine, "library_version", manifest.library_version, library.version, way_out)


def _loads(built: tuple[int, ...], here: tuple[int, ...]) -> bool:
    if not built or not here:
        return False
    return built <= here and (built[0] == here[0] or (built[0], here[0]) in _LATER_MAJORS)


def _require_settings(manifest: EngineManifest, engine: Path, settings: Mapping[str, Any]) -> None:
    for name in sorted(settings.keys() & manifest.settings.keys() - _JUDGED_ELSEWHERE):
        if settings[name] != manifest.settings[name]:
            way_out = f"set {name} to what it was built with, or {_AGAIN}"
            raise _differs(engine, f"settings.{name}", manifest.settings[name], settings[name], way_out)


def _require_device(manifest: EngineManifest, engine: Path, device: NvidiaDevice) -> None:
    here = device.compute_capability
    way_out = f"{_AGAIN}, {_CAPABILITIES.format(here)}" if manifest.library == "tensorrt-rtx" else _AGAIN
    if manifest.compute_capabilities:
        if here not in manifest.compute_capabilities:
            built = ", ".join(manifest.compute_capabilities)
            raise _differs(engine, "compute_capabilities", built, f"{here} ({device.name})", way_out)
    else:
        _require_same_gpu(manifest, engine, device, way_out)
    if manifest.driver is not None and _numbers(device.driver) < _numbers(manifest.driver):
        # A later driver runs what was built under an earlier one, not the other way round.
        raise _differs(engine, "driver", manifest.driver, device.driver, f"update the driver, or {_AGAIN}")


def _require_same_gpu(manifest: EngineManifest, engine: Path, device: NvidiaDevice, way_out: str) -> None:
    """For an engine that was built for the GPU that was there."""
    level = str(manifest.settings.get("hardware_compatibility") or "none")
    built = manifest.gpu_compute_capability
    if level == "ampere_plus":
        if _numbers(device.compute_capability) < (8, 0):
            raise _differs(engine, "hardware_compatibility", "8.0 and later", device.compute_capability, way_out)
        return
    if built is not None and built != device.compute_capability:
        raise _differs(engine, "gpu_compute_capability", built, f"{device.compute_capability} ({device.name})", way_out)
    # TensorRT-RTX makes its kernels when it loads an engine; TensorRT chose them for one model of GPU.
    portable = built is not None and (manifest.library == "tensorrt-rtx" or level == "same_compute_capability")
    if not portable and manifest.gpu != device.name:
        raise _differs(engine, "gpu", manifest.gpu or "unknown", device.name, way_out)


def _differs(engine: Path, field: str, built: object, here: object, way_out: str) -> BackendFault:
    """``built`` comes from a file that others may have written."""
    return BackendFault(
        f"{engine.name}: {field}: the engine was built for {on_one_line(str(built))}, and here is {here}; {way_out}"
    )


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match.group().split(".")) if match else ()
