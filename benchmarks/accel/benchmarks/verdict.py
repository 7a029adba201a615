"""The run in one line: the fastest result against the fastest FP32 row, or, without results, the fastest row against the next.

A ratio that was called unstable is no ratio here: nothing is claimed from it. Light: no numpy, no markup.
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.benchmarks import figures
from accel.report import Estimate, Gate, Noise, Row, Speedup, Verdict

UNTOUCHED = ("baseline", "reference")


def fastest_fp32(rows: Sequence[Row]) -> Row | None:
    """The untouched model's fastest measured row that really ran in FP32.

    A row whose executed precision is unknown counts as FP32; one that ran in BF16 or FP16, or is quantized, does not.
    """
    return min((row for row in _timed(rows) if row.role in UNTOUCHED and is_fp32(row)), key=_p50, default=None)


def yardstick(rows: Sequence[Row]) -> Row | None:
    """What rows are compared with: the fastest FP32 row, or, where the untouched model did not run in FP32, its fastest row."""
    return fastest_fp32(rows) or min((row for row in _timed(rows) if row.role in UNTOUCHED), key=_p50, default=None)


def yardstick_name(row: Row | None) -> str:
    """How :func:`yardstick` is called in a table: ``fastest FP32 row``, or ``fastest baseline`` where it is not FP32."""
    return "fastest FP32 row" if row is None or is_fp32(row) else "fastest baseline"


def is_fp32(row: Row) -> bool:
    """Whether nothing in ``row`` was quantized or ran in another float precision, as far as it is known."""
    found = row.precision
    return found is None or (found.float_precision == "fp32" and not found.quantized_operators)


def own_baseline(row: Row, rows: Sequence[Row]) -> Row | None:
    """The untouched model on the same target, or else on the same backend and device."""
    baselines = [other for other in rows if other.role == "baseline"]
    same_target = [other for other in baselines if row.target is not None and other.target == row.target]
    same_place = [other for other in baselines if (other.backend, other.device) == (row.backend, row.device)]
    return next(iter(same_target or same_place), None)


def compared(row: Row, vs: Row | None) -> Speedup | None:
    """What is known of ``row`` against ``vs``, unstable or not; None where the two were not timed in turn."""
    if vs is None:
        return None
    return next((found for found in row.speedups if found.vs == vs.name), None)


def speedup(row: Row, vs: Row | None) -> Estimate | None:
    """The interleaved ratio of ``row`` against ``vs``, where it was taken and is stable."""
    found = compared(row, vs)
    return None if found is None or found.unstable is not None else found.ratio


def best_result(rows: Sequence[Row]) -> Row | None:
    """The fastest measured result: by its interleaved ratio to the yardstick, by its median where one was not taken.

    Results whose ratio is unstable stand back behind the others.
    """
    measured = [row for row in _timed(rows) if row.role == "result"]
    baseline = yardstick(rows)
    measured = [row for row in measured if speedup(row, baseline) is not None] or measured
    ratios = {row.name: speedup(row, baseline) for row in measured}
    if measured and all(found is not None for found in ratios.values()):
        return max(measured, key=lambda row: found.value if (found := ratios[row.name]) else 0.0)
    return min(measured, key=_p50, default=None)


def verdict(rows: Sequence[Row], noise: Noise | None = None, gates: Sequence[Gate] = ()) -> Verdict:
    """The one line, and the row it speaks of. ``noise`` adds a warning where the A/A pair was noisy.

    ``gates``: the limits stand beside the figures they are for; what became of them is the line of ``gates_line``.
    """
    best = best_result(rows)
    if best is not None:
        text = _sentence(best, rows, gates)
    elif any(row.role == "result" for row in rows) or not _timed(rows):
        text = _nothing(rows)
    else:
        best, text = _among_equals(_timed(rows))
    failed = [row.name for row in rows if row.status == "failed"]
    if failed:
        text += f"; failed: {figures.listed(failed)}"
    if best is not None and noise is not None and noise.verdict == "noisy":
        text += "; timings were noisy, see the A/A pair"
    return Verdict(text=text, row=None if best is None else best.name)


def _timed(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.status == "measured" and row.latency is not None]


def _p50(row: Row) -> float:
    return float("inf") if row.latency is None else row.latency.p50_ms


def _nothing(rows: Sequence[Row]) -> str:
    built = [figures.place(row) for row in rows if row.role == "result" and row.status == "built"]
    if built:
        return f"nothing was measured: {figures.listed(built)} built only"
    if _timed(rows):
        return "no result was measured, only the untouched model"
    return "nothing was measured"


def _among_equals(rows: Sequence[Row]) -> tuple[Row, str]:
    """The fastest of rows none of which is a result, and how it stands to the next."""
    best, *others = sorted(rows, key=_p50)
    if not others:
        return best, f"{_speed(best, None)}: {figures.place(best)}"
    other = others[0]
    ratio, back = speedup(best, other), speedup(other, best)
    if ratio is not None and back is not None and ratio.value < 1:  # medians so close that the interleaved ratio turns them
        best, other, ratio = other, best, back
    found = _speed(best, other)
    return best, f"{found}: {figures.place(best)} against the fastest other row ({figures.place(other)})"


def _speed(row: Row, vs: Row | None) -> str:
    """The ratio to ``vs``, or the median where there is none; the word ``unstable`` and why, where that is all one may say."""
    ratio = compared(row, vs)
    if ratio is not None:
        return figures.faster(ratio.ratio) if ratio.unstable is None else f"speed {figures.unstable(ratio.unstable)}"
    if row.latency is not None and row.latency.unstable is not None:
        return f"latency {figures.unstable(row.latency.unstable)}"
    return f"p50 {figures.milliseconds(_p50(row))}"


def _sentence(best: Row, rows: Sequence[Row], gates: Sequence[Gate]) -> str:
    baseline = yardstick(rows)
    ratio = compared(best, baseline)
    parts = [_speed(best, baseline)]
    beside = baseline if baseline is not None and baseline.size_bytes else own_baseline(best, rows)
    if beside is not None and beside.size_bytes and best.size_bytes:
        parts.append(figures.smaller(beside.size_bytes, best.size_bytes))
    elif best.size_bytes:
        parts.append(figures.size(best.size_bytes))
    if best.metrics:
        metric = best.metrics[0]
        found = figures.metric_difference(metric) or figures.metric_value(metric)
        limit = next((gate.limit for gate in gates if (gate.metric, gate.row) == (metric.name, best.name)), None)
        parts.append(f"{figures.label(metric.name)} {found}" + (f" (limit: {limit})" if limit else ""))
    elif close := figures.cosine(best.fidelity):
        parts.append(close)
    against = ""
    if baseline is not None and ratio is not None:
        kind = "FP32" if is_fp32(baseline) else "other"
        against = f" against the fastest {kind} row ({figures.place(baseline)})"
    none = "" if any(map(is_fp32, _timed(rows))) else "; no FP32 row was measured beside it"
    return f"{', '.join(parts)}: {figures.place(best)}{against}{none}"
