from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from accel.benchmarks.terminal import show
from accel.report import Report


def printed(report: Report, width: int, *, terminal: bool = True, term: str = "xterm-256color", **environment: str) -> str:
    stream = io.StringIO()
    console = Console(
        file=stream, width=width, force_terminal=terminal, _environ={"TERM": term, **environment}, legacy_windows=False
    )
    show(report, console)
    return stream.getvalue()


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


FACTS = ("98.10 %", "0.420 ms", "2.13x", "300 kB", "16/17", "1.00x")


@pytest.mark.parametrize("width", [20, 40, 79, 100, 120, 200])
def test_fits_the_width(report: Report, width: int) -> None:
    text = without_colour(printed(report, width))
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= width
    flowing = re.sub(r"\s+", "", re.sub(r"[│|]", "", text))
    for fact in ("digits-int8", "2.13xfaster"):
        assert fact in flowing, text


@pytest.mark.parametrize("width", [60, 200])
def test_table_and_lines_tell_the_same(report: Report, width: int) -> None:
    for fact in FACTS:
        assert fact in without_colour(printed(report, width)).replace("\n", " "), fact


def test_wide_terminal_draws_a_table(report: Report) -> None:
    text = without_colour(printed(report, 200))
    assert "│" in text
    assert "precision" in text


def test_no_terminal_gives_one_plain_line_for_each_row(report: Report) -> None:
    text = printed(report, 80, terminal=False)
    assert "\x1b" not in text
    assert "│" not in text
    lines = text.splitlines()
    assert lines[0] == "2.13x faster"
    assert lines[3].startswith("digits-int8 on openvino/cpu: top-1 98.10 % -0.40 points (CI -0.70 to -0.10), p50 0.420 ms")
    for fact in FACTS[:-1]:
        assert fact in lines[3], fact
    assert "warning: one warning" in lines


def test_no_color_and_dumb_terminals(report: Report) -> None:  # fault 56
    colours = re.compile(r"\x1b\[[0-9;]*3[0-9]m")
    report = report.model_copy(update={"rows": [row.model_copy(update={"status": "failed"}) for row in report.rows]})
    assert colours.search(printed(report, 120))
    assert not colours.search(printed(report, 120, NO_COLOR="1"))
    assert "\x1b" not in printed(report, 120, term="dumb")
    assert "│" not in printed(report, 120, term="dumb")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [20, 80, 200])
def test_injection_is_harmless(report: Report, terminal: bool, width: int) -> None:  # fault 31
    evil = "[bold red]x[/] \x1b[2J ::error::pwned ##[error]y\n::warning::z"
    row = report.rows[2].model_copy(update={"name": evil})
    failed = row.model_copy(update={"status": "failed", "reason": evil})
    verdict = report.verdict.model_copy(update={"text": evil})
    odd = report.model_copy(update={"rows": [row, failed], "warnings": [evil], "verdict": verdict})
    text = without_colour(printed(odd, width, terminal=terminal))
    assert "\x1b" not in text
    assert "::" not in text
    assert "##[" not in text
    assert "[boldred]" in re.sub(r"\s", "", text)


@pytest.mark.parametrize("terminal", [True, False])
def test_rows_that_were_not_measured(report: Report, terminal: bool) -> None:
    rows = [
        report.rows[2].model_copy(update={"status": status, "reason": "no NPU", "name": status})
        for status in ("skipped", "failed")
    ]
    built = report.rows[2].model_copy(
        update={"status": "built", "latency": None, "metrics": [], "speedups": [], "name": "bare"}
    )
    text = without_colour(printed(report.model_copy(update={"rows": [*rows, built]}), 160, terminal=terminal))
    assert "skipped: no NPU" in text
    assert "failed: no NPU" in text
    assert "bare" in text
