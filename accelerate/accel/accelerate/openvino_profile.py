"""Where the time goes in OpenVINO: the graph it runs, with the counters that ``PERF_COUNT`` switches on. Does not import it.

Each node of the runtime model tells the mean of all its runs so far, ``execTimeMcs``, in whole microseconds, and the names of
what it was made from, ``originalLayersNames`` (docs.openvino.ai, "Execution graph"; src/plugins/intel_cpu, graph_dumper.cpp).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accel.accelerate.layer_nodes import FileNodes
from accel.contracts import LayerProfile, LayerRun
from accel.errors import BackendFault

WARMUP = 5
"""Inferences that are run first and do not count: in the first, kernels are made."""

COMPILATIONS = 3
"""A mean is at the mercy of what others take of the machine: the median of this many is not, or less."""

_PRECISIONS = {
    "f32": "fp32", "fp32": "fp32", "f16": "fp16", "fp16": "fp16", "bf16": "bf16", "f64": "fp64",
    "i8": "int8", "u8": "int8", "i4": "int4", "u4": "int4",
}  # fmt: skip
_NOT_RUN = frozenset({"const", "constant", "input", "parameter", "output", "result"})


@dataclass(frozen=True)
class Counter:
    """One node of the runtime model. ``mean_us``: over all inferences so far; None where it is not run."""

    name: str
    kind: str
    made_from: str
    precision: str
    mean_us: int | None


def counters(runtime_model: Any) -> dict[str, Counter]:
    """By name, in the order they run. BackendFault for a device that tells no times."""
    found = {}
    for node in runtime_model.get_ordered_ops():
        told = {key: str(value.astype(str) if hasattr(value, "astype") else value) for key, value in node.get_rt_info().items()}
        try:
            kind, took = told["layerType"], told["execTimeMcs"]
            if kind.lower() not in _NOT_RUN:
                name = str(node.get_friendly_name())
                us = int(took) if took.isdecimal() else None
                found[name] = Counter(name, kind, told.get("originalLayersNames", ""), told["runtimePrecision"].lower(), us)
        except KeyError as error:
            raise BackendFault(f"openvino tells no {error} of its layers on this device") from None
    return found


def means_ms(before: Mapping[str, Counter], after: Mapping[str, Counter], queries: int) -> dict[str, float]:
    """Milliseconds of each layer that ran. ``before``: after ``WARMUP`` inferences; ``after``: after ``queries`` more."""
    found = {}
    for name, counter in after.items():
        if counter.mean_us is not None:
            earlier = before[name].mean_us if name in before else None
            total = counter.mean_us * (WARMUP + queries) - (earlier or 0) * WARMUP
            found[name] = max(0, total) / queries / 1e3
    return found


def layer_profile(ran: Mapping[str, Counter], times: Sequence[Mapping[str, float]], file: FileNodes | None) -> LayerProfile:
    """``times``: of each compilation; the median counts. ``file``: the ONNX file that runs, None for another kind."""
    layers = [
        LayerRun(
            name=name,
            kind=counter.kind,
            nodes=() if file is None else _nodes(counter, file),
            precision=_PRECISIONS.get(counter.precision, counter.precision),
            ms=statistics.median(found[name] for found in times if name in found),
        )
        for name, counter in ran.items()
        if any(name in found for found in times)
    ]
    return LayerProfile(tuple(layers) if file is None else file.completed(layers))


def _nodes(counter: Counter, file: FileNodes) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for text in counter.made_from.split(",") if file.named(counter.made_from) is None else [counter.made_from]:
        node = _node(text.strip(), file)
        if node is not None:
            found[node] = None
    return tuple(found)


def _node(text: str, file: FileNodes) -> str | None:
    """The frontend and the optimizer add to a node's name (``/WithoutBiases``, ``/DequantizationMultiply``)."""
    while (node := file.named(text)) is None and "/" in text:
        text = text.rpartition("/")[0]
    return node
