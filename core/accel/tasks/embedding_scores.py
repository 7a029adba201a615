"""What vectors are worth by themselves: scores against labels. How close they stay to another row's is the report's affair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from accel.contracts import Score
from accel.directions import nearest
from accel.errors import DataFault
from accel.imports import ImportPolicy
from accel.tasks.metric_names import NEAREST
from accel.tasks.metrics import custom, require_no_nan
from accel.tasks.scoring import Answers

if TYPE_CHECKING:
    from accel.contracts import Array


def score(answers: Answers, metrics: Sequence[str], policy: ImportPolicy) -> tuple[dict[str, Score], list[str]]:
    """The metrics in their order, and remarks for the report. Outputs are kept only where a metric needs them.

    DataFault where outputs are NaN, or the first is not one vector (n, width) for each sample.
    """
    kept: list[list[Array]] = []
    labels: list[Array] = []
    for outputs, given, places in answers:
        require_no_nan(outputs, places)
        _require_vectors(outputs, len(places))
        if metrics:
            labels.append(given[: len(places)])
            kept.append([np.array(output)[: len(places)] for output in outputs])
    if not metrics:
        return {}, []
    whole = [np.concatenate(parts) for parts in zip(*kept, strict=True)]
    right = np.concatenate(labels)
    remarks = []
    if NEAREST in metrics and len(right) < 2:
        remarks.append(f"task.metrics: {NEAREST} needs two samples, there is one")
    return {
        name: nearest_label(whole[0], right) if name == NEAREST else custom(name, policy, whole, right) for name in metrics
    }, remarks


def nearest_label(vectors: Array, labels: Array) -> Score:
    """Whether the nearest other sample, by cosine, has the same label: right or wrong for each of (n, width)."""
    if len(vectors) < 2:
        return Score(0.0, np.zeros(len(vectors), np.float64))
    found = np.asarray(labels[nearest(vectors)] == labels, np.float64)
    return Score(float(found.mean()), found)


def _require_vectors(outputs: Sequence[Array], samples: int) -> None:
    shape = np.shape(outputs[0]) if outputs else ()
    if len(shape) != 2 or shape[0] < samples or shape[1] < 2:
        raise DataFault(
            f"model: output of shape {tuple(shape)} for {samples} samples; an embedding model gives (samples, width) first:"
            " pool the tokens inside the model"
        )
