"""The machine and the versions that the figures hold for. Imports none of the libraries, names no host, user or path."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from accel.distributions import flavours
from accel.machine import Environment, Gpu

LIBRARIES = (
    "accel-toolkit",
    "torch",
    "torchvision",
    "onnx",
    *flavours("onnxruntime"),
    *flavours("openvino"),
    "nncf",
    "onnxslim",
    "onnxscript",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "neural-compressor-pt",
    "numpy",
    "pillow",
)

ISA_FLAGS = (
    # x86: what INT8 and BF16 kernels are chosen by. ARM below.
    *("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("avx_vnni_int8", "avx_ne_convert", "avx10", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
    *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme"),
)

INT8_FLAGS = frozenset({"avx_vnni", "avx512_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
"""Those with products of INT8 summed up in one instruction. Without one, runtimes widen to 16 bits first."""


def describe(libraries: Sequence[str] = LIBRARIES, *, gpus: Sequence[Gpu] = (), root: Path = Path("/")) -> Environment:
    """This machine as this process may use it. ``root`` holds ``proc`` and ``sys`` (another folder in tests).

    ``gpus``: as ``accel.accelerate.gpu_facts`` finds them, which asks the driver; this file asks only the system.
    """
    return Environment(
        platform=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        cpu=cpu_name(root),
        isa_flags=isa_flags(root),
        cores=cores(root),
        memory_bytes=memory_bytes(root),
        libraries=versions(libraries),
        governor=_first_line(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_average=_load_average(),
        gpus=list(gpus),
    )


def versions(libraries: Sequence[str]) -> dict[str, str]:
    """The installed ones of ``libraries`` (distribution names) to their versions."""
    found = {}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def gpu_line(gpu: Gpu) -> str:
    """One line about a GPU: what it is, and its clocks and temperature before and after a run as far as they are known."""
    memory = f", {gpu.memory_bytes / 2**30:.1f} GiB" if gpu.memory_bytes else ""
    line = f"{gpu.name}, compute capability {gpu.compute_capability}, driver {gpu.driver}{memory}"
    for when, state in (("now" if gpu.after is None else "before", gpu.before), ("after", gpu.after)):
        if state is None:
            continue
        facts = [
            f"{value} {unit}"
            for value, unit in ((state.sm_clock_mhz, "MHz"), (state.temperature_c, "degrees C"))
            if value is not None
        ]
        facts += [f"slowed by {reason}" for reason in state.throttled]
        line += f", {when} {', '.join(facts)}" if facts else ""
    return line


def cpu_name(root: Path = Path("/")) -> str:
    """The model name, with family, model and stepping where the kernel tells them: virtual machines shorten the name."""
    facts = _cpuinfo(root)
    name = facts.get("model name") or facts.get("Hardware") or platform.processor() or platform.machine() or "unknown"
    numbers = [f"{key.removeprefix('cpu ')} {facts[key]}" for key in ("cpu family", "model", "stepping") if key in facts]
    return f"{' '.join(name.split())} ({', '.join(numbers)})" if numbers else " ".join(name.split())


def isa_flags(root: Path = Path("/")) -> list[str]:
    """The instruction sets of this CPU that decide how fast INT8 and BF16 run, in a fixed order."""
    facts = _cpuinfo(root)
    here = set(facts.get("flags", facts.get("Features", "")).split())
    return [flag for flag in ISA_FLAGS if flag in here]


def without_int8(root: Path = Path("/")) -> bool:
    """Whether this CPU has no instruction for INT8 (VNNI, AMX, ARM's dot product). False where the system does not tell."""
    facts = _cpuinfo(root)
    told = facts.get("flags", facts.get("Features"))
    return told is not None and not INT8_FLAGS & set(told.split())


def cores(root: Path = Path("/")) -> int:
    """Cores this process may use: the smallest of its affinity and its control groups' quota, at least 1."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in control_groups(root, "cpu"):
        quota, period = "max", "100000"
        if text := _first_line(folder / "cpu.max"):
            quota, _, period = text.partition(" ")
        elif text := _first_line(folder / "cpu.cfs_quota_us"):
            quota, period = text, _first_line(folder / "cpu.cfs_period_us") or period
        if quota.isdigit() and period.isdigit() and int(period) > 0:
            count = min(count, int(quota) // int(period))
    return max(1, count)


def memory_bytes(root: Path = Path("/")) -> int:
    """Bytes this process may use: the smallest of the machine's memory and its control groups' limit."""
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in control_groups(root, "memory"):
        text = _first_line(folder / "memory.max") or _first_line(folder / "memory.limit_in_bytes") or "max"
        if text.isdigit() and int(text) > 0:
            limit = min(limit, int(text))
    return limit


def control_groups(root: Path, controller: str) -> list[Path]:
    """Folders of this process's control group and the groups above it, for version 2 and version 1 of the interface."""
    mount = root / "sys/fs/cgroup"
    found = [mount, mount / controller]
    try:
        lines = (root / "proc/self/cgroup").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, controllers, group = line.split(":", 2) if line.count(":") >= 2 else ("", "", "/")
        top = mount if not controllers else mount / controller if controller in controllers.split(",") else None
        if top is not None and ".." not in group:
            parts = [part for part in group.split("/") if part]
            found += [top.joinpath(*parts[: depth + 1]) for depth in range(len(parts))]
    return found


def _cpuinfo(root: Path) -> dict[str, str]:
    """The facts of the first core."""
    facts: dict[str, str] = {}
    try:
        lines = (root / "proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return facts
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            facts.setdefault(key.strip(), value.strip())
    return facts


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def _load_average() -> float | None:
    """Runnable processes over the last minute; None where the system does not say."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None
