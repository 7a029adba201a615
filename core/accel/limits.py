"""How far each measured row is from what the machine can do, and where its time goes: put into the rows of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accel.benchmarks.roofline import Placed, roofline
from accel.errors import AccelError
from accel.machine import Peaks
from accel.onnx_file import parse
from accel.onnx_traffic import Traffic, traffic
from accel.report import Layer, Row
from accel.rows import Found

MOST_LAYERS = 200


def with_layers(row: Row, answer: Mapping[str, Any] | None) -> Row:
    """``row``, with what its session told of its layers: in the order they run, of many those that take longest."""
    if answer is None:
        return row
    layers = [Layer(**layer) for layer in answer["layers"]]
    notes = [*row.notes, *answer["notes"]]
    if len(layers) > MOST_LAYERS:
        least = sorted((layer.ms or 0.0 for layer in layers), reverse=True)[MOST_LAYERS - 1]
        notes.append(f"layers: the {MOST_LAYERS} that take longest, of {len(layers)}")
        longer = [layer for layer in layers if (layer.ms or 0.0) > least]
        equal = [layer for layer in layers if (layer.ms or 0.0) == least][: MOST_LAYERS - len(longer)]
        kept = {id(layer) for layer in (*longer, *equal)}
        layers = [layer for layer in layers if id(layer) in kept]
    return row.model_copy(update={"layers": layers, "notes": notes})


def with_rooflines(rows: Sequence[Row], found: Mapping[str, Found], peaks: Peaks) -> list[Row]:
    """``rows``, each with its roofline where it ran on the CPU from an ONNX file; a note says why another has none.

    PyTorch has no file to count: its row stands for the untouched model, so a baseline's is counted.
    """
    counted: dict[tuple[Path, str], Traffic] = {}
    plain = [row.name for row in rows if row.role == "baseline" and row.precision and not row.precision.quantized_operators]
    untouched = next((path for name in plain if (path := _file(found[name])) is not None), None)
    return [_placed(row, found[row.name], untouched, peaks, counted) for row in rows]


def _placed(row: Row, entry: Found, untouched: Path | None, peaks: Peaks, counted: dict[tuple[Path, str], Traffic]) -> Row:
    if row.device != "cpu" or row.latency is None or row.precision is None or entry.compiled is None:
        return row
    path = untouched if row.backend == "eager" else _file(entry)
    if path is None:
        return row if row.backend == "eager" else _noted(row, "no roofline: operators are counted in ONNX files only")
    fed = entry.compiled["inputs"]
    key = (path, json.dumps(fed))
    try:
        if key not in counted:
            counted[key] = counted_traffic(path, fed)
        placed = roofline(counted[key], peaks, row.precision, row.latency.p50_ms, in_float=in_float(entry.layers))
    except (AccelError, ValueError, RuntimeError) as error:  # onnx raises its own kinds of the last two
        return _noted(row, f"no roofline: {error}")
    return _with(row, placed)


def counted_traffic(path: Path, fed: Mapping[str, str]) -> Traffic:
    """What one inference of the file computes and moves. ``fed``: inputs to type and shape, as sessions tell them."""
    proto = parse(path)
    sizes = {}
    for value in proto.graph.input:
        shape = json.loads(fed[value.name].partition(" ")[2]) if value.name in fed else []
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=False):
            if dim.dim_param:
                sizes[dim.dim_param] = size
            dim.dim_value = size
    return traffic(proto, sizes)


def in_float(answer: Mapping[str, Any] | None) -> frozenset[str] | None:
    """The nodes of the file that ran in float and nowhere in INT8; None where nobody told."""
    if answer is None:
        return None
    ran: dict[bool, set[str]] = {True: set(), False: set()}
    for layer in answer["layers"]:
        ran[layer["precision"] == "int8"].update(layer["nodes"])
    return frozenset(ran[False] - ran[True])


def _file(entry: Found) -> Path | None:
    """The ONNX file that a row runs; None for another kind."""
    path = Path(str(entry.subject.model.get("path", "")))
    return path if path.suffix == ".onnx" else None


def _with(row: Row, placed: Placed) -> Row:
    return row.model_copy(update={"roofline": placed.roofline, "notes": [*row.notes, *placed.notes]})


def _noted(row: Row, note: str) -> Row:
    return row.model_copy(update={"notes": [*row.notes, note]})
