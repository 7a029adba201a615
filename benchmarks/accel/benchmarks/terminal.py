"""The table at the end of a run. On a terminal as wide as it is; elsewhere plain lines, one for each row."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from accel.benchmarks import figures
from accel.benchmarks.untrusted import plain
from accel.benchmarks.verdict import speedup, yardstick, yardstick_name
from accel.report import Report, Row

WIDE = 100
"""Columns that the table needs; below, rows are written under one another."""

STYLES = {"measured": "", "built": "", "skipped": "yellow", "failed": "red"}


def show(report: Report, console: Console) -> None:
    """Print the verdict, the rows and the warnings of ``report``; escapes and colours only where ``console`` is a terminal."""
    terminal = console.is_terminal and not console.is_dumb_terminal
    _print(console, plain(report.verdict.text), "bold" if terminal else "")
    if report.rows:
        if terminal and console.width >= WIDE:
            console.print(_table(report))
        else:
            for row in report.rows:
                _print(console, _line(row, report), STYLES[row.status] if terminal else "")
    if report.noise is not None:
        ratio = figures.ratio(report.noise.ratio)
        _print(console, f"noise: {report.noise.verdict} ({plain(report.noise.row)} against itself {ratio})", "")
    for warning in report.warnings:
        _print(console, f"warning: {plain(warning)}", "yellow" if terminal else "")


def _print(console: Console, text: str, style: str) -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _table(report: Report) -> Table:
    table = Table(show_edge=False, pad_edge=False, expand=False)
    table.add_column("row", overflow="fold", max_width=32)
    for heading in ("accuracy", "p50", "p90", "p99", "speed", "size", "precision"):
        table.add_column(heading, justify="left" if heading == "precision" else "right", overflow="fold")
    baseline = yardstick(report.rows)
    for row in report.rows:
        name = Text(plain(f"{row.name} ({row.backend}/{row.device})"), style=STYLES[row.status])
        if (trouble := figures.trouble(row)) is not None:
            table.add_row(name, Text(plain(trouble, 60), style=STYLES[row.status]))
            continue
        latency = row.latency
        times = [None, None, None] if latency is None else [latency.p50_ms, latency.p90_ms, latency.p99_ms]
        first = _accuracy(row) if row.status == "measured" else plain(row.reason or row.status, 60)
        cells = [first, *map(figures.milliseconds, times), _speed(row, baseline), figures.size(row.size_bytes)]
        table.add_row(name, *map(Text, cells), Text(plain(figures.precision(row.precision))))
    return table


def _line(row: Row, report: Report) -> str:
    """All of a row in one line: ``digits-int8 on openvino/cpu: top-1 98.50 %, p50 0.412 ms, ...``."""
    name = plain(figures.place(row))
    if (trouble := figures.trouble(row)) is not None:
        return f"{name}: {plain(trouble)}"
    facts = [_accuracy(row)]
    if row.latency is not None:
        facts += [f"p50 {figures.milliseconds(row.latency.p50_ms)}"]
        facts += [f"p90 {figures.milliseconds(row.latency.p90_ms)}"] if row.latency.p90_ms is not None else []
        facts += [f"p99 {figures.milliseconds(row.latency.p99_ms)}"] if row.latency.p99_ms is not None else []
    speed = _speed(row, yardstick(report.rows))
    facts += [] if speed == figures.NONE else [f"speed {speed}"]
    facts += [figures.size(row.size_bytes)] if row.size_bytes is not None else []
    facts += [plain(figures.precision(row.precision))] if row.precision is not None else []
    facts += [f"built in {figures.seconds(row.compile_s)}"] if row.status == "built" and row.compile_s is not None else []
    facts += [plain(row.reason)] if row.reason is not None else []
    return f"{name}: {', '.join(fact for fact in facts if fact != figures.NONE) or row.status}"


def _accuracy(row: Row) -> str:
    if not row.metrics:
        return figures.NONE
    metric = row.metrics[0]
    text = f"{plain(figures.label(metric.name))} {figures.metric_value(metric)}"
    return f"{text} {figures.metric_difference(metric)}".rstrip()


def _speed(row: Row, baseline: Row | None) -> str:
    if baseline is not None and baseline.name == row.name:
        return f"1x ({yardstick_name(baseline)})"
    found = speedup(row, baseline)
    return figures.NONE if found is None else figures.ratio(found)
