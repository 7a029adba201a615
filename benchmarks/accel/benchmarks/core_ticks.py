"""What the system says each core did since it started: proc(5), /proc/stat. Linux only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ticks:
    """``idle``: waiting for input and output included. ``stolen``: kept by the hypervisor; None where it is not told."""

    busy: int
    idle: int
    stolen: int | None


def read(root: Path = Path("/")) -> dict[int, Ticks]:
    """By the number of the core; empty where the system does not tell."""
    try:
        lines = (root / "proc/stat").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, *columns = line.split() or [""]
        if not name.startswith("cpu") or not name[3:].isdecimal():
            continue
        if len(columns) < 7 or not all(column.isdecimal() for column in columns):
            return {}
        user, nice, system, idle, waiting, interrupts, soft, *more = map(int, columns)
        found[int(name[3:])] = Ticks(user + nice + system + interrupts + soft, idle + waiting, more[0] if more else None)
    return found
