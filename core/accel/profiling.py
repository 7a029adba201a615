"""Layer profiles of several rows, each in a child of its own, taken in turn.

One profile after the other would compare two moments of the machine (its clock, its neighbours): each layer's time is the
median of rounds in which every row has its turn.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accel import sessions
from accel.contracts import LayerProfile, LayerRun
from accel.errors import AccelError, BackendFault
from accel.rows import Subject
from accel.sessions import Sessions
from accel.timed_inputs import Sample

_LIMIT_S = 600.0
_COUNTED = "quantized operators did not run in INT8"  # accelerate.precision; here it is said operator by operator
_ROUND_S = 2.0
"""Of each row in each round, about; a slow network gets fewer inferences."""


@dataclass(frozen=True)
class Profiled:
    """``counted``: how many operators the file quantizes, and how many the runtime's own optimized graph runs in INT8."""

    profile: LayerProfile
    counted: tuple[int, int]
    notes: tuple[str, ...]


def profiled(
    subjects: Sequence[Subject], sample: Sample, folder: Path, *, rounds: int = 3, queries: int = 30
) -> Mapping[str, Profiled]:
    """By the name of the subject, whose ``model`` is an ONNX file. ``folder``: for what the children write.

    Raises what the first row that fails raises: one profile alone explains no difference.
    """
    opened = Sessions(
        document=None, path=folder, allowed=(), folder=folder, sample=sample, compile_timeout_s=_LIMIT_S, pinned=True
    )

    def failed(name: str, error: AccelError) -> None:
        raise type(error)(f"{name}: {error}")

    workers = opened.start({subject.name: subject for subject in subjects}, failed)
    try:
        counts: dict[str, Mapping[str, Any]] = {name: opened.ask(workers, name, failed, "precision") for name in list(workers)}
        turns: dict[str, list[LayerProfile]] = defaultdict(list)
        for _ in range(rounds):
            for name in list(workers):
                told = opened.ask(workers, name, failed, "layers", queries=queries, limit_s=_ROUND_S)
                if told is None:
                    raise BackendFault(f"{name}: this backend does not tell how long its layers take")
                runs = tuple(LayerRun(**{**layer, "nodes": tuple(layer["nodes"])}) for layer in told["layers"])
                turns[name].append(LayerProfile(runs, tuple(told["notes"])))
    finally:
        sessions.close(workers)
    return {
        name: Profiled(
            merged(found),
            (counts[name]["quantized_operators"], counts[name]["int8_operators"]),
            tuple(note for note in counts[name]["notes"] if not note.endswith(_COUNTED)),
        )
        for name, found in turns.items()
    }


def merged(turns: Sequence[LayerProfile]) -> LayerProfile:
    """The layers of the first, each with the median of its times. Layers of one name are told apart by their order."""
    times: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    keys: list[tuple[str, str, int]] = []
    for turn in turns:
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for layer in turn.layers:
            place = seen[layer.name, layer.kind]
            seen[layer.name, layer.kind] += 1
            if turn is turns[0]:
                keys.append((layer.name, layer.kind, place))
            if layer.ms is not None:
                times[layer.name, layer.kind, place].append(layer.ms)
    layers = tuple(
        replace(layer, ms=statistics.median(times[key]) if times[key] else None)
        for layer, key in zip(turns[0].layers, keys, strict=True)
    )
    return LayerProfile(layers, turns[0].notes)
