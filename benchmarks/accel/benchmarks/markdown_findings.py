"""The parts of ``report.md`` that come from the figures of rows: gates, scenarios, roofline, accuracy in detail, layers."""

from __future__ import annotations

from collections.abc import Sequence

from accel.benchmarks import figures
from accel.benchmarks.markdown_blocks import Room, Shown, bullets, callout, cut_table, folded
from accel.benchmarks.verdict import yardstick, yardstick_name
from accel.report import Gate, Metric, Point, Report, Row

WORST_CLASSES = 5
SLOWEST_LAYERS = 10
WORDS = {"pass": "✅ pass", "fail": "❌ fail", "inconclusive": "⚠️ inconclusive"}


def gates(report: Report, room: Room, shown: Shown) -> list[str]:
    """The box that says what failed, and the table of all gates; nothing without gates."""
    if not report.gates:
        return []
    failed = [gate for gate in report.gates if gate.failed]
    unclear = [gate for gate in report.gates if gate.verdict == "inconclusive" and not gate.failed]
    if failed:
        box = callout("CAUTION", _sentences(failed, room, shown))
    elif unclear:
        box = callout("WARNING", _sentences(unclear, room, shown))
    else:
        box = callout("TIP", ["All gates pass."])
    head = ["gate", "verdict", "limit", "found", "judged", "against"]
    lines = [
        [
            shown(gate.name),
            _verdict(gate),
            shown(gate.limit),
            figures.NONE if gate.found is None else shown(figures.estimate(gate.found)),
            figures.NONE if gate.row is None else shown(gate.row),
            figures.NONE if gate.vs is None else shown(gate.vs),
        ]
        for gate in sorted(report.gates, key=lambda gate: (not gate.failed, gate.verdict == "pass"))
    ]
    return [box, "## Gates", cut_table(head, lines, range(3, 4), room.lines)]


def _sentences(chosen: Sequence[Gate], room: Room, shown: Shown) -> list[str]:
    kept = [shown(gate.text) for gate in chosen[: min(room.notes, 10)]]
    more = len(chosen) - len(kept)
    return [*kept, *([f"and {more:,} more, see the table"] if more else [])]


def _verdict(gate: Gate) -> str:
    word = WORDS[gate.verdict]
    return f"{word}, fails the run" if gate.failed and gate.verdict != "fail" else word


def unstable(report: Report, room: Room, shown: Shown) -> list[str]:
    """Which figures are not to be relied on, and why: the tables have the word in their place."""
    said = []
    for row in report.rows:
        if row.latency is not None and row.latency.unstable is not None:
            said.append(f"{row.name}: latency: {row.latency.unstable}")
        said += [f"{row.name} against {found.vs}: {found.unstable}" for found in row.speedups if found.unstable is not None]
    return [f"**Unstable**, so no figure is given:\n\n{bullets(said, room.notes, shown)}"] if said else []


def points(report: Report, room: Room, shown: Shown) -> list[str]:
    """One line for each row in each other scenario and setting."""
    baseline = yardstick(report.rows)
    head = ["row", "scenario", "batch", "threads", "streams", "p50", "p90", "p99", "throughput", "highest rate"]
    head += [f"against the {yardstick_name(baseline)}", "queries"]
    lines = [_point(row, point, baseline, shown) for row in report.rows for point in row.points]
    if not lines:
        return []
    about = "MLPerf's scenarios: latency of a query, throughput in samples. A server's rate keeps the p99 within its bound."
    return ["## Scenarios", cut_table(head, lines, range(2, 12), room.lines), about]


def _point(row: Row, point: Point, baseline: Row | None, shown: Shown) -> list[str]:
    threads = f"{point.threads}{' pinned' if point.pinned else ''}"
    place = [shown(row.name), point.scenario.replace("_", " "), str(point.batch_size), threads, str(point.streams)]
    queries = f"{point.queries:,}"
    if point.reason is not None:
        return [*place, shown(f"not measured: {point.reason}"), *[figures.NONE] * 5, queries]
    if point.unstable is not None:
        return [*place, shown(figures.unstable(point.unstable)), *[figures.NONE] * 5, queries]
    times = [figures.milliseconds(found) for found in (point.p50_ms, point.p90_ms, point.p99_ms)]
    rate = figures.per_second(point.rate_per_s)
    if point.rate_per_s is not None and point.bound_ms is not None:
        rate += f" within {figures.milliseconds(point.bound_ms)}"
    against = None if baseline is None else next((found for found in point.speedups if found.vs == baseline.name), None)
    speed = "1 (itself)" if baseline is not None and row.name == baseline.name else shown(figures.speed(against))
    return [*place, *times, figures.per_second(point.throughput_per_s), rate, speed, queries]


def roofline(report: Report, room: Room, shown: Shown) -> list[str]:
    """What part of the machine's own peak each row reaches."""
    lines = [
        [
            shown(row.name),
            figures.percent(found.share),
            figures.milliseconds(found.bound_ms),
            figures.percent(found.compute_share),
            figures.count(found.macs),
            figures.size(found.bytes),
            shown(", ".join(found.uncounted)) or figures.NONE,
        ]
        for row in report.rows
        if (found := row.roofline) is not None
    ]
    if not lines:
        return []
    head = [
        "row",
        "share of the machine's peak",
        "time at the peak",
        "bound by computing",
        "MACs",
        "bytes moved",
        "not counted",
    ]
    parts = ["## How far from the limit", cut_table(head, lines, range(1, 6), room.lines)]
    peaks = report.peaks
    if peaks is not None:
        rates = [("FP32", peaks.fp32_gops), ("BF16", peaks.bf16_gops), ("INT8", peaks.int8_gops)]
        said = ", ".join(f"{name} {figures.count(rate * 1e9)}op/s" for name, rate in rates if rate is not None)
        cache = "" if peaks.cache_gb_s is None else f", cache {peaks.cache_gb_s:.1f} GB/s"
        threads = f"{peaks.threads} thread{'s' if peaks.threads != 1 else ''}"
        parts.append(
            f"The peak of this machine with {threads}, by the runtimes' own kernels: {said}, "
            f"memory {peaks.bandwidth_gb_s:.1f} GB/s{cache} (measured {shown(peaks.measured)})."
        )
    return parts


def accuracy(report: Report, room: Room, shown: Shown) -> list[str]:
    """Each metric with its error, the classes that lost most, and the samples that differ most; folded away."""
    pairs = [(row, metric) for row in report.rows for metric in row.metrics if metric.difference or metric.bootstrap]
    head = ["row", "metric", "value", "n", "paired difference", "bootstrap", "gained", "lost", "McNemar's p"]
    lines = [[shown(row.name), *_metric(metric, shown)] for row, metric in pairs]
    details = [cut_table(head, lines, range(2, 9), room.lines)] if lines else []
    names = report.classes

    def called(label: int) -> str:
        return names[label] if 0 <= label < len(names) else str(label)

    drops = [
        [
            shown(row.name),
            shown(called(drop.label)),
            figures.percent(drop.reference),
            figures.percent(drop.value),
            str(drop.n),
            "yes" if drop.significant else "no",
        ]
        for row in report.rows
        for drop in row.classes[:WORST_CLASSES]
        if drop.value < drop.reference
    ]
    if drops:
        head = ["row", "class that lost most", "reference", "here", "n", "significant"]
        details.append(cut_table(head, drops, range(2, 5), room.lines))
    differing = [
        f"{row.name}: sample {found.sample}: {called(found.predicted)} instead of {called(found.reference)}, "
        f"distance {found.distance:.2f}"
        for row in report.rows
        for found in row.differing
    ]
    details.append(bullets(differing, min(room.notes, 20), shown) if differing else "")
    fold = folded("Accuracy in detail", *details)
    return [fold] if fold else []


def _metric(metric: Metric, shown: Shown) -> list[str]:
    paired, resampled = (
        figures.NONE if found is None else figures.difference(metric.name, found)
        for found in (metric.difference, metric.bootstrap)
    )
    test = metric.mcnemar
    counts = [figures.NONE] * 3 if test is None else [f"{test.gained:,}", f"{test.lost:,}", figures.p_value(test.p_value)]
    counts[-1] = counts[-1].replace("<", "&lt;")
    return [shown(figures.label(metric.name)), figures.metric_value(metric), f"{metric.n:,}", paired, resampled, *counts]


def layers(report: Report, room: Room, shown: Shown) -> list[str]:
    """The slowest layers of each row; folded away."""
    folds = []
    for row in report.rows[: room.rows]:
        timed = sorted((layer for layer in row.layers if layer.ms is not None), key=lambda layer: -(layer.ms or 0.0))
        total = sum(layer.ms or 0.0 for layer in timed)
        lines = [
            [
                shown(layer.name),
                shown(layer.kind),
                shown(layer.precision),
                figures.milliseconds(layer.ms),
                figures.percent((layer.ms or 0.0) / total if total else None),
            ]
            for layer in timed[: min(SLOWEST_LAYERS, room.lines)]
        ]
        if lines:
            head = ["layer", "kind", "precision", "time", "share"]
            title = f"{row.name}: the slowest of {len(row.layers):,} layers"
            folds.append(folded(title, cut_table(head, lines, range(3, 5), SLOWEST_LAYERS)))
    return folds
