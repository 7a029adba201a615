"""The run in one line: the fastest result against the fastest FP32 row. Light: no numpy, no markup."""

from __future__ import annotations

from collections.abc import Sequence

from accel.benchmarks import figures
from accel.report import Estimate, Noise, Row, Verdict

UNTOUCHED = ("baseline", "reference")


def fastest_fp32(rows: Sequence[Row]) -> Row | None:
    """The untouched model's fastest measured row that really ran in FP32.

    A row whose executed precision is unknown counts as FP32, one that ran in BF16 or FP16 does not.
    """
    candidates = [
        row
        for row in rows
        if row.role in UNTOUCHED
        and row.status == "measured"
        and row.latency is not None
        and (row.precision is None or row.precision.float_precision == "fp32")
    ]
    return min(candidates, key=_p50, default=None)


def own_baseline(row: Row, rows: Sequence[Row]) -> Row | None:
    """The untouched model on the same target, or else on the same backend and device."""
    baselines = [other for other in rows if other.role == "baseline"]
    same_target = [other for other in baselines if row.target is not None and other.target == row.target]
    same_place = [other for other in baselines if (other.backend, other.device) == (row.backend, row.device)]
    return next(iter(same_target or same_place), None)


def speedup(row: Row, vs: Row | None) -> Estimate | None:
    """The interleaved ratio of ``row`` against ``vs``, where it was taken."""
    if vs is None:
        return None
    return next((found.ratio for found in row.speedups if found.vs == vs.name), None)


def best_result(rows: Sequence[Row]) -> Row | None:
    """The fastest measured result: by its interleaved ratio to the fastest FP32 row, by its median where one was not taken."""
    measured = [row for row in rows if row.role == "result" and row.status == "measured" and row.latency is not None]
    baseline = fastest_fp32(rows)
    ratios = {row.name: speedup(row, baseline) for row in measured}
    if measured and all(found is not None for found in ratios.values()):
        return max(measured, key=lambda row: found.value if (found := ratios[row.name]) else 0.0)
    return min(measured, key=_p50, default=None)


def verdict(rows: Sequence[Row], noise: Noise | None = None) -> Verdict:
    """The one line, and the row it speaks of. ``noise`` adds a warning where the A/A pair was noisy."""
    best = best_result(rows)
    text = _nothing(rows) if best is None else _sentence(best, rows)
    failed = [row.name for row in rows if row.status == "failed"]
    if failed:
        text += f"; failed: {figures.listed(failed)}"
    if best is not None and noise is not None and noise.verdict == "noisy":
        text += "; timings were noisy, see the A/A pair"
    return Verdict(text=text, row=None if best is None else best.name)


def _p50(row: Row) -> float:
    return float("inf") if row.latency is None else row.latency.p50_ms


def _nothing(rows: Sequence[Row]) -> str:
    built = [figures.place(row) for row in rows if row.role == "result" and row.status == "built"]
    measured = [row for row in rows if row.status == "measured" and row.latency is not None]
    if built:
        return f"nothing was measured: {figures.listed(built)} built only"
    if measured:
        return "no result was measured, only the untouched model"
    return "nothing was measured"


def _sentence(best: Row, rows: Sequence[Row]) -> str:
    parts = []
    baseline = fastest_fp32(rows)
    ratio = speedup(best, baseline)
    if ratio is not None:
        parts.append(figures.faster(ratio))
    elif best.latency is not None:
        parts.append(f"p50 {figures.milliseconds(best.latency.p50_ms)}")
    compared = baseline if baseline is not None and baseline.size_bytes else own_baseline(best, rows)
    if compared is not None and compared.size_bytes and best.size_bytes:
        parts.append(figures.smaller(compared.size_bytes, best.size_bytes))
    elif best.size_bytes:
        parts.append(figures.size(best.size_bytes))
    if best.metrics:
        metric = best.metrics[0]
        found = figures.metric_difference(metric) or figures.metric_value(metric)
        parts.append(f"{figures.label(metric.name)} {found}")
    against = f" against the fastest FP32 row ({figures.place(baseline)})" if baseline is not None and ratio is not None else ""
    none = "" if baseline is not None else "; no FP32 row was measured beside it"
    return f"{', '.join(parts)}: {figures.place(best)}{against}{none}"
