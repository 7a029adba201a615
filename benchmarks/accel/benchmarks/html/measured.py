"""How it was measured, on what, from which data, in which steps; and what the run had to say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from accel.benchmarks import figures
from accel.benchmarks.environment import gpu_line
from accel.benchmarks.html import cells
from accel.benchmarks.html.markup import code, short, shown
from accel.benchmarks.html.tables import Cell, Column, figure, table, words
from accel.machine import Conditions
from accel.report import Report

MOST_STEPS = 200


def measured(report: Report) -> str:
    """Method, machine, conditions and data."""
    facts: list[tuple[str, str]] = []
    latency = next((row.latency for row in report.rows if row.latency is not None), None)
    if latency is not None:
        facts.append(("turns", f"{latency.restarts} restarts of {latency.rounds} rounds, rows in turn, in shuffled order"))
        facts.append(("batch size, threads", f"{latency.batch_size}, {latency.threads}"))
    if report.noise is not None:
        noise = report.noise
        ratio = shown(figures.ratio(noise.ratio))
        told = f"{short(noise.row)} against itself in a second process {ratio}, which should hold 1"
        facts.append(("noise (A/A pair)", f"<strong>{noise.verdict}</strong>: {told}"))
    facts += [(shown(key, 80), shown(value, 400)) for key, value in _flat(report.method)]
    parts = ["<h3>Method</h3>", _list(facts), "<h3>Machine</h3>", _machine(report)]
    if report.conditions is not None:
        parts += ["<h3>The machine meanwhile</h3>", _conditions(report.conditions)]
    if report.data:
        columns = [Column("split"), Column("source"), Column("samples", numeric=True), Column("digest")]
        rows = [
            [
                words(short(use.split)),
                words(shown(use.source, 300)),
                figure(f"{use.samples:,}", use.samples),
                _digest(use.digest),
            ]
            for use in report.data[:100]
        ]
        parts += ["<h3>Data</h3>", table("data", "Which samples served for what", columns, rows, compact=True)]
    return "\n".join(parts)


def _digest(text: str) -> Cell:
    return words(f'<code title="{shown(text, 128)}">{shown(text[:16], 16)}</code>')


def _machine(report: Report) -> str:
    here = report.environment
    facts = [
        ("processor", shown(here.cpu)),
        ("cores, memory", f"{here.cores}, {figures.size(here.memory_bytes)}"),
        ("instruction sets", shown(" ".join(here.isa_flags) or "unknown")),
        ("system", f"{shown(here.platform)}, Python {shown(here.python)}"),
    ]
    facts += [("governor", shown(here.governor))] if here.governor is not None else []
    facts += [("load at the start", f"{here.load_average:.2f}")] if here.load_average is not None else []
    facts += [(f"GPU {gpu.index}", shown(gpu_line(gpu))) for gpu in here.gpus]
    facts.append(("versions", ", ".join(f"{shown(name, 60)} {shown(found, 60)}" for name, found in here.libraries.items())))
    facts.append(("seed", str(report.seed)))
    if report.source is not None:
        changed = ", changed since" if report.source.dirty else ""
        facts.append(("commit of the recipe", f"<code>{shown(report.source.commit, 64)}</code>{changed}"))
    if report.recipe is not None:
        facts.append(("recipe", shown(report.recipe, 300)))
    if report.recipe_sha256 is not None:
        facts.append(("recipe sha256", f"<code>{shown(report.recipe_sha256, 64)}</code>"))
    return _list(facts)


def _conditions(found: Conditions) -> str:
    def share(value: float | None) -> str:
        return "unknown" if value is None else f"{100 * value:.1f} %"

    facts = [
        ("timed for", figures.seconds(found.seconds)),
        ("taken by other processes", share(found.others_share)),
        ("taken by the hypervisor", share(found.steal_share)),
        ("held back by the quota", "unknown" if found.throttled_s is None else figures.seconds(found.throttled_s)),
    ]
    if found.clock_mhz_before is not None and found.clock_mhz_after is not None:
        facts.append(("clock", f"{found.clock_mhz_before:,.0f} MHz before, {found.clock_mhz_after:,.0f} MHz after"))
    if found.drift is not None:
        facts.append(("drift", f"{found.drift:.3f}, the last third of all restarts against the first"))
    problems = cells.bullets([shown(problem) for problem in found.problems], "warned")
    return problems + _list(facts)


def _list(facts: Iterable[tuple[str, str]]) -> str:
    """Both sides are markup."""
    parts = [f"<div><dt>{name}</dt><dd>{value or figures.NONE}</dd></div>" for name, value in facts]
    return f'<dl class="facts">{"".join(parts)}</dl>'


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted keys."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            plain = value if isinstance(value, str) else f"{value:.6g}" if isinstance(value, float) else None
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False) if plain is None else plain


def steps(report: Report) -> str:
    """What each step did and what it left alone. Empty without steps."""
    if not report.steps:
        return ""
    columns = [Column("target"), Column("step"), Column("took", numeric=True), Column("settings")]
    rows, told = [], []
    for step in report.steps[:MOST_STEPS]:
        settings = ", ".join(f"{key}={value}" for key, value in _flat(step.settings))
        took = Cell("reused", step.seconds) if step.cached else figure(figures.seconds(step.seconds), step.seconds)
        rows.append([words(short(step.target)), words(short(step.name)), took, words(shown(settings, 600) or figures.NONE)])
        told += [f"{short(step.target)}, {short(step.name)}: {shown(note)}" for note in step.notes]
    more = f"<p>{len(report.steps) - MOST_STEPS:,} more steps in report.json.</p>" if len(report.steps) > MOST_STEPS else ""
    return table("steps", "In the order they ran", columns, rows, compact=True) + more + _folded(told, "What the steps say")


def warnings(report: Report) -> str:
    """Each once. Empty without any."""
    return cells.bullets([shown(text, 1000) for text in dict.fromkeys(report.warnings)], "warned")


def notes(report: Report) -> str:
    """The run's notes, then each row's. Empty without any."""
    told = [shown(note, 1000) for note in report.notes]
    told += [f"<strong>{short(row.name)}</strong>: {shown(note, 1000)}" for row in report.rows for note in row.notes]
    return _folded(told, "Notes")


def _folded(lines: Sequence[str], title: str) -> str:
    if len(lines) <= 12:
        return cells.bullets(lines)
    return f"<details><summary>{title} ({len(lines):,})</summary>{cells.bullets(lines)}</details>"


def deployment(report: Report) -> str:
    """A script for each target, folded away, with a button that copies it. Empty without any."""
    parts = []
    for target, text in list(report.deployment.items())[:100]:
        inside = "<p>No script can be written for this model and backend.</p>"
        if text:
            inside = f'<pre class="copy" tabindex="0"><code>{code(text.rstrip())}</code></pre>'
        parts.append(f"<details><summary>{short(target, 80)}</summary>{inside}</details>")
    return "\n".join(parts)
