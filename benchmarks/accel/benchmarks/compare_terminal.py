"""A comparison for a terminal or a log: the verdict, the gates, what changed; figures that did not are counted."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from accel.benchmarks.comparing import ComparedRow, Comparison, Figure
from accel.benchmarks.untrusted import plain

LONGEST = 400
_STYLES = {"regressed": "red", "improved": "green", "unchanged": "", "not_comparable": "yellow"}


def show(found: Comparison, console: Console) -> None:
    """Plain lines; colours only where ``console`` is a terminal."""
    terminal = console.is_terminal and not console.is_dumb_terminal

    def say(text: str, style: str = "") -> None:
        console.print(Text(plain(text, LONGEST), style=style if terminal else ""), soft_wrap=True)

    say(found.verdict, "bold")
    for gate in found.gates:
        word = "FAIL" if gate.failed else gate.verdict.upper()
        say(f"{word} {gate.name}: {gate.text}", "red" if gate.failed else "green" if word == "PASS" else "yellow")
    for reason in found.incomparable:
        say(f"warning: {reason}", "yellow")
    for row in found.rows:
        say(_heading(row), "bold")
        quiet = [figure for figure in row.figures if figure.outcome == "unchanged"]
        for figure in row.figures:
            if figure.outcome in ("regressed", "improved"):
                say(f"  {_line(figure)}", _STYLES[figure.outcome])
        reasons: dict[str, list[str]] = {}
        for figure in row.figures:
            if figure.outcome == "not_comparable":
                reasons.setdefault(figure.reason or "", []).append(
                    f"{figure.metric} {figure.base_text}, now {figure.head_text}"
                )
        for reason, told in reasons.items():
            say(f"  not compared: {'; '.join(told)} ({reason})", _STYLES["not_comparable"])
        if quiet:
            say(f"  unchanged: {', '.join(f'{figure.metric} {figure.head_text}' for figure in quiet)}")
    for one in found.surroundings:
        say(f"{one.what}: {one.base} -> {one.head}")


def _heading(row: ComparedRow) -> str:
    if row.status != "compared":
        return f"{row.name}: {row.status}" + (f" ({row.reason})" if row.reason else "")
    if row.base_precision != row.head_precision:
        return f"{row.name}: {row.base_precision or 'unknown'} -> {row.head_precision or 'unknown'}"
    return row.name


def _line(figure: Figure) -> str:
    return f"{figure.outcome} {figure.metric}: {figure.base_text} -> {figure.head_text}, {figure.change_text}"
