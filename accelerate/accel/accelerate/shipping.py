"""Copies of the files that a target ships. Copies, never links: ONNX refuses external data behind a symbolic or hard link."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from accel.atomic import storage_faults
from accel.errors import BackendFault
from accel.model import OnnxModel


def ship(model: OnnxModel, folder: Path) -> OnnxModel:
    """Copy an ONNX file as ``model.onnx``, its external data under the names it has; or an IR as ``model.xml`` and ``.bin``."""
    from accel.onnx_file import files

    main, *rest = files(model.path)
    for source in rest:
        place = folder / "model.bin" if main.suffix == ".xml" else folder / source.relative_to(main.parent)
        with storage_faults(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, place)
    place = folder / f"model{main.suffix}"
    with storage_faults(place):
        shutil.copyfile(main, place)
    return replace(model, path=place)


def require_onnx(model: object, backend: str) -> OnnxModel:
    """``model`` itself, or BackendFault where it is not a file."""
    if not isinstance(model, OnnxModel):
        raise BackendFault(f"{backend} runs ONNX files, not a PyTorch module: put export_onnx into the passes")
    return model
