"""A training's state in one safetensors file, replaced in one step: a kill leaves the state before it, or the one after.

The numbers beside the tensors are JSON in the file's header, with a digest of both: nothing in it is pickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from accel import atomic
from accel.compress.training.state import state_digest

_FILE = "checkpoint.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """``record``: JSON-ready numbers. ``tensors``: by ``group`` and name, on the CPU."""

    record: Mapping[str, Any]
    tensors: Mapping[str, Mapping[str, Tensor]]


def path_in(folder: Path) -> Path:
    """Where the checkpoint of the training in ``folder`` lies."""
    return folder / _FILE


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in ``folder``, made where it is not there. Raises StorageFault; the old one then stays."""
    flat = {
        f"{group}:{name}": tensor.detach().cpu().contiguous().clone()  # safetensors refuses views of one storage
        for group, tensors in checkpoint.tensors.items()
        for name, tensor in tensors.items()
    }
    record = json.dumps(dict(checkpoint.record))
    header = {"record": record, "sha256": _digest(record, flat)}
    with atomic.storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    atomic.write(path_in(folder), save(flat, header))


def read(folder: Path) -> Checkpoint | None:
    """The checkpoint in ``folder``; None where there is none. Raises ValueError, saying why, for a damaged one."""
    path = path_in(folder)
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        text = header["record"]
        record = json.loads(text)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None
    if header.get("sha256") != _digest(text, flat):
        raise ValueError(f"{path.name} is damaged: it holds something else than was written")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, tensor in flat.items():
        group, _, rest = name.partition(":")
        tensors.setdefault(group, {})[rest] = tensor
    return Checkpoint(record, tensors)


def _digest(record: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256((record + state_digest(tensors)).encode()).hexdigest()


def clean(folder: Path) -> None:
    """Remove what writes that were killed left in ``folder``."""
    for left in folder.glob(f".{_FILE}.*.partial"):
        left.unlink(missing_ok=True)
