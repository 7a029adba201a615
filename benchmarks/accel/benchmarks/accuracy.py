"""How a row's metrics differ from the reference's, paired sample by sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from accel.benchmarks import bootstrap
from accel.benchmarks.intervals import Z
from accel.benchmarks.mcnemar import mcnemar
from accel.benchmarks.student import quantile
from accel.contracts import Score
from accel.errors import DataFault
from accel.report import Estimate, McNemar, Metric

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

RULE_OF_THREE = 3.0


def metrics(scores: Mapping[str, Score], reference: Mapping[str, Score] | None, samples: int) -> list[Metric]:
    """One Metric for each score, in order; ``samples`` counts those of a score without values per sample.

    ``reference`` is None for the reference row itself. DataFault for a metric that is not a finite number, or does not score
    the reference's samples.
    """
    rows = []
    for name, score in scores.items():
        if not math.isfinite(score.value):
            raise DataFault(f"metric {name}: the value is {score.value}; a metric must be a finite number, look at its inputs")
        other = None if reference is None else reference.get(name)
        pair = _paired(name, score, other)
        rows.append(
            Metric(
                name=name,
                value=float(score.value),
                n=samples if score.per_sample is None else len(score.per_sample),
                higher_is_better=score.higher_is_better,
                difference=None if other is None else difference(score, other),
                bootstrap=None if pair is None else bootstrap.paired(*pair),
                mcnemar=None if pair is None else _right_or_wrong(*pair),
            )
        )
    return rows


def _paired(name: str, score: Score, reference: Score | None) -> tuple[Floats, Floats] | None:
    """The values per sample of both, (n,) each; None where one has none: such a metric is a number of the whole split alone."""
    if reference is None or score.per_sample is None or reference.per_sample is None:
        return None
    ours, theirs = (np.asarray(each.per_sample, dtype=np.float64) for each in (score, reference))
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise DataFault(
            f"metric {name}: scores {ours.shape} samples where the reference has {theirs.shape}; are both one split?"
        )
    if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        raise DataFault(f"metric {name}: a sample's value is not a finite number; look at its inputs")
    return ours, theirs


def _right_or_wrong(ours: Floats, theirs: Floats) -> McNemar | None:
    return mcnemar(ours, theirs) if _binary(ours) and _binary(theirs) else None


def difference(score: Score, reference: Score) -> Estimate:
    """``score - reference`` with its 95 % interval, in the metric's own unit; no bounds without values per sample.

    Right-or-wrong metrics (every value 0 or 1): Tango's score interval for paired proportions (Statistics in Medicine 17,
    1998), which holds its level for few samples and few disagreements. Any other: Student's t on the paired differences, never
    narrower than 3/n of the range of the values (the rule of three: what n samples that agree can still hide).
    ValueError where the two do not score the same samples.
    """
    value = float(score.value) - float(reference.value)
    if score.per_sample is None or reference.per_sample is None:
        return Estimate(value=value)
    ours = np.asarray(score.per_sample, dtype=np.float64)
    theirs = np.asarray(reference.per_sample, dtype=np.float64)
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise ValueError(f"scores over {ours.shape} and {theirs.shape} samples cannot be paired")
    if len(ours) < 2:
        return Estimate(value=value)
    if _binary(ours) and _binary(theirs):
        gained = int(np.count_nonzero(ours > theirs))
        lost = int(np.count_nonzero(ours < theirs))
        low, high = tango(gained, lost, len(ours))
    else:
        paired = ours - theirs
        half = quantile(0.95, len(paired) - 1) * float(paired.std(ddof=1)) / math.sqrt(len(paired))
        span = float(max(ours.max(), theirs.max()) - min(ours.min(), theirs.min()))
        half = max(half, RULE_OF_THREE / len(paired) * span)
        low, high = value - half, value + half
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _binary(values: Floats) -> bool:
    return bool(np.all((values == 0) | (values == 1)))


def tango(gained: int, lost: int, samples: int, z: float = Z) -> tuple[float, float]:
    """Bounds of ``(gained - lost) / samples``: ``gained`` samples only the first row has right, ``lost`` only the second.

    With no disagreement they are about +-3.84 / samples.
    """

    def statistic(difference: float) -> float:
        """Standard errors between what was seen and a true ``difference``, given the most likely disagreement under it."""
        a = 2.0 * samples
        b = -gained - lost + (2 * samples - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        only_lost = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = samples * (2 * only_lost + difference * (1 - difference))
        distance = gained - lost - samples * difference
        if variance <= 0:
            return math.copysign(math.inf, distance) if distance else 0.0
        return distance / math.sqrt(variance)

    seen = (gained - lost) / samples

    def bound(outer: float, wanted: float) -> float:
        inner = seen
        for _ in range(60):  # the statistic falls with the difference: halve until the doubles meet
            middle = (inner + outer) / 2
            if abs(statistic(middle)) < wanted:
                inner = middle
            else:
                outer = middle
        return inner

    return bound(-1.0, z), bound(1.0, z)
