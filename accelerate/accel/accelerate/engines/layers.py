"""The layers of a built engine, from the JSON that TensorRT's engine inspector writes (``trtexec --exportLayerInfo``).

Format: NVIDIA, TensorRT documentation, "Engine Inspector", and "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".
It is an object whose ``Layers`` are objects where the engine was built with detailed profiling verbosity, else names.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accel.accelerate.engines.names import OnnxNodes, copied_for, nodes_in, nodes_in_name
from accel.errors import BackendFault

UNKNOWN = "unknown"
FLOATS = ("fp32", "tf32", "fp16", "bf16")
# What a kernel computes in, by its name. First those whose names hold a later one's: i8f32 computes in INT8, tf32 is no FP32.
_TACTICS = (
    ("int8", re.compile(r"(?:^|_)(?:i8|int8|s8(?!\d)|imma|i\d+gemm)")),
    ("fp8", re.compile(r"(?:^|_)(?:e4m3|e5m2|fp8)")),
    ("tf32", re.compile(r"tf32")),
    ("bf16", re.compile(r"(?:^|_)bf16")),
    ("fp16", re.compile(r"(?:^|_)(?:f16|fp16|h\d|half)")),
    ("fp32", re.compile(r"(?:^|_)(?:f32|fp32|sgemm|scudnn|float)")),
)
# In words of the formats: "Row major linear FP32", "Thirty-two wide channel vectorized row major Int8 format".
_DATATYPES = (
    ("int8", re.compile(r"\bint8\b", re.IGNORECASE)),
    ("fp8", re.compile(r"\bfp8\b", re.IGNORECASE)),
    ("fp4", re.compile(r"\bfp4\b", re.IGNORECASE)),
    ("int4", re.compile(r"\bint4\b", re.IGNORECASE)),
    ("bf16", re.compile(r"\b(?:bf16|bfloat16)\b", re.IGNORECASE)),
    ("fp16", re.compile(r"\b(?:fp16|half)\b", re.IGNORECASE)),
    ("fp32", re.compile(r"\b(?:fp32|float)\b", re.IGNORECASE)),
    ("int32", re.compile(r"\bint32\b", re.IGNORECASE)),
    ("int64", re.compile(r"\bint64\b", re.IGNORECASE)),
    ("bool", re.compile(r"\bbool\b", re.IGNORECASE)),
)
_HEAVY = re.compile(r"conv(?!er)|gemm|matrixmultiply|matmul|fullyconnected", re.IGNORECASE)
_IDLE = frozenset({"noop", "constant", "shape_call", "signal", "wait", "trainstation"})


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine. ``reads`` and ``makes``: names of tensors; ``tactic``: the kernel, empty where it is not told.

    ``precision``: what it computes in, ``unknown`` where nothing tells; ``data``: the type of its first input. ``copies``: it
    only converts a format or a type.
    ``heavy``: its work is multiply-adds; ``idle``: it computes nothing. ``sparse_weights``: two of four weights are zero;
    ``sparse``: its kernel makes use of that.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    precision: str
    data: str = UNKNOWN
    reads: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    tactic: str = ""
    heavy: bool = False
    copies: bool = False
    idle: bool = False
    sparse: bool = False
    sparse_weights: bool = False


def engine_layers(text: str, place: str = "the engine inspector's JSON", known: OnnxNodes | None = None) -> list[EngineLayer]:
    """The layers in the order they run. ``place`` names the text in errors. BackendFault for anything else than such JSON."""
    record = parsed(text, place)
    if isinstance(record, list) and any(isinstance(row, dict) and "averageMs" in row for row in record):
        raise BackendFault(f"{place}: these are layer times (--exportProfile), not layers; give the file of --exportLayerInfo")
    layers = record.get("Layers") if isinstance(record, dict) else None
    if not isinstance(layers, list):
        raise BackendFault(
            f"{place}: not what an engine inspector writes: it has no list of Layers; save it with --exportLayerInfo"
        )
    found = [_layer(layer, index, place, known) for index, layer in enumerate(layers)]
    if not found:
        raise BackendFault(f"{place}: it lists no layers; build the engine with detailed profiling verbosity")
    return found


def layer_times(text: str, place: str = "the layer times") -> dict[str, float]:
    """Layer to mean milliseconds of one inference, from ``trtexec --exportProfile``. BackendFault for another kind of file."""
    record = parsed(text, place)
    if isinstance(record, dict) and "Layers" in record:
        raise BackendFault(f"{place}: these are layers (--exportLayerInfo), not their times; give the file of --exportProfile")
    rows = record if isinstance(record, list) else []
    count = next((row["count"] for row in rows if isinstance(row, dict) and isinstance(row.get("count"), int)), 0)
    times: dict[str, float] = {}
    for row in rows:
        if not isinstance(row, dict) or "name" not in row:
            continue
        mean = row.get("averageMs", row["timeMs"] / count if _number(row.get("timeMs")) and count > 0 else None)
        if mean is None or not _number(mean):
            raise BackendFault(
                f"{place}: layer {row['name']!r} has no time that is a number; save it again with --exportProfile"
            )
        times[str(row["name"])] = times.get(str(row["name"]), 0.0) + float(mean)
    if not times:
        raise BackendFault(f"{place}: no layer times in it; save them with --exportProfile")
    return times


def parsed(text: str, place: str) -> Any:
    """JSON as TensorRT writes it, where names may hold control characters. BackendFault where it is none."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise BackendFault(f"{place}: not JSON, or cut short") from None


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _layer(record: object, index: int, place: str, known: OnnxNodes | None) -> EngineLayer:
    if isinstance(record, str):
        return _named(record, known)
    if not isinstance(record, dict) or not isinstance(record.get("Name"), str):
        raise BackendFault(f"{place}: layer {index} is neither a name nor an object with a Name")
    name, kind, tactic = record["Name"], str(record.get("LayerType", "")), str(record.get("TacticName") or "")
    nodes = nodes_in(str(record.get("Metadata") or ""))
    if known is not None:
        nodes = tuple(node for node in nodes if node in known.kinds)
    nodes = nodes or nodes_in_name(name, known)
    copies = kind.lower() == "reformat" or copied_for(name) is not None
    made_by_builder = copies and str(record.get("Origin", "REFORMAT")).upper() == "REFORMAT"
    heavy = not copies and _is_heavy(f"{kind} {record.get('ParameterType', '')} {tactic}", nodes, known)
    reads, makes = (_tensors(record.get(side)) for side in ("Inputs", "Outputs"))
    return EngineLayer(
        name=name,
        kind=kind,
        nodes=() if made_by_builder else nodes,
        precision=_precision(record, tactic, copies=copies, heavy=heavy),
        data=reads[0][1] if reads else UNKNOWN,
        reads=tuple(each for each, _ in reads),
        makes=tuple(each for each, _ in makes),
        tactic=tactic,
        heavy=heavy,
        copies=copies,
        idle=kind.lower() in _IDLE or name.startswith("[trainStation"),
        sparse="sparse" in tactic.lower() or "spgemm" in tactic.lower(),
        sparse_weights=bool(record.get("HasSparseWeights")),
    )


def _named(name: str, known: OnnxNodes | None) -> EngineLayer:
    """A layer of which only the name is told."""
    nodes = nodes_in_name(name, known)
    copies = copied_for(name) is not None
    heavy = not copies and _is_heavy("", nodes, known)
    idle = name.startswith("[trainStation")
    return EngineLayer(name=name, kind="", nodes=nodes, precision=UNKNOWN, heavy=heavy, copies=copies, idle=idle)


def _is_heavy(told: str, nodes: tuple[str, ...], known: OnnxNodes | None) -> bool:
    if known is not None and nodes:
        return any(known.kinds.get(node) in ("Conv", "ConvTranspose", "Gemm", "MatMul") for node in nodes)
    return bool(_HEAVY.search(told))


def _tensors(side: object) -> list[tuple[str, str]]:
    """Name and element type of each tensor; the type is ``unknown`` where the shapes that it depends on are not set."""
    found = []
    for tensor in side if isinstance(side, list) else ():
        if isinstance(tensor, dict):
            # TensorRT 11 tells format and type apart, 10 in one field.
            told = " ".join(str(tensor.get(key, "")) for key in ("Datatype", "DataType", "Format/Datatype", "Format"))
            found.append((str(tensor.get("Name", "")), _first(_DATATYPES, told)))
    return found


def _precision(record: Mapping[str, Any], tactic: str, *, copies: bool, heavy: bool) -> str:
    """What a layer computes in. An INT8 convolution may give floats: its kernel and its weights say so, its output does not."""
    outputs = _tensors(record.get("Outputs"))
    output = outputs[0][1] if outputs else UNKNOWN
    if copies or not heavy:
        return output
    inputs = _tensors(record.get("Inputs"))
    data = inputs[0][1] if inputs else UNKNOWN
    weights = record.get("Weights")
    stored = _first(_DATATYPES, str(weights.get("Type", ""))) if isinstance(weights, dict) else UNKNOWN
    by_kernel = _first(_TACTICS, tactic.lower())
    if by_kernel != UNKNOWN:
        return by_kernel
    # Weights alone in INT8 are made float before the product.
    if data in ("int8", "fp8") and stored in (data, UNKNOWN):
        return data
    return next((each for each in (output, data) if each in FLOATS), output)


def _first(patterns: tuple[tuple[str, re.Pattern[str]], ...], text: str) -> str:
    return next((name for name, pattern in patterns if pattern.search(text)), UNKNOWN)
