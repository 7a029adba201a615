"""top-1, top-5 and metrics of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.contracts import Score
from accel.errors import DataFault
from accel.imports import ImportPolicy, load, running
from accel.tasks.metric_names import RANKED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from accel.contracts import Array


def ranks(logits: NDArray[Any], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many classes stand before the right one, (n,). Equal values stand in the order of their index, as argmax has it.

    So a model whose outputs are all equal is right where the label is 0, never everywhere. ``logits``: (n, classes), no NaN.
    """
    right = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    found: NDArray[np.int64] = ((logits > right) | ((logits == right) & earlier)).sum(axis=1, dtype=np.int64)
    return found


def class_scores(outputs: Sequence[Array], samples: int) -> NDArray[Any]:
    """The first output as (n, classes). DataFault if it is not one row of class scores for each sample, or holds NaN."""
    if not outputs:
        raise DataFault("model: gave no outputs")
    scores = np.asarray(outputs[0])
    if scores.ndim > 2 and all(axis == 1 for axis in scores.shape[2:]):
        scores = scores.reshape(scores.shape[:2])
    if scores.ndim != 2 or scores.shape[0] != samples or scores.shape[1] < 2:
        raise DataFault(f"model: output of shape {scores.shape} for {samples} samples; a classifier gives (samples, classes)")
    return scores


def require_no_nan(outputs: Sequence[Array], places: Sequence[str]) -> None:
    """DataFault naming the first sample with NaN in its outputs: argmax(NaN) is 0 and would pass for an answer."""
    for number, output in enumerate(outputs):
        values = np.asarray(output)
        if values.dtype.kind != "f" or not (bad := np.isnan(values)).any():
            continue
        if bad.all():
            raise DataFault(f"model: outputs are NaN (all of output {number})")
        row = int(np.argwhere(bad)[0][0])
        where = places[row] if row < len(places) else f"row {row}"
        raise DataFault(f"model: outputs are NaN for {where} (output {number})")


def ranked(all_ranks: NDArray[np.int64], names: Sequence[str], classes: int) -> tuple[dict[str, Score], list[str]]:
    """The built-in metrics among ``names``, and a remark for each that ``classes`` makes meaningless."""
    scores: dict[str, Score] = {}
    remarks = []
    for name in names:
        if name not in RANKED:
            continue
        if RANKED[name] > 1 and RANKED[name] >= classes:
            remarks.append(f"task.metrics: {name} is left out: the model has {classes} classes only")
            continue
        found = (all_ranks < RANKED[name]).astype(np.float64)
        scores[name] = Score(float(found.mean()), found)
    return scores, remarks


def custom(reference: str, policy: ImportPolicy, outputs: Sequence[Array], labels: Array) -> Score:
    """Call ``metric(outputs, labels)`` with all samples of a split.

    ``outputs``: the model's, each (n, ...); ``labels``: (n,) int64. It gives a number, or (n,) numbers whose mean is the value.
    An attribute ``higher_is_better`` of the callable, if there is one, says which way is good. DataFault if the result is
    anything else or not finite.
    """
    metric: Callable[..., Any] = load(reference, policy)
    with running(f"metric {reference}", policy, DataFault):
        given = metric(list(outputs), labels)
        if hasattr(given, "detach"):
            given = given.detach().cpu().numpy()
        try:
            values = np.asarray(given, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataFault(
                f"metric {reference}: gave a {type(given).__name__}; give a number or one for each sample"
            ) from None
    if values.ndim and values.shape != (len(labels),):
        raise DataFault(
            f"metric {reference}: gave shape {values.shape}; give a number, or one for each of {len(labels)} samples"
        )
    if not np.isfinite(values).all():
        where = f" for sample {int(np.argwhere(~np.isfinite(values))[0][0])}" if values.ndim else ""
        raise DataFault(f"metric {reference}: gave {_shown(values)}{where}; a metric is a finite number")
    return Score(float(values.mean()), values if values.ndim else None, bool(getattr(metric, "higher_is_better", True)))


def _shown(values: NDArray[np.float64]) -> str:
    flat = values.reshape(-1)
    return str(float(flat[~np.isfinite(flat)][0]))
