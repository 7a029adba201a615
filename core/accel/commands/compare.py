"""``accel compare``: two reports beside one another, and gates on what changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from accel.atomic import write
from accel.benchmarks import compare_markdown, compare_terminal
from accel.benchmarks.comparing import Comparison, compare
from accel.benchmarks.gate_limits import vs_of
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gate_text import parse
from accel.benchmarks.gates import SEVERAL_KINDS, exit_code, judge, judged_rows
from accel.benchmarks.quantities import metrics_of, quantity
from accel.benchmarks.stored_changes import other_machine
from accel.commands.report import load
from accel.errors import UsageError
from accel.report import Gate, Report

_BASE = "base"
_FORMATS = ("table", "md", "json")


def run(
    base: Path,
    head: Path,
    *,
    fail_on: Sequence[str],
    across_machines: bool,
    on_removed: str,
    form: str,
    output: Path | None,
    out: Console,
) -> int:
    """Exit code 0, that of the gates, or 1 where rows are gone and ``on_removed`` is fail."""
    if form not in _FORMATS:
        raise UsageError(f"--format: found {form!r}, allowed are {', '.join(_FORMATS)}")
    if on_removed not in ("warn", "fail"):
        raise UsageError(f"--on-removed: found {on_removed!r}, allowed are warn and fail")
    if form == "table" and output is not None:
        raise UsageError("--output: a table is for the terminal; choose --format md or json for a file")
    before, after = load(base), load(head)
    gates = _judged(fail_on, before, after, across_machines)
    found = compare(before, after, across_machines=across_machines, gates=gates)
    if form == "table":
        compare_terminal.show(found, out)
    else:
        text = found.json_text() if form == "json" else compare_markdown.render(found)
        if output is None:
            out.file.write(text)
        else:
            write(output, text)
    return _exit_code(found, on_removed)


def _judged(expressions: Sequence[str], base: Report, head: Report, across_machines: bool) -> list[Gate]:
    """UsageError for what is no gate, and for one on latency where the machines differ: it would judge the machines."""
    metrics = metrics_of(head.rows) | metrics_of(base.rows)
    targets = list(dict.fromkeys(name for row in head.rows for name in (row.target or row.backend, row.name)))
    settings = [parse(text, metrics=metrics, vs=_BASE_FILE, targets=targets) for text in expressions]
    if not across_machines:
        _require_same_machine(expressions, settings, base, head)
    renamed = [one.model_copy(update={"vs": _BASE}) if vs_of(one) is not None else one for one in settings]
    return judge(renamed, head, stored={_BASE: base}, across_machines=across_machines)


_BASE_FILE = "base.json"
"""Stands for the stored report while an expression is checked."""


def _require_same_machine(expressions: Sequence[str], settings: Sequence[GateSettings], base: Report, head: Report) -> None:
    for text, one in zip(expressions, settings, strict=True):
        known = quantity(one.metric, {})
        if known is None or known.kind != "latency" or vs_of(one) is None:
            continue
        for row in judged_rows(one, head.rows):
            problem = other_machine(head, base, row)
            if problem is not None:
                way = "--across-machines compares how each row stood to a row timed in turn with it"
                raise UsageError(f"--fail-on {text!r}: latencies are not comparable: {problem}; {way}")


def _exit_code(found: Comparison, on_removed: str) -> int:
    code = exit_code(found.gates)
    if on_removed == "fail" and found.names("removed"):
        return SEVERAL_KINDS
    return code
