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


@pytest.mark.parametrize("width", [60, 160])
def test_gates_scenarios_and_conditions_are_told(full_report: Report, width: int) -> None:
    good, bad, unclear = (
        full_report.gates[0].model_copy(
            update={"name": name, "verdict": verdict, "failed": verdict == "fail", "text": f"{name} why"}
        )
        for name, verdict in (("size ort", "pass"), ("top1 ort", "fail"), ("p50 ort", "inconclusive"))
    )
    text = without_colour(printed(full_report.model_copy(update={"gates": [good, bad, unclear]}), width))
    flowing = re.sub(r"\s+", " ", text)
    assert flowing.startswith("FAIL 1 of 3 gates (top1 ort): 2.13x faster ")
    for line in ("PASS: size ort why", "FAIL: top1 ort why", "INCONCLUSIVE: p50 ort why"):
        assert line in flowing
    for fact in (
        "digits-int8, offline, batch 8, 2 threads, 1 stream: 4,321/s (CI 4,200 to 4,400), speed 1.90x (CI 1.80 to 2.00)",
        "digits-int8, server, batch 1, 1 thread, 1 stream: up to 900/s, p99 within 4.20 ms, p50 0.500 ms, p99 4.10 ms",
        "multi stream, batch 1, 1 thread, 1 stream: not measured: the file has a batch of one",
        "warning: one warning",
    ):
        assert fact in flowing, fact


@pytest.mark.parametrize("width", [60, 200])
def test_unstable_figures_are_a_word(full_report: Report, width: int) -> None:
    result = full_report.rows[2]
    assert result.latency is not None
    row = result.model_copy(
        update={
            "latency": result.latency.model_copy(update={"unstable": "bursts"}),
            "speedups": [found.model_copy(update={"unstable": "drift"}) for found in result.speedups],
            "points": [result.points[0].model_copy(update={"unstable": "bursts"})],
        }
    )
    text = without_colour(printed(full_report.model_copy(update={"rows": [*full_report.rows[:2], row], "gates": []}), width))
    flowing = re.sub(r"[│\s]+", " ", text)
    for fact in ("unstable (bursts)", "unstable (drift)", "1 stream: unstable (bursts)"):
        assert fact in flowing, flowing
    for number in ("0.420 ms", "2.13x (", "4,321"):
        assert number not in flowing
