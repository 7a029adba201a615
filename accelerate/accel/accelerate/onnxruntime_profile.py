"""Where the time goes in ONNX Runtime: its profile (``SessionOptions.enable_profiling``), read. Does not import it.

The file is a list of trace events (Chrome's format): ``Node`` events, each one run of one node of the optimized graph, and
``Session`` events, of which ``model_run`` spans one inference. Times are whole microseconds.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accel.accelerate.layer_nodes import FileNodes
from accel.accelerate.onnx_operators import INT8_OPERATORS
from accel.contracts import LayerProfile, LayerRun
from accel.errors import BackendFault

WARMUP = 3
"""Inferences that are run first and do not count: the first pays for what later ones find done."""

_PRECISIONS = {
    "float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64", "int8": "int8", "uint8": "int8",
    "int4": "int4", "uint4": "int4",
}  # fmt: skip
# Made by its own rewriting (NCHWc blocks, Q/DQ around an operator, layout changes), so none is a name of the file's.
_SUFFIX = re.compile(r"(_kernel_time|_token_\d+|_nchwc|_nhwc|_pre_q|_q_to_dq|_q|_dq|_transpose_\w+)$")
_UNNAMED = re.compile(r"^(?P<kind>\w+)_(?P<index>\d+)$")


@dataclass
class _Layer:
    name: str
    kind: str
    index: int
    precision: str
    us: list[int] = field(default_factory=list)


def layer_profile(text: str, file: FileNodes | None) -> LayerProfile:
    """``text``: the profile of a session that ran ``WARMUP`` inferences and then at least one; ``file``: what it ran.

    Raises BackendFault for a profile that is none, or of no inference.
    """
    try:
        events = [event for event in json.loads(text, strict=False) if isinstance(event, dict)]
        runs = sorted(int(event["ts"]) for event in events if event.get("name") == "model_run")[WARMUP:]
        layers = _layers(events, runs[0] if runs else 0)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackendFault(
            f"onnxruntime's profile cannot be read ({type(error).__name__}); this release may have another"
        ) from None
    if not runs or not layers:
        raise BackendFault("onnxruntime's profile holds no inference; this release may have another")
    found = [
        LayerRun(
            name=layer.name,
            kind=layer.kind,
            nodes=() if file is None else _nodes(layer, file),
            precision=layer.precision,
            ms=_usual_us(layer.us, len(runs)) / 1e3,
        )
        for layer in layers
    ]
    return LayerProfile(tuple(found) if file is None else file.completed(found))


def _usual_us(taken: Sequence[int], runs: int) -> float:
    """Of one inference: the median, which what others take of the machine does not move, of a layer that each runs once."""
    return statistics.median(taken) if len(taken) == runs else sum(taken) / runs


def _layers(events: list[dict[str, Any]], began: int) -> list[_Layer]:
    """In the order they run. A node in the body of a loop runs more than once in an inference."""
    found: dict[tuple[str, str, str], _Layer] = {}
    for event in sorted((event for event in events if event.get("cat") == "Node"), key=lambda event: int(event["ts"])):
        name, told = str(event["name"]), event["args"]
        if int(event["ts"]) < began or not name.endswith("_kernel_time"):
            continue
        kind, index = str(told["op_name"]), str(told.get("node_index", "-1"))
        layer = found.setdefault(
            (name, kind, index), _Layer(name.removesuffix("_kernel_time"), kind, int(index), _precision(kind, told))
        )
        layer.us.append(int(event["dur"]))
    return list(found.values())


def _precision(kind: str, told: Mapping[str, Any]) -> str:
    """What it computes in: of what it makes, but for those that take INT8 apart, or put numbers into it."""
    if kind in INT8_OPERATORS or kind.startswith("QLinear"):
        return "int8"
    side = "input_type_shape" if kind in ("QuantizeLinear", "DynamicQuantizeLinear") else "output_type_shape"
    kinds = [name for tensor in told.get(side) or [] for name in tensor]
    return _PRECISIONS.get(kinds[0], kinds[0]) if kinds else "unknown"


def _nodes(layer: _Layer, file: FileNodes) -> tuple[str, ...]:
    name = layer.name
    unnamed = _UNNAMED.match(name)
    if unnamed and file.named(name) is None:  # it calls a node without a name after its kind and its place in the file
        place = int(unnamed["index"])
        if place == layer.index and place < len(file.labels) and file.kinds[file.labels[place]] == unnamed["kind"]:
            return (file.labels[place],)
    while (found := file.named(name)) is None and (suffix := _SUFFIX.search(name)) is not None:
        name = name[: suffix.start()]
    return () if found is None else (found,)
