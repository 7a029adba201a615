"""What a gate may limit and a comparison shows: one table, with the unit, which way is good, and how a row tells it.

Light: no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from accel.benchmarks.figures import is_fraction
from accel.benchmarks.intervals import wilson
from accel.report import Estimate, GateKind, Point, Row
from accel.scenario import Scenario

Unit = Literal["fraction", "ms", "s", "per_s", "bytes", "dB", ""]

FROM_SCENARIO: Mapping[str, Scenario] = {"throughput_per_s": "offline", "rate_per_s": "server"}
"""Quantities that only a scenario of their own tells."""

ONCE = 1.5
"""What is timed once per run is taken to be good to this factor, either way: no repetition says more."""

MEMORY = 1.1
"""The same for peak memory, which the allocator moves by a few per cent between two processes of one model."""


@dataclass(frozen=True)
class Figure:
    """What a row tells of a quantity. ``estimate``: bounds that are null are unknown, not absent, unless ``exact``.

    ``reason``: why there is no figure. ``unstable``: why it is not to be relied on. ``broken``: why, whatever the figure, the
    row is wrong (outputs that are not numbers).
    """

    estimate: Estimate | None = None
    reason: str = ""
    exact: bool = False
    unstable: str | None = None
    broken: str | None = None


@dataclass(frozen=True)
class Quantity:
    """``name`` carries the unit, but for metrics of the task. ``relative``: how drops are meant where nothing else is said.

    ``read(row, samples)``: the row's own figure; ``samples``: of the validation split, 0 where unknown. ``spread``: the factor
    that a figure taken once is good to; 1 for what is exact or has an interval of its own.
    """

    name: str
    kind: GateKind
    unit: Unit
    higher_is_better: bool
    relative: bool
    read: Callable[[Row, int], Figure]
    spread: float = 1.0
    metric: bool = False


def quantity(name: str, metrics: Mapping[str, bool]) -> Quantity | None:
    """The quantity called ``name``, with or without its unit; None where there is none.

    ``metrics``: those of the task, to whether higher is better. ``f1`` finds ``metrics.py:f1`` where no other ends so.
    """
    if name in metrics:
        return _of_task(name, metrics[name])
    found = _TABLE.get(name) or _TABLE.get(_SHORT.get(name, ""))
    if found is not None:
        return found
    called = [metric for metric in metrics if metric.rpartition(":")[2] == name]
    return _of_task(called[0], metrics[called[0]]) if len(called) == 1 else None


def metrics_of(rows: Sequence[Row]) -> dict[str, bool]:
    """Every metric that a row has, to whether higher is better."""
    return {metric.name: metric.higher_is_better for row in rows for metric in row.metrics}


def known(metrics: Sequence[str]) -> list[str]:
    """Every name, the task's first."""
    return [*metrics, *_TABLE]


def unknown(name: str, metrics: Sequence[str]) -> str:
    """What to say of a name that is none: the nearest, and all."""
    names = [*known(metrics), *_SHORT, *(metric.rpartition(":")[2] for metric in metrics)]
    close = get_close_matches(name[:60].lower(), names, n=1)
    near = f"; did you mean {close[0]!r}?" if close else ""
    shown = repr(name if len(name) <= 60 else name[:59] + "…")
    return f"no metric is called {shown}; allowed: {', '.join(known(metrics))}{near}"


def _of_task(name: str, higher_is_better: bool) -> Quantity:
    def read(row: Row, samples: int) -> Figure:
        found = next((metric for metric in row.metrics if metric.name == name), None)
        if found is None:
            return Figure(reason="no such metric was measured")
        if is_fraction(name) or found.mcnemar is not None:
            low, high = wilson(found.value, found.n)
            return Figure(Estimate(value=found.value, low=low, high=high))
        return Figure(Estimate(value=found.value), exact=True)  # the same files and data give the same number again

    return Quantity(name, "accuracy", "fraction" if is_fraction(name) else "", higher_is_better, False, read, metric=True)


def _p50(row: Row, samples: int) -> Figure:
    found = row.latency
    if found is None:
        return Figure(reason="was not timed")
    return Figure(Estimate(value=found.p50_ms, low=found.p50_low_ms, high=found.p50_high_ms), unstable=found.unstable)


def _percentile(percent: int) -> Callable[[Row, int], Figure]:
    def read(row: Row, samples: int) -> Figure:
        found = row.latency
        if found is None:
            return Figure(reason="was not timed")
        value = found.p90_ms if percent == 90 else found.p99_ms
        if value is None:
            return Figure(reason=f"{found.queries:,} queries are too few for it, or the recipe does not ask for it")
        low = _order_statistic(found.quantiles_ms, percent / 100, found.queries)
        return Figure(Estimate(value=value, low=None if low is None else min(low, value), high=value), unstable=found.unstable)

    return read


def _order_statistic(quantiles: Sequence[float], p: float, n: int) -> float | None:
    """A lower 97.5 % bound of the ``p`` quantile from the sample's own quantiles at 0, 1, ... 100 %; None without them.

    The order statistic that lies 1.96 standard errors of a binomial count below (Conover, Practical Nonparametric Statistics,
    3.2), rounded down to a whole per cent. The upper bound is MLPerf's estimate itself.
    """
    if len(quantiles) != 101 or n < 1:
        return None
    return quantiles[max(0, math.floor(100 * (p - 1.96 * math.sqrt(p * (1 - p) / n))))]


def _once(field: str, spread: float, absent: str) -> Callable[[Row, int], Figure]:
    def read(row: Row, samples: int) -> Figure:
        found = getattr(row, field)
        if found is None:
            return Figure(reason=absent)
        value = float(found)
        return Figure(Estimate(value=value, low=value / spread, high=value * spread))

    return read


def _exact(field: str, absent: str) -> Callable[[Row, int], Figure]:
    def read(row: Row, samples: int) -> Figure:
        found = getattr(row, field)
        return Figure(reason=absent) if found is None else Figure(Estimate(value=float(found)), exact=True)

    return read


def point_of(row: Row, name: str) -> Point | None:
    """The point that tells ``throughput_per_s`` or ``rate_per_s``: the first of its scenario, with figures if any has."""
    points = [point for point in row.points if point.scenario == FROM_SCENARIO[name]]
    return next((point for point in points if getattr(point, name) is not None), next(iter(points), None))


def _of_point(name: str) -> Callable[[Row, int], Figure]:
    def read(row: Row, samples: int) -> Figure:
        point = point_of(row, name)
        if point is None:
            return Figure(reason=f"the scenario {FROM_SCENARIO[name]} was not measured")
        found: Estimate | None = getattr(point, name)
        return Figure(found, reason=point.reason or "has no figure", unstable=point.unstable)

    return read


def _fidelity(field: str) -> Callable[[Row, int], Figure]:
    def read(row: Row, samples: int) -> Figure:
        found = row.fidelity
        if found is None:
            return Figure(reason="outputs were not compared with another row's")
        broken = f"{found.nonfinite_values:,} of its outputs are NaN or infinite" if found.nonfinite_values else None
        value = getattr(found, field)
        if value is None:
            same = field == "sqnr_db" and found.max_abs_difference == 0
            if same:  # no noise at all: above every limit
                return Figure(Estimate(value=IDENTICAL_DB), exact=True, broken=broken)
            return Figure(reason="has no figure for these outputs", broken=broken)
        if isinstance(value, Estimate):
            return Figure(value, broken=broken)
        if field in ("top1_agreement", "nearest_agreement") and samples:
            low, high = wilson(value, samples)
            return Figure(Estimate(value=value, low=low, high=high), broken=broken)
        return Figure(Estimate(value=float(value)), exact=True, broken=broken)

    return read


IDENTICAL_DB = 999.0
"""What stands for the SQNR of outputs that are the same to the last bit: no two models that differ at all come near it."""


def _int8_share(row: Row, samples: int) -> Figure:
    found = row.precision
    if found is None:
        return Figure(reason="what was executed is not known")
    share = found.int8_operators / found.quantized_operators if found.quantized_operators else 0.0
    return Figure(Estimate(value=share), exact=True)


_SIZE = "no files ship"
_TABLE: Mapping[str, Quantity] = {
    entry.name: entry
    for entry in (
        Quantity("latency_p50_ms", "latency", "ms", False, True, _p50),
        Quantity("latency_p90_ms", "latency", "ms", False, True, _percentile(90)),
        Quantity("latency_p99_ms", "latency", "ms", False, True, _percentile(99)),
        Quantity(
            "first_inference_ms",
            "latency",
            "ms",
            False,
            True,
            _once("first_inference_ms", ONCE, "was not measured"),
            spread=ONCE,
        ),
        Quantity("compile_s", "latency", "s", False, True, _once("compile_s", ONCE, "was not measured"), spread=ONCE),
        Quantity("throughput_per_s", "latency", "per_s", True, True, _of_point("throughput_per_s")),
        Quantity("rate_per_s", "latency", "per_s", True, True, _of_point("rate_per_s")),
        Quantity("size_bytes", "size", "bytes", False, True, _exact("size_bytes", _SIZE)),
        Quantity("gzip_bytes", "size", "bytes", False, True, _exact("gzip_bytes", _SIZE)),
        Quantity(
            "peak_memory_bytes",
            "size",
            "bytes",
            False,
            True,
            _once("peak_memory_bytes", MEMORY, "was not measured"),
            spread=MEMORY,
        ),
        Quantity("top1_agreement", "fidelity", "fraction", True, False, _fidelity("top1_agreement")),
        Quantity("cosine", "fidelity", "", True, False, _fidelity("cosine")),
        Quantity("nearest_agreement", "fidelity", "fraction", True, False, _fidelity("nearest_agreement")),
        Quantity("sqnr_db", "fidelity", "dB", True, False, _fidelity("sqnr_db")),
        Quantity("max_abs_difference", "fidelity", "", False, False, _fidelity("max_abs_difference")),
        Quantity("int8_share", "fidelity", "fraction", True, False, _int8_share),
    )
}

_SHORT: Mapping[str, str] = {
    "latency": "latency_p50_ms",
    "latency_p50": "latency_p50_ms",
    "latency_p90": "latency_p90_ms",
    "latency_p99": "latency_p99_ms",
    "first_inference": "first_inference_ms",
    "throughput": "throughput_per_s",
    "rate": "rate_per_s",
    "size": "size_bytes",
    "gzip": "gzip_bytes",
    "peak_memory": "peak_memory_bytes",
    "sqnr": "sqnr_db",
}

STANDING: Sequence[Quantity] = tuple(_TABLE.values())
"""Every quantity that is no metric of the task."""
