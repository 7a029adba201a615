"""The caches of this machine, as the kernel tells them (Linux: Documentation/ABI/testing/sysfs-devices-system-cpu)."""

from __future__ import annotations

import os
import re
from pathlib import Path

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level(root: Path = Path("/")) -> tuple[int, ...]:
    """Bytes of each last-level cache that cores of this process have; empty where the system does not tell.

    A virtual machine may show more than it gets: its neighbours use the same cache.
    """
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    found: dict[tuple[int, str], int] = {}
    for core in cores:
        for index in sorted((root / f"sys/devices/system/cpu/cpu{core}/cache").glob("index*")):
            level, size, shared = (_text(index / name) for name in ("level", "size", "shared_cpu_list"))
            if level.isdigit() and (bytes_ := _bytes(size)) and _text(index / "type") != "Instruction":
                found[int(level), shared or f"core {core}"] = bytes_
    deepest = max((level for level, _ in found), default=0)
    return tuple(bytes_ for (level, _), bytes_ in sorted(found.items()) if level == deepest)


def _bytes(size: str) -> int:
    """``32768K`` to bytes; 0 for anything else."""
    match = re.fullmatch(r"(\d+)([KMG]?)", size)
    return int(match[1]) * _UNITS.get(match[2], 1) if match else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""
