"""The results table, the further figures, and what was not measured."""

from __future__ import annotations

from accel.benchmarks import figures
from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import short, shown
from accel.benchmarks.html.tables import MISSING, Cell, Column, figure, table, words
from accel.benchmarks.verdict import own_baseline, yardstick, yardstick_name
from accel.report import Fidelity, Metric, Report, Row


def results(report: Report) -> str:
    """Every row, in the report's order, with what is needed to choose one."""
    vs = yardstick(report.rows)
    metrics = _metric_names(report)
    columns = [Column("row")]
    for metric in metrics:
        label = figures.label(metric)
        note = "against the reference, paired; p: McNemar's test, samples gained and lost"
        columns += [Column(label, numeric=True), Column(f"{label} change", numeric=True, note=note)]
    columns += [
        Column("p50", numeric=True, note="single-stream latency"),
        Column("speed", numeric=True, note=f"against the {yardstick_name(vs)}, from interleaved runs"),
        Column("size", numeric=True, note="all files that ship"),
        Column("p90", numeric=True),
        Column("p99", numeric=True),
        Column("queries", numeric=True),
        Column("executed precision"),
        *_agreement_columns(report),
        Column("SQNR", numeric=True, note="signal to quantization noise of the outputs"),
        Column("gzipped", numeric=True),
    ]
    rows = [_result(row, index, report, vs, metrics, len(columns)) for index, row in enumerate(report.rows, 1)]
    caption = "CI: 95 % confidence interval; p: McNemar's test, with the samples gained and lost. A speed above 1 is faster."
    if vs is not None:
        caption += f" Speed is against {short(vs.name)}, the {yardstick_name(vs)}, from runs in turn."
    ids = [f"row-{index}" for index in range(1, len(rows) + 1)]
    parts = [table("results", caption, columns, rows, ids=ids)]
    if any(row.latency is not None and row.latency.p99_ms is None for row in report.rows):
        parts.append("<p>p90 needs 64 queries and p99 662 (MLPerf's early stopping); with fewer they are not given.</p>")
    unstable = cells.unstable_lines(report.rows, [] if vs is None else [vs.name])
    if unstable:
        parts.append(f"<h3>Unstable figures</h3>{cells.bullets(unstable, 'reasons')}")
    parts.append(_more(report))
    return "\n".join(parts)


def _metric_names(report: Report) -> list[str]:
    """All metrics, the rows' first ones first."""
    return list(dict.fromkeys(metric.name for row in report.rows for metric in row.metrics))[:6]


def _result(row: Row, number: int, report: Report, vs: Row | None, metrics: list[str], width: int) -> list[Cell]:
    found = [cells.name(row, number, best=row.name == report.verdict.row)]
    if (trouble := figures.trouble(row)) is not None:
        sign = "✗" if row.status == "failed" else "–"
        return [*found, words(f'<span class="{row.status}">{sign} {shown(trouble, 1000)}</span>')]
    if row.status == "built" and row.latency is None and row.size_bytes is None:
        return [*found, words(shown(f"built only: {row.reason}" if row.reason else "built only, not measured", 1000))]
    for name in metrics:
        metric = next((each for each in row.metrics if each.name == name), None)
        found += [MISSING, MISSING] if metric is None else [_metric(metric), cells.difference(metric)]
    p50, p90, p99, queries = _latency(row)
    found += [p50, cells.ratio(row, vs), figure(figures.size(row.size_bytes), row.size_bytes), p90, p99, queries]
    found.append(words(shown(figures.precision(row.precision))) if row.precision is not None else MISSING)
    found += [*_agreement(row.fidelity, report), *_sqnr(row.fidelity)]
    found.append(figure(figures.size(row.gzip_bytes), row.gzip_bytes))
    if row.status == "built" and row.reason is not None:
        found[0] = Cell(f'{found[0].html}<small class="why">built only: {shown(row.reason)}</small>', row.name)
    assert len(found) == width
    return found


def _metric(metric: Metric) -> Cell:
    return Cell(f"{figures.metric_value(metric)}<small>{metric.n:,} samples</small>", metric.value)


def _latency(row: Row) -> list[Cell]:
    latency = row.latency
    if latency is None:
        return [MISSING] * 4
    times = [cells.time(found, latency.unstable) for found in (latency.p50_ms, latency.p90_ms, latency.p99_ms)]
    if latency.unstable is None and latency.p50_low_ms is not None and latency.p50_high_ms is not None:
        low, high = figures.milliseconds(latency.p50_low_ms), figures.milliseconds(latency.p50_high_ms)
        times[0] = Cell(
            f"{times[0].html}<small>CI {low.removesuffix(' ms')} to {high.removesuffix(' ms')}</small>", latency.p50_ms
        )
    return [*times, figure(f"{latency.queries:,}", latency.queries)]


def _embeddings(report: Report) -> bool:
    return any(row.fidelity is not None and row.fidelity.cosine is not None for row in report.rows)


def _agreement_columns(report: Report) -> list[Column]:
    if not _embeddings(report):
        return [Column("top-1 agreement", numeric=True, note="share of samples with the reference's answer")]
    return [
        Column("mean cosine", numeric=True, note="of a sample's vector and the reference's"),
        Column("same nearest", numeric=True, note="share of samples whose nearest other sample is the reference's"),
    ]


def _agreement(found: Fidelity | None, report: Report) -> list[Cell]:
    """One cell for each of the columns above."""
    if not _embeddings(report):
        share = None if found is None else found.top1_agreement
        return [MISSING if found is None else _percent(share)]
    if found is None or found.cosine is None:
        return [MISSING, MISSING]
    value, low, high = found.cosine.value, found.cosine.low, found.cosine.high
    bounds = "" if low is None or high is None else f"<small>CI {low:.4f} to {high:.4f}</small>"
    return [Cell(f"{value:.4f}{bounds}", value), _percent(found.nearest_agreement)]


def _percent(share: float | None) -> Cell:
    return figure("" if share is None else f"{100 * share:.2f} %", share)


def _sqnr(found: Fidelity | None) -> list[Cell]:
    if found is None:
        return [MISSING]
    if found.max_abs_difference == 0 and not found.nonfinite_values:
        return [Cell("identical", 1e9)]
    if found.nonfinite_values:
        return [Cell(f'<strong class="failed">{found.nonfinite_values:,} values NaN or infinite</strong>', -1e9)]
    return [figure(f"{found.sqnr_db:.1f} dB" if found.sqnr_db is not None else "", found.sqnr_db)]


def _more(report: Report) -> str:
    """What few readers ask for, folded away."""
    columns = [
        Column("row"),
        Column("speed against its own baseline", numeric=True, note="the untouched model on the same target or backend"),
        Column("fastest query", numeric=True),
        Column("restarts × rounds", numeric=True),
        Column("on the device", numeric=True, note="median without copies, by the device's own clock"),
        Column("compilation", numeric=True),
        Column("first inference", numeric=True),
        Column("peak memory", numeric=True),
        Column("largest difference", numeric=True, note="of an output to the reference's"),
        Column("compared with"),
    ]
    rows = []
    for index, row in enumerate(report.rows, 1):
        if row.status not in ("measured", "built"):
            continue
        latency, close = row.latency, row.fidelity
        turns = "" if latency is None else f"{latency.restarts} × {latency.rounds}"
        rows.append(
            [
                cells.name(row, index),
                cells.ratio(row, own_baseline(row, report.rows)),
                MISSING if latency is None else cells.time(latency.min_ms, latency.unstable),
                figure(turns, None if latency is None else latency.restarts),
                figure(figures.milliseconds(row.device_p50_ms), row.device_p50_ms),
                figure(figures.seconds(row.compile_s), row.compile_s),
                figure(figures.milliseconds(row.first_inference_ms), row.first_inference_ms),
                figure(figures.size(row.peak_memory_bytes), row.peak_memory_bytes),
                MISSING if close is None else figure(f"{close.max_abs_difference:.3g}", close.max_abs_difference),
                MISSING if close is None else words(short(close.vs)),
            ]
        )
    if not rows:
        return ""
    inside = table("more", "Further figures of each row", columns, rows)
    unstable = cells.bullets(cells.unstable_lines(report.rows, None), "reasons")
    return f"<details><summary>Further figures: compilation, memory, own baselines</summary>{inside}{unstable}</details>"
