"""``accel doctor``: what works here, and what is missing for the rest."""

from __future__ import annotations

import json as json_module
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from accel import catalog
from accel.accelerate import gpu_facts, nvidia_device
from accel.benchmarks.environment import describe, gpu_line, versions
from accel.benchmarks.untrusted import plain
from accel.contracts import AheadOfTime, Backend
from accel.errors import MissingBackend
from accel.machine import Gpu
from accel.model import Target

_REFERENCE = "eager"  # it comes with torch, a hard dependency: alone it deploys nothing
_TELEMETRY = "accel sends nothing and fetches nothing; what ONNX Runtime, OpenVINO and NNCF would send is switched off"


def run(*, json: bool, cache_folder: Path, out: Console) -> int:
    """Print the machine, each backend and the cache. Gives 0, or 3 if no backend but the reference can be used."""
    backends = {name: _backend(catalog.backend(name)) for name in sorted(catalog.backends())}
    usable = [name for name, facts in backends.items() if facts["available"] and name != _REFERENCE]
    record: dict[str, Any] = {
        "ok": bool(usable),
        "environment": describe(gpus=gpu_facts.gpus()).model_dump(mode="json"),
        "gpu_problem": nvidia_device.problem(),
        "backends": backends,
        "cache": {"folder": str(cache_folder), "problem": cache_problem(cache_folder)},
        "telemetry": _TELEMETRY,
    }
    if json:
        out.file.write(json_module.dumps(record, indent=2, allow_nan=False) + "\n")
    else:
        _show(record, out)
    return 0 if usable else MissingBackend.exit_code


def _backend(backend: Backend) -> dict[str, Any]:
    devices = {device: _missing(backend, device) for device in backend.devices}
    found: Mapping[str, str] = getattr(backend, "versions", lambda: versions([backend.distribution]))()
    return {
        "available": any(reason is None for reason in devices.values()),
        "versions": dict(found),
        "devices": {device: {"available": reason is None, "missing": reason} for device, reason in devices.items()},
        "builds": [device for device, reason in devices.items() if reason is not None and _builds(backend, device)],
        "problem": _conflict(found),
    }


def _missing(backend: Backend, device: str) -> str | None:
    """None, or why ``device`` cannot be used here; of a backend that may build without it, with how to."""
    reason: str | None = backend.unavailable(device)
    if reason is None or not isinstance(backend, AheadOfTime):
        return reason
    return backend.cannot_build(_target(backend, device)) or reason


def _builds(backend: Backend, device: str) -> bool:
    """Whether files for a ``device`` that cannot be used here can be made here all the same."""
    return isinstance(backend, AheadOfTime) and backend.cannot_build(_target(backend, device)) is None


def _target(backend: Backend, device: str) -> Target:
    return Target(name="doctor", backend=backend.name, device=device)


def _conflict(found: Mapping[str, str]) -> str | None:
    """The flavours of one library share their files: the last one installed has overwritten the others."""
    if len(found) < 2:
        return None
    return f"{' and '.join(found)} overwrite one another's files; uninstall all of them, then install one"


def cache_problem(folder: Path) -> str | None:
    """None, or why nothing can be stored in ``folder``. Makes no folder: the nearest one that is there is tried."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        return f"{place} is not a folder; give --cache-dir"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{place} cannot be written to; give --cache-dir"
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".accel-doctor-"):
            return None
    except OSError as error:
        return f"{place} cannot be written to ({error.strerror}); give --cache-dir"


def _show(record: Mapping[str, Any], out: Console) -> None:
    machine = record["environment"]
    _line(out, "machine", f"{machine['platform']}, Python {machine['python']}")
    _line(out, "CPU", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_bytes'] / 2**30:.1f} GiB for this process")
    _line(out, "ISA", " ".join(machine["isa_flags"]) or "none of those that speed INT8 up")
    if record["gpu_problem"]:
        _line(out, "GPU", record["gpu_problem"])
    for gpu in machine["gpus"]:
        _line(out, f"GPU {gpu['index']}", gpu_line(Gpu(**gpu)))
    _line(out, "libraries", ", ".join(f"{name} {version}" for name, version in machine["libraries"].items()))
    for name, backend in record["backends"].items():
        known = ", ".join(f"{distribution} {version}" for distribution, version in backend["versions"].items())
        here = [device for device, found in backend["devices"].items() if found["available"]]
        if here:
            _line(out, name, f"ready on {', '.join(here)} ({known})")
        reasons: dict[str, list[str]] = {}
        for device, found in backend["devices"].items():
            if not found["available"]:
                reasons.setdefault(found["missing"], []).append(device)
        for reason, devices in reasons.items():
            _line(out, "" if here else name, f"not on {', '.join(devices)}: {reason}")
        if backend["builds"]:
            _line(
                out, "", f"files for {', '.join(backend['builds'])} can be built here all the same, and run where the device is"
            )
        if backend["problem"]:
            _line(out, "", f"warning: {backend['problem']}")
    cache = record["cache"]
    _line(out, "cache", cache["problem"] or f"{cache['folder']} can be written to")
    _line(out, "telemetry", record["telemetry"])
    if not record["ok"]:
        _line(out, "", "no backend to deploy to; get both for CPUs with: pip install 'accel-toolkit[cpu]'")


def _line(out: Console, head: str, text: str) -> None:
    out.print(Text(f"{head:<12} {plain(text)}"), soft_wrap=True)
