"""``report.md`` from a report: verdict, table, how it was measured, steps, notes and warnings, deployment. Light: no numpy.

Everything that is not a number or a sentence of this file passes through ``untrusted``. At most 60,000 characters (a comment on
a pull request holds 65,536): what does not fit is folded away and counted, and ``report.json`` has all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accel.benchmarks import figures
from accel.benchmarks.environment import gpu_line
from accel.benchmarks.untrusted import fenced, markdown
from accel.benchmarks.verdict import own_baseline, speedup, yardstick, yardstick_name
from accel.report import Report, Row

MAX_CHARACTERS = 60_000


@dataclass(frozen=True)
class _Room:
    """How much is shown: characters of one text, rows, steps, notes of one kind, characters of one snippet."""

    text: int
    rows: int
    steps: int
    notes: int
    snippet: int


_ROOMS = (
    _Room(text=400, rows=100, steps=200, notes=200, snippet=20_000),
    _Room(text=300, rows=60, steps=60, notes=40, snippet=8_000),
    _Room(text=160, rows=30, steps=30, notes=10, snippet=4_000),
    _Room(text=80, rows=15, steps=10, notes=3, snippet=0),
    _Room(text=40, rows=8, steps=3, notes=1, snippet=0),
)


def render(report: Report) -> str:
    """The report as GitHub's Markdown, at most 60,000 characters, the same for the same ``report.json``."""
    report = Report.model_validate_json(report.json_text())  # what a reader of the file would have: no tuples, no paths
    text = ""
    for room in _ROOMS:
        text = _document(report, room)
        if len(text) <= MAX_CHARACTERS:
            return text
    return text[: MAX_CHARACTERS - 100] + "\n\n(cut here: report.json has the rest)\n"


def _document(report: Report, room: _Room) -> str:
    def shown(text: object) -> str:
        return markdown(str(text), room.text)

    parts = [f"# {shown(report.name)}", f"**{markdown(report.verdict.text, 4 * room.text)}**"]
    parts += _rows(report, room, shown)
    parts += _measured(report, room, shown)
    parts += _steps(report, room, shown)
    notes = report.notes + [f"{row.name}: {note}" for row in report.rows for note in row.notes]
    if notes or report.warnings:
        warnings = _bullets(list(dict.fromkeys(report.warnings)), room.notes, shown, mark="⚠ ")
        parts += ["## Notes and warnings", warnings, _folded(notes, room.notes, shown) if notes else ""]
    parts += _deployment(report, room, shown)
    parts.append(f"accel {shown(report.accel_version)}, {shown(report.created)}, recipe sha256 {shown(report.recipe_sha256)}")
    return "\n\n".join(part for part in parts if part) + "\n"


Shown = Callable[[object], str]


def _rows(report: Report, room: _Room, shown: Shown) -> list[str]:
    baseline = yardstick(report.rows)
    rows = report.rows[: room.rows]
    table = [_result_cells(row, report.rows, baseline, shown) for row in rows]
    head = ["row", "accuracy (difference to the reference)", "p50", "p90", "p99", "queries"]
    head += [f"against the {yardstick_name(baseline)}", "against its own baseline", "size", "gzipped", "executed precision"]
    parts = [_table(head, table, range(2, 10))]
    if len(rows) < len(report.rows):
        parts.append(f"{len(report.rows) - len(rows)} more rows in report.json.")
    details = [_detail_cells(row, shown) for row in rows if row.status in ("measured", "built")]
    head = [
        "row",
        "compilation",
        "first inference",
        "peak memory",
        "top-1 agreement",
        "SQNR",
        "largest difference",
        "compared with",
    ]
    if details:
        parts.append(_table(head, details, range(1, 7)))
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
    if row.status == "built" and row.reason is not None:
        accuracy = shown(row.reason)
    latency = row.latency
    times = [figures.NONE] * 4
    if latency is not None:
        times = [figures.milliseconds(found) for found in (latency.p50_ms, latency.p90_ms, latency.p99_ms)]
        times.append(f"{latency.queries:,}")
    return [
        name,
        accuracy or figures.NONE,
        *times,
        _ratio(row, baseline),
        _ratio(row, own_baseline(row, rows)),
        figures.size(row.size_bytes),
        figures.size(row.gzip_bytes),
        shown(figures.precision(row.precision)),
    ]


def _ratio(row: Row, vs: Row | None) -> str:
    if vs is not None and vs.name == row.name:
        return "1 (itself)"
    found = speedup(row, vs)
    if found is None:
        return figures.NONE
    unclear = found.low is not None and found.high is not None and found.low <= 1 <= found.high
    return figures.ratio(found) + (" not significant" if unclear else "")


def _detail_cells(row: Row, shown: Shown) -> list[str]:
    close = row.fidelity
    cells = [shown(row.name), figures.seconds(row.compile_s), figures.milliseconds(row.first_inference_ms)]
    cells.append(figures.size(row.peak_memory_bytes))
    if close is None:
        return cells + [figures.NONE] * 4
    agreement = figures.NONE if close.top1_agreement is None else f"{100 * close.top1_agreement:.2f} %"
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


def _measured(report: Report, room: _Room, shown: Shown) -> list[str]:
    lines = []
    latency = next((row.latency for row in report.rows if row.latency is not None), None)
    if latency is not None:
        lines.append(
            f"batch size {latency.batch_size}, threads {latency.threads}, {latency.restarts} restarts of "
            f"{latency.rounds} rounds, rows in turn, in shuffled order"
        )
    if report.noise is not None:
        noise = report.noise
        lines.append(
            f"noise: {noise.verdict}; {shown(noise.row)} against itself in a second process {figures.ratio(noise.ratio)}, "
            "which should hold 1"
        )
    here = report.environment
    machine = f"{shown(here.cpu)}, {here.cores} cores, {figures.size(here.memory_bytes)} of memory, {shown(here.platform)}"
    machine += f", Python {shown(here.python)}"
    if here.governor is not None:
        machine += f", governor {shown(here.governor)}"
    if here.load_average is not None:
        machine += f", load average at the start {here.load_average:.2f}"
    lines.append(f"machine: {machine}")
    lines += [f"GPU {gpu.index}: {shown(gpu_line(gpu))}" for gpu in here.gpus]
    lines.append(f"instruction sets: {shown(' '.join(here.isa_flags) or 'unknown')}")
    lines.append(
        "versions: " + (", ".join(f"{shown(name)} {shown(found)}" for name, found in here.libraries.items()) or "unknown")
    )
    lines.append(f"seed: {report.seed}")
    method = [f"{key}: {value}" for key, value in _flat(report.method)]
    parts = [
        "## How it was measured",
        "\n".join(filter(None, [_bullets(method, room.notes, shown), *(f"- {line}" for line in lines)])),
    ]
    if report.data:
        data = [
            [shown(use.split), shown(use.source), f"{use.samples:,}", shown(use.digest)] for use in report.data[: room.rows]
        ]
        parts.append(_table(["split", "source", "samples", "digest"], data, range(2, 3)))
    return parts


def _steps(report: Report, room: _Room, shown: Shown) -> list[str]:
    if not report.steps:
        return []
    rows = []
    notes = []
    for step in report.steps[: room.steps]:
        settings = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in step.settings.items())
        took = "reused" if step.cached else figures.seconds(step.seconds)
        rows.append([shown(step.target), shown(step.name), took, shown(settings) or figures.NONE])
        notes += [f"{step.target}, {step.name}: {note}" for note in step.notes]
    parts = ["## Steps", _table(["target", "step", "took", "settings"], rows, range(2, 3))]
    if len(rows) < len(report.steps):
        parts.append(f"{len(report.steps) - len(rows)} more steps in report.json.")
    if notes:
        parts.append(_folded(notes, room.notes, shown, "What the steps say"))
    return parts


def _deployment(report: Report, room: _Room, shown: Shown) -> list[str]:
    if not report.deployment:
        return []
    parts = ["## Deployment"]
    for index, (target, code) in enumerate(report.deployment.items()):
        parts.append(f"### {shown(target)}")
        if index >= room.rows:
            parts[-1] = f"{len(report.deployment) - index} more targets in report.json."
            break
        if not code:
            parts.append("No script can be written for this model and backend.")
        elif len(code) <= room.snippet:
            parts.append(fenced(code.rstrip()))
        else:
            parts.append("The script is in report.json, under `deployment`.")
    return parts


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: range) -> str:
    """``numbers``: the columns that hold figures and are set to the right."""
    rule = ["---:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *rows))


def _bullets(texts: Sequence[str], limit: int, shown: Shown, mark: str = "") -> str:
    """``texts`` are as they came: ``shown`` makes them harmless."""
    kept = [f"- {mark}{shown(text)}" for text in texts[:limit]]
    if len(texts) > limit:
        kept.append(f"- and {len(texts) - limit:,} more in report.json")
    return "\n".join(kept)


def _folded(texts: Sequence[str], limit: int, shown: Shown, title: str = "Notes") -> str:
    """A list, folded away where it is long."""
    listed = _bullets(texts, limit, shown)
    if len(texts) <= 12:
        return listed
    return f"<details><summary>{title} ({len(texts):,})</summary>\n\n{listed}\n\n</details>"
