"""The table at the end of a run. On a terminal as wide as it is; elsewhere plain lines, one for each row."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from accel.benchmarks import figures
from accel.benchmarks.untrusted import plain
from accel.benchmarks.verdict import compared, yardstick, yardstick_name
from accel.report import Gate, Point, Report, Row

WIDE = 100
"""Columns that the table needs; below, rows are written under one another."""

LONGEST = 1000
"""Characters of one text: a terminal is no place for a name of ten thousand."""

STYLES = {"measured": "", "built": "", "skipped": "yellow", "failed": "red"}
GATE_STYLES = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}


def show(report: Report, console: Console) -> None:
    """Print verdict, gates, rows, scenarios and warnings; escapes and colours only where ``console`` is a terminal."""
    terminal = console.is_terminal and not console.is_dumb_terminal
    gates = figures.gates_line(report.gates)
    first = f"{gates}: {report.verdict.text}" if gates else report.verdict.text
    _print(console, plain(first, LONGEST), "bold" if terminal else "")
    for gate in report.gates:
        word, text = _gate(gate)
        _print(console, text, GATE_STYLES[word] if terminal else "")
    if report.rows:
        if terminal and console.width >= WIDE:
            console.print(_table(report))
        else:
            for row in report.rows:
                _print(console, _line(row, report), STYLES[row.status] if terminal else "")
    baseline = yardstick(report.rows)
    for row in report.rows:
        for point in row.points:
            _print(console, _point(row, point, baseline), "")
    if report.noise is not None:
        ratio = figures.ratio(report.noise.ratio)
        _print(console, f"noise: {report.noise.verdict} ({plain(report.noise.row, LONGEST)} against itself {ratio})", "")
    for warning in report.warnings:
        _print(console, f"warning: {plain(warning, LONGEST)}", "yellow" if terminal else "")


def _print(console: Console, text: str, style: str) -> None:
    console.print(Text(text, style=style), soft_wrap=not console.is_terminal)


def _gate(gate: Gate) -> tuple[str, str]:
    """``FAIL``, and ``FAIL: the sentence``, which names metric and target."""
    word = "FAIL" if gate.failed else gate.verdict.upper() if gate.verdict != "fail" else "INCONCLUSIVE"
    return word, f"{word}: {plain(gate.text, LONGEST)}"


def _table(report: Report) -> Table:
    table = Table(show_edge=False, pad_edge=False, expand=False)
    table.add_column("row", overflow="fold", max_width=32)
    for heading in ("accuracy", "p50", "p90", "p99", "speed", "size", "precision"):
        table.add_column(heading, justify="left" if heading == "precision" else "right", overflow="fold")
    baseline = yardstick(report.rows)
    for row in report.rows:
        name = Text(plain(f"{row.name} ({row.backend}/{row.device})", LONGEST), style=STYLES[row.status])
        if (trouble := figures.trouble(row)) is not None:
            table.add_row(name, Text(plain(trouble, 60), style=STYLES[row.status]))
            continue
        latency = row.latency
        times = [None, None, None] if latency is None else [latency.p50_ms, latency.p90_ms, latency.p99_ms]
        if latency is not None and latency.unstable is not None:
            figured = [plain(figures.p50(latency), 60), figures.NONE, figures.NONE]
        else:
            figured = [figures.milliseconds(found) for found in times]
        first = _accuracy(row) if row.status == "measured" else plain(row.reason or row.status, 60)
        cells = [first, *figured, plain(_speed(row, baseline), 60), figures.size(row.size_bytes)]
        table.add_row(name, *map(Text, cells), Text(plain(figures.precision(row.precision), LONGEST)))
    return table


def _line(row: Row, report: Report) -> str:
    """All of a row in one line: ``digits-int8 on openvino/cpu: top-1 98.50 %, p50 0.412 ms, ...``."""
    name = plain(figures.place(row), LONGEST)
    if (trouble := figures.trouble(row)) is not None:
        return f"{name}: {plain(trouble, LONGEST)}"
    facts = [_accuracy(row)]
    if row.latency is not None:
        facts += [f"p50 {plain(figures.p50(row.latency), LONGEST)}"]
        known = [("p90", row.latency.p90_ms), ("p99", row.latency.p99_ms)] if row.latency.unstable is None else []
        facts += [f"{label} {figures.milliseconds(found)}" for label, found in known if found is not None]
    speed = _speed(row, yardstick(report.rows))
    facts += [] if speed == figures.NONE else [f"speed {plain(speed, LONGEST)}"]
    facts += [figures.size(row.size_bytes)] if row.size_bytes is not None else []
    facts += [plain(figures.precision(row.precision), LONGEST)] if row.precision is not None else []
    facts += [f"built in {figures.seconds(row.compile_s)}"] if row.status == "built" and row.compile_s is not None else []
    facts += [plain(row.reason, LONGEST)] if row.reason is not None else []
    return f"{name}: {', '.join(fact for fact in facts if fact != figures.NONE) or row.status}"


def _accuracy(row: Row) -> str:
    if not row.metrics:
        return figures.cosine(row.fidelity) or figures.NONE
    metric = row.metrics[0]
    text = f"{plain(figures.label(metric.name), 60)} {figures.metric_value(metric)}"
    return f"{text} {figures.metric_difference(metric)}".rstrip()


def _speed(row: Row, baseline: Row | None) -> str:
    if baseline is not None and baseline.name == row.name:
        return f"1x ({yardstick_name(baseline)})"
    return figures.speed(compared(row, baseline))


def _point(row: Row, point: Point, baseline: Row | None) -> str:
    """One scenario of one row in one line: ``digits-int8, offline, batch 8, 2 threads, 1 stream: 1,234/s (CI ...)``."""
    threads = f"{point.threads} thread{'s' if point.threads != 1 else ''}"
    streams = f"{point.streams} stream{'s' if point.streams != 1 else ''}"
    place = f"{row.name}, {point.scenario.replace('_', ' ')}, batch {point.batch_size}, {threads}, {streams}"
    if point.reason is not None:
        return plain(f"{place}: not measured: {point.reason}", LONGEST)
    if point.unstable is not None:
        return plain(f"{place}: {figures.unstable(point.unstable)}", LONGEST)
    facts = [] if point.throughput_per_s is None else [figures.per_second(point.throughput_per_s)]
    if point.rate_per_s is not None:
        facts.append(f"up to {figures.per_second(point.rate_per_s)}")
        facts += [] if point.bound_ms is None else [f"p99 within {figures.milliseconds(point.bound_ms)}"]
    times = (("p50", point.p50_ms), ("p90", point.p90_ms), ("p99", point.p99_ms))
    facts += [f"{label} {figures.milliseconds(found)}" for label, found in times if found is not None]
    against = None if baseline is None else next((found for found in point.speedups if found.vs == baseline.name), None)
    facts += [] if against is None else [f"speed {figures.speed(against)}"]
    return plain(f"{place}: {', '.join(facts) or 'nothing was measured'}", LONGEST)
