"""``accel cache``: look after the store of finished steps."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from accel.errors import UsageError
from accel.store import Store

_ACTIONS = ("path", "list", "verify", "shrink", "clear")


def run(action: str, *, folder: Path, limit_bytes: int, as_json: bool, out: Console) -> int:
    """``path`` prints where it is; ``list`` its entries; ``verify`` evicts damaged ones; the others free space."""
    if action not in _ACTIONS:
        raise UsageError(f"cache: found {action!r}, allowed are {', '.join(_ACTIONS)}")
    store = Store(folder)
    if action == "path":
        _say(out, {"path": str(folder)}, str(folder), as_json)
    elif action == "list":
        entries = store.entries()
        records = [
            {
                "key": entry.key,
                "bytes": entry.size_bytes,
                "used": datetime.fromtimestamp(entry.used, UTC).isoformat(timespec="seconds"),
                "step": str(entry.meta.get("name", "")),
                "files": sorted(entry.files),
            }
            for entry in entries
        ]
        lines = [
            f"{entry.key[:12]}  {entry.size_bytes / 2**20:9.2f} MiB  {record['used']}  {record['step']}"
            for entry, record in zip(entries, records, strict=True)
        ]
        total = sum(entry.size_bytes for entry in entries) / 2**20
        lines.append(f"{len(entries)} entries, {total:.2f} MiB in {folder}")
        _say(out, {"folder": str(folder), "entries": records}, "\n".join(lines), as_json)
    elif action == "verify":
        faults = store.verify()
        text = "\n".join([*faults, f"{len(faults)} damaged entries removed"])
        _say(out, {"removed": faults}, text, as_json)
    else:
        removed, freed = store.shrink(limit_bytes if action == "shrink" else 0)
        _say(
            out,
            {"removed": removed, "freed_bytes": freed},
            f"{removed} entries removed, {freed / 2**20:.2f} MiB freed",
            as_json,
        )
    return 0


def _say(out: Console, record: dict[str, object], text: str, as_json: bool) -> None:
    if as_json:
        out.file.write(json.dumps(record, indent=2) + "\n")
    else:
        out.print(text, markup=False, highlight=False, soft_wrap=True)
