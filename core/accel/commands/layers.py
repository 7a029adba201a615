"""``accel layers``: where the time of a TensorRT engine goes, layer by layer, in the names of the ONNX file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from accel import catalog, engine_file
from accel.benchmarks.untrusted import plain
from accel.contracts import LayerProfile
from accel.errors import MissingBackend, UsageError
from accel.model import Target

_SHOWN = 60
_LONGEST = 60


def run(path: Path, *, times: Path | None, onnx: Path | None, as_json: bool, out: Console) -> int:
    """``path``: an engine, which is run here, or what ``trtexec --exportLayerInfo`` saved of one, with ``times`` from
    ``--exportProfile``. MissingBackend for an engine without a GPU; UsageError, BackendFault and ModelFault for files.
    """
    if path.suffix == ".engine":
        if times is not None or onnx is not None:
            raise UsageError(f"{path}: an engine is timed here; --times and --onnx go with a file that trtexec saved")
        found = timed_here(path)
    else:
        from accel.accelerate.engines.profile import profile_from_files

        found = profile_from_files(path, times, onnx)
    if as_json:
        out.file.write(json.dumps(asdict(found), indent=2, allow_nan=False) + "\n")
    else:
        _show(found, out)
    return 0


def timed_here(path: Path) -> LayerProfile:
    """Of an engine, on the GPU here. MissingBackend where there is none, or where it is not the one the engine is for."""
    manifest = engine_file.read(path)
    target = Target(name=path.name, backend="tensorrt", device="gpu", options={"library": manifest.library})
    sentence = catalog.backend("tensorrt").cannot_run(target)
    if sentence is not None:
        way = "save its layers where it runs (trtexec --exportLayerInfo, --exportProfile) and name those files"
        raise MissingBackend(f"{path}: {sentence}; or {way}")
    from accel.accelerate.engines.run import open_engine

    with open_engine(path, manifest.signature, target) as runner:
        return runner.profile()


def _show(found: LayerProfile, out: Console) -> None:
    total = sum(layer.ms or 0.0 for layer in found.layers)
    table = Table(show_edge=False, pad_edge=False)
    for head in ("layer", "kind", "precision", "ms", "share", "ONNX nodes"):
        table.add_column(head, justify="right" if head in ("ms", "share") else "left", overflow="fold")
    ranked = sorted(found.layers, key=lambda layer: -(layer.ms or 0.0)) if total else list(found.layers)
    for layer in ranked[:_SHOWN]:
        time = "" if layer.ms is None else f"{layer.ms:.4f}"
        share = "" if layer.ms is None or not total else f"{100 * layer.ms / total:.1f} %"
        cells: tuple[Any, ...] = (layer.name, layer.kind, layer.precision, time, share, ", ".join(layer.nodes))
        table.add_row(*(Text(plain(str(cell), _LONGEST)) for cell in cells))
    out.print(table)
    if len(ranked) > _SHOWN:
        out.print(Text(f"and {len(ranked) - _SHOWN} more; --json has them all"))
    for note in found.notes:
        out.print(Text(f"note: {plain(note)}"), soft_wrap=True)
