"""``report.md`` from a report. Its first line is the verdict with what became of the gates; then gates, table, scenarios and
roofline; how it was measured, steps, warnings, and what is folded away. Light: no numpy.

Everything that is not a number or a sentence of this file passes through ``untrusted``. At most 60,000 characters (a comment on
a pull request holds 65,536): what does not fit is folded away and counted, and ``report.json`` has all of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from accel.benchmarks import figures, markdown_findings
from accel.benchmarks.kept_layers import kept_layers
from accel.benchmarks.markdown_blocks import ROOMS, Room, Shown, bullets, folded, marker, table
from accel.benchmarks.markdown_method import deployment, measured, steps
from accel.benchmarks.untrusted import markdown
from accel.benchmarks.verdict import compared, own_baseline, yardstick, yardstick_name
from accel.report import Latency, Report, Row

MAX_CHARACTERS = 60_000


def render(report: Report) -> str:
    """The report as GitHub's Markdown, at most 60,000 characters, the same for the same ``report.json``."""
    report = Report.model_validate_json(report.json_text())  # what a reader of the file would have: no tuples, no paths
    text = ""
    for room in ROOMS:
        text = _document(report, room)
        if len(text) <= MAX_CHARACTERS:
            return text
    return f"{text[: MAX_CHARACTERS - 200]}\n\n(cut here: report.json has the rest)\n\n{marker(report.name)}\n"


def headline(report: Report, room: Room = ROOMS[0]) -> str:
    """The first line: what became of the gates, then the verdict; harmless in Markdown."""
    gates = figures.gates_line(report.gates)
    return markdown(f"{gates}: {report.verdict.text}" if gates else report.verdict.text, 4 * room.text)


def _document(report: Report, room: Room) -> str:
    def shown(text: object) -> str:
        return markdown(str(text), room.text)

    parts = [f"**{headline(report, room)}**", *markdown_findings.gates(report, room, shown)]
    parts += [f"# {shown(report.name)}", *_rows(report, room, shown)]
    parts += markdown_findings.unstable(report, room, shown)
    parts += markdown_findings.points(report, room, shown)
    parts += markdown_findings.roofline(report, room, shown)
    parts += kept_layers(report, room, shown)
    parts += measured(report, room, shown)
    parts += steps(report, room, shown)
    notes = report.notes + [f"{row.name}: {note}" for row in report.rows for note in row.notes]
    if notes or report.warnings:
        warnings = bullets(list(dict.fromkeys(report.warnings)), room.notes, shown, mark="⚠ ")
        listed = bullets(notes, room.notes, shown)
        parts += ["## Notes and warnings", warnings]
        parts.append(listed if len(notes) <= 12 else folded(f"Notes ({len(notes):,})", listed))
    parts += markdown_findings.accuracy(report, room, shown)
    parts += markdown_findings.layers(report, room, shown)
    parts += deployment(report, room, shown)
    parts.append(_made_by(report, shown))
    parts.append(marker(report.name))
    return "\n\n".join(part for part in parts if part) + "\n"


def _made_by(report: Report, shown: Shown) -> str:
    text = f"accel {shown(report.accel_version)}, {shown(report.created)}, recipe sha256 {shown(report.recipe_sha256)}"
    if report.source is not None:
        text += f", commit {shown(report.source.commit)}{' with local changes' if report.source.dirty else ''}"
    return text


def _rows(report: Report, room: Room, shown: Shown) -> list[str]:
    baseline = yardstick(report.rows)
    rows = report.rows[: room.rows]
    results = [_result_cells(row, report.rows, baseline, shown) for row in rows]
    head = ["row", "accuracy (difference to the reference)", "p50", "p90", "p99", "queries"]
    head += [f"against the {yardstick_name(baseline)}", "against its own baseline", "size", "gzipped", "executed precision"]
    parts = [table(head, results, range(2, 10))]
    if len(rows) < len(report.rows):
        parts.append(f"{len(report.rows) - len(rows)} more rows in report.json.")
    details = [_detail_cells(row, shown) for row in rows if row.status in ("measured", "built")]
    head = [
        "row",
        "compilation",
        "first inference",
        "peak memory",
        "same nearest sample" if any(row.fidelity is not None and row.fidelity.cosine for row in rows) else "top-1 agreement",
        "SQNR",
        "largest difference",
        "compared with",
    ]
    if details:
        parts.append(table(head, details, range(1, 7)))
    parts.append(_explained(rows, baseline, shown))
    return parts


def _result_cells(row: Row, rows: Sequence[Row], baseline: Row | None, shown: Shown) -> list[str]:
    name = f"{shown(row.name)} ({shown(row.backend)}/{shown(row.device)}, {row.role})"
    if (trouble := figures.trouble(row)) is not None:
        return [name, shown(trouble)] + [figures.NONE] * 9
    accuracy = "<br>".join(
        " ".join(
            filter(None, [shown(figures.label(metric.name)), figures.metric_value(metric), figures.metric_difference(metric)])
        )
        for metric in row.metrics
    )
    accuracy = accuracy or figures.cosine(row.fidelity)
    if row.status == "built" and row.reason is not None:
        accuracy = shown(row.reason)
    return [
        name,
        accuracy or figures.NONE,
        *_times(row.latency),
        _ratio(row, baseline),
        _ratio(row, own_baseline(row, rows)),
        figures.size(row.size_bytes),
        figures.size(row.gzip_bytes),
        shown(figures.precision(row.precision)),
    ]


def _times(latency: Latency | None) -> list[str]:
    """Median, the two percentiles, queries; the word instead of numbers where they are not to be relied on."""
    if latency is None:
        return [figures.NONE] * 4
    times = [figures.milliseconds(found) for found in (latency.p50_ms, latency.p90_ms, latency.p99_ms)]
    return [*(["unstable"] * 3 if latency.unstable is not None else times), f"{latency.queries:,}"]


def _ratio(row: Row, vs: Row | None) -> str:
    if vs is not None and vs.name == row.name:
        return "1 (itself)"
    found = compared(row, vs)
    if found is None:
        return figures.NONE
    if found.unstable is not None:
        return "unstable"
    low, high = found.ratio.low, found.ratio.high
    unclear = low is not None and high is not None and low <= 1 <= high
    return figures.ratio(found.ratio) + (" not significant" if unclear else "")


def _detail_cells(row: Row, shown: Shown) -> list[str]:
    close = row.fidelity
    cells = [shown(row.name), figures.seconds(row.compile_s), figures.milliseconds(row.first_inference_ms)]
    cells.append(figures.size(row.peak_memory_bytes))
    if close is None:
        return cells + [figures.NONE] * 4
    share = close.top1_agreement if close.cosine is None else close.nearest_agreement
    agreement = figures.NONE if share is None else f"{100 * share:.2f} %"
    identical = close.max_abs_difference == 0 and not close.nonfinite_values
    sqnr = "identical" if identical else figures.NONE if close.sqnr_db is None else f"{close.sqnr_db:.1f} dB"
    largest = f"{close.max_abs_difference:.3g}"
    if close.nonfinite_values:
        largest += f", **{close.nonfinite_values:,} values NaN or infinite**"
    return [*cells, agreement, sqnr, largest, shown(close.vs)]


def _explained(rows: Sequence[Row], baseline: Row | None, shown: Shown) -> str:
    text = "CI: 95 % confidence interval. A ratio above 1 is faster."
    if baseline is not None:
        text += f" The {yardstick_name(baseline)} is {shown(figures.place(baseline))}."
        text += " Its own baseline is the untouched model on the same target or backend."
    if any(row.latency is not None and row.latency.p99_ms is None for row in rows):
        text += " p90 needs 64 queries and p99 662 (MLPerf's early stopping); with fewer they are not given."
    return text
