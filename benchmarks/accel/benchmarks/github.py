"""What GitHub Actions shows of a report: annotations at the recipe's lines, and the summary of a step. Light: no numpy.

An annotation is a line on standard output, ``::error file=recipe.yaml,line=7,title=...::message`` (GitHub's documentation,
"Workflow commands"). Text of others must not end it or begin another: percent signs and line breaks are escaped as GitHub's own
toolkit does, colons and commas too in what stands before the message.
"""

from __future__ import annotations

from accel.benchmarks import figures
from accel.benchmarks.brief import brief
from accel.benchmarks.markdown import headline, render
from accel.benchmarks.untrusted import plain
from accel.report import Gate, Report

MAX_ANNOTATIONS = 10
"""Errors, and warnings, that GitHub shows of one step; it drops the rest without a word."""

SUMMARY_BYTES = 1024 * 1024
"""Of one step's summary. Where it is longer the upload fails, nothing is shown, and the job stays green."""

LONGEST = 1500
"""Characters of one message: GitHub cuts an annotation at 4 kB."""


def annotate(report: Report) -> str:
    """An error for each gate that fails the run and each row that failed, a warning for each thing to know, and the verdict.

    Where there are more than GitHub shows, the last one counts the rest.
    """
    errors = [_gate("error", gate, report) for gate in report.gates if gate.failed]
    errors += [
        command("error", row.reason or "no reason given", title=f"{row.name} failed")
        for row in report.rows
        if row.status == "failed"
    ]
    open_ = [gate for gate in report.gates if gate.verdict == "inconclusive" and not gate.failed]
    warnings = [_gate("warning", gate, report) for gate in open_]
    problems = [] if report.conditions is None else report.conditions.problems
    warnings += [command("warning", text, title="accel") for text in dict.fromkeys([*problems, *report.warnings])]
    gates = figures.gates_line(report.gates)
    notice = command("notice", report.verdict.text, title=f"{report.name}: {gates}" if gates else report.name)
    return "".join(f"{line}\n" for line in (*_cut("error", errors), *_cut("warning", warnings), notice))


def summary(report: Report, room_bytes: int) -> str:
    """The report in Markdown for ``GITHUB_STEP_SUMMARY``, in at most ``room_bytes`` bytes of UTF-8; empty where none fits.

    The whole report, or the headline with the small table, or the headline alone.
    """
    line = f"**{headline(report)}**\n\n"
    for text in (render(report), f"{line}{brief(report)}", line):
        if len(text.encode("utf-8")) <= room_bytes:
            return text
    return ""


def command(kind: str, message: str, *, title: str, file: str | None = None, line: int = 0, column: int = 0) -> str:
    """One workflow command, without the line break at its end. ``line`` and ``column`` count from 1; 0: not known."""
    properties = []
    if file and len(file) <= LONGEST:
        properties.append(f"file={_property(plain(file))}")
        properties += [f"line={line}"] if line > 0 else []
        properties += [f"col={column}"] if line > 0 and column > 0 else []
    properties.append(f"title={_property(plain(title, 200))}")
    return f"::{kind} {','.join(properties)}::{_message(plain(message, LONGEST))}"


def _gate(kind: str, gate: Gate, report: Report) -> str:
    word = {"error": "fails", "warning": "is inconclusive"}[kind]
    return command(kind, gate.text, title=f"gate {gate.name} {word}", file=report.recipe, line=gate.line, column=gate.column)


def _cut(kind: str, lines: list[str]) -> list[str]:
    if len(lines) <= MAX_ANNOTATIONS:
        return lines
    rest = len(lines) - MAX_ANNOTATIONS + 1
    more = command(kind, f"and {rest} more: the summary of this step has all", title="accel")
    return [*lines[: MAX_ANNOTATIONS - 1], more]


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
