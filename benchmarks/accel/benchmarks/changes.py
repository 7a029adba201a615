"""How one row stands to another of the same run, quantity by quantity: paired or interleaved where the run has such a figure.

Light: no numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from accel.benchmarks.intervals import inverse, minus, over, scaled
from accel.benchmarks.quantities import Figure, Quantity, point_of
from accel.benchmarks.verdict import own_baseline
from accel.report import Estimate, Row, Speedup


@dataclass(frozen=True)
class Change:
    """A row against another, ``vs``. ``difference``: row minus vs, in the quantity's own unit.

    ``relative``: the difference over the size of ``vs_value``, that of vs; ``better``: 2.0 is twice as good. Null where vs is
    0, or, for ``better``, where one of the two is not positive. No figure: ``reason`` says why, and ``refused`` that comparing
    the two would be wrong, which no gate may pass over. ``exact``: the figures are no estimates. ``unstable``, ``broken``: as
    in a Figure.
    """

    vs: str
    difference: Estimate | None = None
    relative: Estimate | None = None
    better: Estimate | None = None
    vs_value: float = 0.0
    exact: bool = False
    reason: str = ""
    refused: bool = False
    unstable: str | None = None
    broken: str | None = None


def yardstick(quantity: Quantity, row: Row, rows: Sequence[Row]) -> Row | None:
    """What ``vs: baseline`` means: the reference row for accuracy, else the target's own baseline, else the reference row."""
    references = [other for other in rows if other.role != "result" and other.name != row.name]
    if quantity.metric:
        named = row.fidelity.vs if row.fidelity is not None else None
        first = next((other for other in references if other.metrics), None)
        return next((other for other in references if other.name == named), first)
    own = own_baseline(row, rows)
    if own is not None and own.name != row.name:
        return own
    return next((other for other in references if other.role == "reference"), None)


def against(quantity: Quantity, row: Row, rows: Sequence[Row], samples: int) -> Change:
    """``row`` against its yardstick in ``rows``, those of the same run."""
    vs = yardstick(quantity, row, rows)
    if vs is None:
        return Change("baseline", reason="this run has no untouched row to compare with")
    ours, theirs = quantity.read(row, samples), quantity.read(vs, samples)
    if ours.estimate is None:
        return Change(vs.name, reason=ours.reason)
    if quantity.metric:
        return _of_metric(quantity, row, vs.name, ours.estimate, theirs)
    found = interleaved(quantity, row, vs.name)
    if found is not None and min(found.ratio.value, ours.estimate.value) <= 0:
        return Change(vs.name, reason="its time or ratio is 0 or negative", refused=True)
    if found is not None:
        return of_ratio(quantity, vs.name, found.ratio, ours.estimate.value, found.unstable)
    if quantity.name in ("latency_p50_ms", "throughput_per_s", "rate_per_s"):
        return Change(vs.name, reason=theirs.reason or "the two were not timed in turn")
    return between(quantity, vs.name, ours, theirs)


def interleaved(quantity: Quantity, row: Row, vs: str) -> Speedup | None:
    """The ratio that was taken in turn; None where there is none, as for percentiles and sizes."""
    if quantity.name == "latency_p50_ms":
        return next((found for found in row.speedups if found.vs == vs), None)
    if quantity.name in ("throughput_per_s", "rate_per_s"):
        point = point_of(row, quantity.name)
        return None if point is None else next((found for found in point.speedups if found.vs == vs), None)
    return None


def of_ratio(quantity: Quantity, vs: str, better: Estimate, value: float, unstable: str | None = None) -> Change:
    """From how many times better the row is and the row's own ``value``: no second median enters."""
    ratio = better if quantity.higher_is_better else inverse(better)  # row over vs
    theirs = scaled(inverse(ratio), value)
    difference = scaled(theirs, -1.0, value)
    return Change(vs, difference, scaled(ratio, 1.0, -1.0), better, theirs.value, unstable=unstable)


def between(quantity: Quantity, vs: str, ours: Figure, theirs: Figure) -> Change:
    """From two figures that are independent of one another."""
    if ours.estimate is None or theirs.estimate is None:
        return Change(vs, reason=ours.reason if ours.estimate is None else f"{vs}: {theirs.reason}")
    exact = ours.exact and theirs.exact
    first, second = (_closed(found) for found in (ours, theirs))
    difference = minus(first, second)
    if quantity.relative and first.value > 0 and second.value > 0:
        ratio = over(first, second)
        better = ratio if quantity.higher_is_better else inverse(ratio)
        found = Change(vs, difference, scaled(ratio, 1.0, -1.0), better, second.value)
    else:
        found = of_difference(quantity, vs, difference, second.value)
    return replace(found, exact=exact, unstable=ours.unstable or theirs.unstable, broken=ours.broken or theirs.broken)


def of_difference(quantity: Quantity, vs: str, difference: Estimate, vs_value: float) -> Change:
    """From ``row - vs``; what is relative to ``vs_value`` takes that as it is, without an error of its own."""
    relative = None if vs_value == 0 else scaled(difference, 1 / abs(vs_value))
    better = None
    if vs_value > 0 and relative is not None:
        ratio = scaled(relative, 1.0, 1.0)
        if quantity.higher_is_better:
            better = ratio
        elif ratio.value > 0:
            low = ratio.low if ratio.low is None or ratio.low > 0 else 0.0
            better = inverse(ratio.model_copy(update={"low": low}))
    return Change(vs, difference, relative, better, vs_value)


def _of_metric(quantity: Quantity, row: Row, vs: str, ours: Estimate, theirs: Figure) -> Change:
    paired = next(metric.difference for metric in row.metrics if metric.name == quantity.name)
    if paired is None:
        return Change(vs, reason="is what the other rows are compared with" if theirs.estimate else theirs.reason)
    # No bounds: the metric gives no value per sample, and the same files and data give the same number again.
    found = of_difference(quantity, vs, paired, ours.value - paired.value)
    return replace(found, exact=paired.low is None or paired.high is None)


def _closed(found: Figure) -> Estimate:
    """The estimate with both bounds where it is exact: then they are the value."""
    assert found.estimate is not None
    if not found.exact:
        return found.estimate
    return Estimate(value=found.estimate.value, low=found.estimate.value, high=found.estimate.value)
