"""The small table: every row, the figures of the report, nothing of the user's that could break it."""

from __future__ import annotations

from accel.benchmarks.brief import brief
from accel.report import Report


def test_one_line_for_each_row_and_the_conditions(report: Report) -> None:
    lines = brief(report).splitlines()
    rows = [line for line in lines if line.startswith("| ")][2:]
    assert len(rows) == len(report.rows)
    assert f"{report.environment.cores} cores" in lines[-1]
    assert all(line.count("|") - line.count("\\|") == 7 for line in rows)


def test_a_row_that_failed_says_why(report: Report) -> None:
    broken = report.rows[0].model_copy(update={"status": "failed", "reason": "the | process <died>"})
    line = brief(report.model_copy(update={"rows": [broken]})).splitlines()[2]
    assert "failed" in line
    assert "<died>" not in line
    assert line.count("|") - line.count("\\|") == 7


def test_gates_are_in_the_line_below(full_report: Report) -> None:
    assert brief(full_report).endswith("quiet. PASS 2/2 gates.\n")


def test_unstable_is_a_word(report: Report) -> None:
    result = report.rows[2]
    assert result.latency is not None
    speedups = [found.model_copy(update={"unstable": "drift"}) for found in result.speedups]
    latency = result.latency.model_copy(update={"unstable": "bursts"})
    row = result.model_copy(update={"latency": latency, "speedups": speedups})
    line = brief(report.model_copy(update={"rows": [*report.rows[:2], row]})).splitlines()[4]
    assert "| unstable (bursts) | unstable (drift) |" in line
