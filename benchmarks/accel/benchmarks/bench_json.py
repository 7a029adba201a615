"""The figures of a report for dashboards that follow them over commits: github-action-benchmark and Bencher. Light: no numpy.

github-action-benchmark (its README, "custom benchmarks"): a list of ``{name, unit, value, range, extra}`` for the tool
``customSmallerIsBetter``, and another file for ``customBiggerIsBetter``. Bencher (its Bencher Metric Format):
``{benchmark: {measure: {value, lower_value, upper_value}}}``, with ``latency`` in nanoseconds, ``throughput`` in operations per
second, ``file-size`` in bytes and ``build-time`` in seconds as its own measures have it.

A figure that was called unstable is left out of both: an alarm at noise is what it would cause.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from accel.benchmarks.untrusted import key
from accel.benchmarks.verdict import speedup, yardstick
from accel.report import Estimate, Point, Report, Row

OWN_MEASURES = {"latency", "throughput", "server-rate", "speedup", "file-size", "build-time", "peak-memory"}


@dataclass(frozen=True)
class Series:
    """One figure of one row, under names that stay the same from run to run.

    ``measure``: Bencher's slug. ``unit``: of github-action-benchmark; ``scale`` brings ``found`` to Bencher's own unit.
    """

    row: str
    label: str
    measure: str
    unit: str
    found: Estimate
    bigger_is_better: bool
    extra: str
    scale: float = 1.0


def smaller_is_better(report: Report) -> str:
    """For github-action-benchmark's ``customSmallerIsBetter``: latencies, sizes, build times, metrics that should be low."""
    return _entries(report, bigger_is_better=False)


def bigger_is_better(report: Report) -> str:
    """For its ``customBiggerIsBetter``: accuracies, throughputs, and speedups, which other machines do not disturb."""
    return _entries(report, bigger_is_better=True)


def bencher(report: Report) -> str:
    """For ``bencher run --adapter json --file``."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for series in _series(report):
        metric = {"value": series.found.value * series.scale}
        if series.found.low is not None and series.found.high is not None:
            metric |= {"lower_value": series.found.low * series.scale, "upper_value": series.found.high * series.scale}
        found.setdefault(series.row, {}).setdefault(series.measure, metric)
    return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _entries(report: Report, *, bigger_is_better: bool) -> str:
    entries: dict[str, dict[str, Any]] = {}
    for series in _series(report):
        if series.bigger_is_better is bigger_is_better:
            name = f"{series.row} / {series.label}"
            entry: dict[str, Any] = {"name": name, "unit": series.unit, "value": series.found.value, "extra": series.extra}
            if series.found.low is not None and series.found.high is not None:
                entry["range"] = f"{series.found.low:.4g} to {series.found.high:.4g}"
            entries.setdefault(name, entry)
    return json.dumps(list(entries.values()), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _series(report: Report) -> Iterator[Series]:
    baseline = yardstick(report.rows)
    names: set[str] = set()
    for row in report.rows:
        if row.status in ("measured", "built"):
            name = _unused(key(row.name), names)
            yield from _of_row(row, name, baseline)
            for point in row.points:
                if point.reason is None and point.unstable is None:
                    yield from _of_point(point, _unused(f"{name} {_setting(point)}", names))


def _unused(name: str, names: set[str]) -> str:
    """``name``, or with a number where two rows' names are one after they were made harmless."""
    number, found = 1, name
    while found in names:
        number += 1
        found = f"{name} {number}"
    names.add(found)
    return found


def _of_row(row: Row, name: str, baseline: Row | None) -> Iterator[Series]:
    latency = row.latency
    if latency is not None and latency.unstable is None:
        extra = f"{latency.queries} queries, {latency.restarts} restarts, batch {latency.batch_size}, {latency.threads} threads"
        p50 = Estimate(value=latency.p50_ms, low=latency.p50_low_ms, high=latency.p50_high_ms)
        yield Series(name, "p50", "latency", "ms", p50, False, extra, scale=1e6)
        for label, found in (("p90", latency.p90_ms), ("p99", latency.p99_ms)):
            if found is not None:
                yield Series(name, label, f"latency-{label}", "ms", Estimate(value=found), False, extra, scale=1e6)
    ratio = speedup(row, baseline)
    if ratio is not None and baseline is not None:
        yield Series(name, "speedup", "speedup", "x", ratio, True, f"against {key(baseline.name)}, in the same run")
    if row.size_bytes is not None:
        yield Series(name, "size", "file-size", "bytes", Estimate(value=row.size_bytes), False, "all files that ship")
    if row.compile_s is not None:
        yield Series(name, "compilation", "build-time", "s", Estimate(value=row.compile_s), False, "")
    if row.peak_memory_bytes is not None:
        yield Series(name, "memory", "peak-memory", "bytes", Estimate(value=row.peak_memory_bytes), False, "")
    for metric in row.metrics:
        value = Estimate(value=metric.value)
        yield Series(name, key(metric.name), _slug(metric.name), "", value, metric.higher_is_better, f"{metric.n} samples")


def _slug(metric: str) -> str:
    """What a user calls a metric, as Bencher's slug; apart from the measures above, whatever it is called."""
    slug = re.sub(r"[^a-z0-9]+", "-", metric.lower()).strip("-")[:50] or "metric"
    return f"metric-{slug}" if slug in OWN_MEASURES or slug.startswith("latency-") else slug


def _setting(point: Point) -> str:
    return f"{point.scenario} batch {point.batch_size} threads {point.threads} streams {point.streams}"


def _of_point(point: Point, name: str) -> Iterator[Series]:
    extra = f"{point.queries} queries, {point.restarts} restarts"
    for label, found in (("p50", point.p50_ms), ("p90", point.p90_ms), ("p99", point.p99_ms)):
        if found is not None:
            measure = "latency" if label == "p50" else f"latency-{label}"
            yield Series(name, label, measure, "ms", Estimate(value=found), False, extra, scale=1e6)
    if point.throughput_per_s is not None:
        yield Series(name, "throughput", "throughput", "samples/s", point.throughput_per_s, True, extra)
    if point.rate_per_s is not None:
        yield Series(name, "rate", "server-rate", "samples/s", point.rate_per_s, True, extra)
