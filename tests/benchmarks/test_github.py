from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.benchmarks.github import LONGEST, MAX_ANNOTATIONS, annotate, command, summary
from accel.benchmarks.markdown import render
from accel.report import Report

LINE = re.compile(r"::(error|warning|notice) ((?:[a-z]+=[^,:\r\n]*)(?:,[a-z]+=[^,:\r\n]*)*)::([^\r\n]*)")


def parsed(text: str) -> list[tuple[str, dict[str, str], str]]:
    """Kind, properties and message of every line, as the runner takes them apart; fails on any other line."""
    found = []
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        match = LINE.fullmatch(line)
        assert match, line
        properties = dict(part.split("=", 1) for part in match.group(2).split(","))
        found.append((match.group(1), properties, match.group(3)))
    return found


def test_failed_gates_point_at_the_recipe(full_report: Report) -> None:
    bad, unclear = (
        full_report.gates[0].model_copy(update={"name": name, "verdict": verdict, "failed": verdict == "fail", "line": line})
        for name, verdict, line in (("top1 ort", "fail", 7), ("p50 ort", "inconclusive", 9))
    )
    lines = parsed(annotate(full_report.model_copy(update={"gates": [unclear, bad, full_report.gates[0]]})))
    assert [kind for kind, _, _ in lines] == ["error", "warning", "warning", "warning", "notice"]
    assert lines[0][1] == {"file": "models/recipe.yaml", "line": "7", "col": "3", "title": "gate top1 ort fails"}
    assert lines[0][2].startswith("top-1 fell by 0.40 points")
    assert lines[1][1] == {"file": "models/recipe.yaml", "line": "9", "col": "3", "title": "gate p50 ort is inconclusive"}
    assert [message for _, _, message in lines[2:4]] == ["the machine was busy", "one warning"]
    assert lines[4][1]["title"] == "digits%3A FAIL 1 of 3 gates (top1 ort)"
    assert lines[4][2] == "2.13x faster"


def test_without_a_recipe_there_is_no_place(full_report: Report) -> None:
    bad = full_report.gates[0].model_copy(update={"verdict": "fail", "failed": True, "line": 0, "column": 0})
    lines = parsed(annotate(full_report.model_copy(update={"gates": [bad], "recipe": None})))
    assert lines[0][1] == {"title": "gate top1 openvino fails"}


def test_a_row_that_failed_is_an_error(full_report: Report) -> None:
    row = full_report.rows[2].model_copy(update={"status": "failed", "reason": "died of signal 11"})
    lines = parsed(annotate(full_report.model_copy(update={"rows": [row]})))
    assert ("error", {"title": "digits-int8 failed"}, "died of signal 11") in lines


@pytest.mark.parametrize("count", [9, 10, 11, 40])
def test_no_more_than_github_shows_and_the_rest_is_counted(full_report: Report, count: int) -> None:
    bad = full_report.gates[0].model_copy(update={"verdict": "fail", "failed": True})
    warnings = [f"warning {number}" for number in range(count)]
    odd = full_report.model_copy(update={"gates": [bad] * count, "warnings": warnings, "conditions": None})
    lines = parsed(annotate(odd))
    for kind in ("error", "warning"):
        messages = [message for found, _, message in lines if found == kind]
        assert len(messages) == min(count, MAX_ANNOTATIONS)
        assert ("more" in messages[-1]) == (count > MAX_ANNOTATIONS)
        if count > MAX_ANNOTATIONS:
            assert messages[-1].startswith(f"and {count - MAX_ANNOTATIONS + 1} more")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_ends_a_command_or_begins_another(full_report: Report, text: str) -> None:
    line = command("error", text, title=text, file=text or None, line=3, column=1)
    ((kind, properties, message),) = parsed(line + "\n")
    assert kind == "error"
    assert set(properties) <= {"file", "line", "col", "title"}
    assert "##[" not in line
    assert "%" not in re.sub(r"%(25|0D|0A|3A|2C)", "", "".join(properties.values()) + message)


@pytest.mark.parametrize(
    "evil", ["x\n::error::pwned", "x\r::set-output name=a::b", "a%0A::warning::b", "##[error]x", "\x1b[31mred"]
)
def test_commands_in_text_are_harmless(full_report: Report, evil: str) -> None:
    bad = full_report.gates[0].model_copy(update={"name": evil, "text": evil, "verdict": "fail", "failed": True})
    odd = full_report.model_copy(update={"gates": [bad], "recipe": evil, "warnings": [evil], "name": evil})
    lines = parsed(annotate(odd))
    assert [kind for kind, _, _ in lines] == ["error", "warning", "warning", "notice"]
    assert "\x1b" not in annotate(odd)
    assert len(max(annotate(odd).splitlines(), key=len)) < 4096


def test_long_text_is_cut(full_report: Report) -> None:
    odd = full_report.model_copy(update={"warnings": ["x" * 10_000]})
    assert max(len(message) for _, _, message in parsed(annotate(odd))) == LONGEST


def test_the_summary_is_what_fits(full_report: Report) -> None:
    whole = render(full_report)
    size = len(whole.encode())
    assert summary(full_report, size) == whole
    short = summary(full_report, size - 1)
    assert short.startswith("**PASS 2/2 gates: 2.13x faster**")
    assert "| digits-int8 |" in short
    line = summary(full_report, 60)
    assert line == "**PASS 2/2 gates: 2.13x faster**\n\n"
    assert summary(full_report, 10) == summary(full_report, -5) == ""


def test_the_summary_counts_bytes_not_characters(full_report: Report) -> None:
    wide = full_report.model_copy(update={"notes": ["é" * 300] * 10})
    text = render(wide)
    assert len(text) < len(text.encode())
    assert summary(wide, len(text)) != text
