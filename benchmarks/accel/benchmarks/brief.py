"""A report in one small Markdown table, for a README: what was run, how it came out, on what."""

from __future__ import annotations

from accel.benchmarks import figures
from accel.benchmarks.untrusted import markdown
from accel.benchmarks.verdict import compared, yardstick, yardstick_name
from accel.report import Report, Row


def brief(report: Report) -> str:
    """The table, and a line that says what it holds for and what became of the gates."""
    baseline = yardstick(report.rows)
    head = ("row", "accuracy (paired difference)", "p50", f"against the {yardstick_name(baseline)}", "files", "executed")
    lines = [f"| {' | '.join(head)} |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    lines += [f"| {' | '.join(_cells(row, baseline))} |" for row in report.rows]
    machine = report.environment
    versions = ", ".join(
        f"{name} {machine.libraries[name]}"
        for name in ("torch", "onnxruntime", "openvino", "nncf")
        if name in machine.libraries
    )
    counts = ", ".join(f"{use.samples:,} {use.split}" for use in report.data)
    threads = report.method.get("threads", 1)
    noise = "" if report.noise is None else f" A/A pair: {figures.ratio(report.noise.ratio)}, {report.noise.verdict}."
    gates = figures.gates_line(report.gates)
    method = report.method
    how = f"{machine.cores} cores, {threads} thread{'s' if threads != 1 else ''}, batch {method.get('batch_size', 1)}"
    conditions = f"{markdown(machine.cpu)}, {markdown(how)}; {markdown(versions)}; samples: {markdown(counts)}."
    lines += ["", f"{conditions}{noise}{f' {markdown(gates)}.' if gates else ''}"]
    return "\n".join(lines) + "\n"


def _cells(row: Row, baseline: Row | None) -> list[str]:
    name = markdown(row.name)
    trouble = figures.trouble(row)
    if trouble is not None:
        return [name, markdown(trouble), *[figures.NONE] * 4]
    accuracy = figures.NONE
    if row.metrics:
        metric = row.metrics[0]
        accuracy = f"{markdown(figures.label(metric.name))} {figures.metric_value(metric)} {figures.metric_difference(metric)}"
    elif close := figures.cosine(row.fidelity):
        accuracy = markdown(close)
    itself = baseline is not None and row.name == baseline.name
    ratio = "1" if itself else markdown(figures.speed(compared(row, baseline)))
    p50 = markdown(figures.p50(row.latency))
    return [name, accuracy.strip(), p50, ratio, figures.size(row.size_bytes), markdown(figures.precision(row.precision))]
