"""How the suite's runs are shown: the Markdown table of the README, and the figures behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accel.benchmarks import figures
from accel.benchmarks.markdown_blocks import table
from accel.benchmarks.untrusted import markdown
from accel.benchmarks.verdict import speedup, yardstick
from accel.report import Report, Row

HEAD = ("", "what the user wrote", "top-1", "against the untouched model", "p50", "times the fastest FP32", "ran in", "size")

UNSTABLE = "unstable"
"""In place of a figure that is not to be relied on: why stands below the table."""


def section(report: Report, wrote: Mapping[str, str]) -> list[str]:
    """The table of one model, what it rests on below. ``wrote``: what the user wrote, by row name."""
    base = yardstick(report.rows)
    lines = [_line(row, base, wrote.get(row.name, "")) for row in report.rows]
    said = [f"### {markdown(report.name)}", "", *table(HEAD, lines, range(2, 8)).splitlines(), "", _basis(report)]
    problems = report.conditions.problems if report.conditions is not None else []
    said += [f"* {markdown(text)}" for text in dict.fromkeys((*problems, *report.warnings, *_unstable(report)))]
    for gate in report.gates:
        said.append(f"* gate {markdown(gate.name)}: **{gate.verdict}**: {markdown(gate.text)}")
    return [*said, ""]


def machine(report: Report) -> str:
    """One line: what the figures hold for."""
    here = report.environment
    libraries = ", ".join(f"{name} {version}" for name, version in sorted(here.libraries.items()))
    load = "" if here.load_average is None else f", load {here.load_average:.2f} before the run"
    return markdown(f"{here.cpu}, {here.cores} cores{load}; {here.platform}, Python {here.python}; {libraries}", limit=1000)


def entry(report: Report, wrote: Mapping[str, str], place: str) -> dict[str, Any]:
    """For suite.json; the report at ``place`` has all the rest."""
    base = yardstick(report.rows)
    rows = []
    for row in report.rows:
        metric = row.metrics[0].model_dump() if row.metrics else None
        ratio = speedup(row, base)
        rows.append(
            {
                "row": row.name,
                "wrote": wrote.get(row.name, ""),
                "backend": row.backend,
                "status": row.status,
                "reason": row.reason,
                "metric": metric,
                "p50_ms": row.latency.p50_ms if row.latency else None,
                "queries": row.latency.queries if row.latency else None,
                "times_fastest_fp32": None if ratio is None else ratio.model_dump(),
                "precision": row.precision.model_dump() if row.precision else None,
                "size_bytes": row.size_bytes,
            }
        )
    return {
        "model": report.name,
        "report": place,
        "fastest_fp32": None if base is None else base.name,
        "verdict": report.verdict.text,
        "noise": report.noise.model_dump() if report.noise else None,
        "gates": [gate.model_dump() for gate in report.gates],
        "rows": rows,
    }


def _line(row: Row, base: Row | None, wrote: str) -> list[str]:
    name = f"**{markdown(row.name)}**" if row.role == "result" else markdown(row.name)
    trouble = figures.trouble(row)
    if trouble is not None:
        return [name, f"`{wrote}`", markdown(trouble), "", "", "", "", ""]
    metric = row.metrics[0] if row.metrics else None
    ratio = next((one for one in row.speedups if base is not None and one.vs == base.name), None)
    times = figures.NONE if ratio is None else UNSTABLE if ratio.unstable else figures.ratio(ratio.ratio)
    return [
        name,
        f"`{wrote}`",
        figures.NONE if metric is None else figures.metric_value(metric),
        figures.NONE if metric is None else figures.metric_difference(metric) or "what others are held against",
        UNSTABLE if row.latency and row.latency.unstable else figures.milliseconds(row.latency.p50_ms if row.latency else None),
        "1" if base is not None and row.name == base.name else times,
        markdown(figures.precision(row.precision)),
        figures.size(row.size_bytes),
    ]


def _basis(report: Report) -> str:
    """n, threads, restarts and the A/A pair, in a sentence each."""
    timed = [row.latency for row in report.rows if row.latency is not None]
    samples = next((metric.n for row in report.rows for metric in row.metrics), 0)
    said = [f"top-1 and its paired differences over {samples:,} images"] if samples else []
    if timed:
        queries = [latency.queries for latency in timed]
        first = timed[0]
        said.append(
            f"{min(queries):,} to {max(queries):,} inferences a row in {first.restarts} fresh processes each, rows in turn, "
            f"batch {first.batch_size}, {first.threads} thread{'s' if first.threads > 1 else ''}; intervals are 95 %"
        )
    noise = report.noise
    if noise is not None:
        said.append(f"A/A pair ({markdown(noise.row)} against itself): {figures.ratio(noise.ratio)}, {noise.verdict}")
    return "; ".join(said) + "."


def _unstable(report: Report) -> Sequence[str]:
    return [f"{row.name} is unstable: {row.latency.unstable}" for row in report.rows if row.latency and row.latency.unstable]
