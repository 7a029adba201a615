"""From a model's answers to scores, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from accel.contracts import Score
from accel.errors import DataFault
from accel.imports import ImportPolicy
from accel.tasks.metric_names import RANKED
from accel.tasks.metrics import class_scores, custom, ranked, ranks, require_no_nan
from accel.tasks.settings import ClassificationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from accel.contracts import Array

Answers = Iterable[tuple[Sequence["Array"], "Array", Sequence[str]]]
"""Of each batch: the model's outputs, the labels, and the places of its samples (fewer than rows where it was padded)."""


def score(
    answers: Answers, settings: ClassificationSettings, policy: ImportPolicy, place: str
) -> tuple[dict[str, Score], list[str]]:
    """The metrics of ``settings`` in their order, and remarks for the report.

    Keeps outputs only where a custom metric needs them.
    DataFault where outputs are NaN or of the wrong shape, or a label is no class of the model.
    """
    found_ranks: list[NDArray[np.int64]] = []
    kept_labels: list[NDArray[np.int64]] = []
    kept_outputs: list[list[Array]] = []
    own = [name for name in settings.metrics if name not in RANKED]
    classes = 0
    for outputs, given, places in answers:
        count = len(places)
        require_no_nan(outputs, places)
        scores = class_scores(outputs, len(given))[:count]
        labels = np.asarray(given[:count], dtype=np.int64)
        classes = scores.shape[1]
        _require_classes(labels, classes, places, place)
        found_ranks.append(ranks(scores, labels))
        if own:
            kept_labels.append(labels)
            kept_outputs.append([np.array(output)[:count] for output in outputs])
    built_in, remarks = ranked(np.concatenate(found_ranks), settings.metrics, classes)
    if settings.classes is not None and len(settings.classes) != classes:
        remarks.append(f"task.classes: names {len(settings.classes)} classes, but the model gives {classes}")
    if own:
        outputs = [np.concatenate(rows) for rows in zip(*kept_outputs, strict=True)]
        built_in |= {name: custom(name, policy, outputs, np.concatenate(kept_labels)) for name in own}
    result = {name: built_in[name] for name in settings.metrics if name in built_in}
    if not result:
        raise DataFault(f"task.metrics: none is left for a model of {classes} classes; name top1")
    return result, remarks


def _require_classes(labels: NDArray[np.int64], classes: int, places: Sequence[str], place: str) -> None:
    outside = np.flatnonzero(labels >= classes)
    if outside.size:
        row = int(outside[0])
        raise DataFault(
            f"{place}: {places[row]}: label {labels[row]}, but the model gives {classes} classes (0 to {classes - 1}); do"
            " labels start at 1, or is this another model's data?"
        )
