from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.benchmarks.markdown import MAX_CHARACTERS, render
from accel.report import Gate, Report, Row, StepRecord
from accel.report import read as read_report


def changed(report: Report, **fields: Any) -> Report:
    return report.model_copy(update=fields)


def test_verdict_comes_first_then_the_parts_in_order(report: Report) -> None:
    text = render(report)
    assert text.splitlines()[0] == "**2.13x faster**"
    headings = re.findall(r"^#+ .*$", text, re.MULTILINE)
    assert headings == ["# digits", "## How it was measured", "## Notes and warnings", "## Deployment"]
    assert text.index("| row |") < text.index("## How it was measured")
    assert text.index("## Notes and warnings") < text.index("⚠ one warning") < text.index("- one note")


def test_a_warning_stands_once_and_alone_too(report: Report) -> None:
    text = render(changed(report, notes=[], warnings=["twice", "twice"]))
    assert text.count("⚠ twice") == 1
    assert text.index("## Notes and warnings") < text.index("⚠ twice") < text.index("## Deployment")


def test_nothing_quantized_is_called_fp32(report: Report) -> None:
    rows = [row.model_copy(update={"precision": report.rows[2].precision}) for row in report.rows]
    text = render(changed(report, rows=rows))
    assert "fastest FP32" not in text
    assert "| against the fastest baseline | against its own baseline |" in text
    assert "The fastest baseline is digits-fp32 on openvino/cpu." in text
    assert "| against the fastest FP32 row |" in render(report)


def test_table_has_every_figure(report: Report) -> None:
    text = render(report)
    line = next(line for line in text.splitlines() if line.startswith("| digits-int8 (openvino/cpu, result)"))
    for figure in (
        "top-1 98.10 % -0.40 points (CI -0.70 to -0.10)",
        "calibration\\_error 0.0123 +0.0011",
        "0.420 ms",
        "0.462 ms",
        "| – |",  # p99 from 900 queries of this example is null
        "900",
        "2.13x (CI 2.09 to 2.17)",
        "300 kB",
        "280 kB",
        "INT8 16/17 operators, else fp32",
    ):
        assert figure in line, figure
    before = text[: text.index("## How it was measured")]
    details = [line for line in before.splitlines() if line.startswith("| digits-int8 |")]
    assert details == ["| digits-int8 | 0.200 s | 4.20 ms | 120 MB | 99.50 % | 31.2 dB | 0.4 | digits |"]
    assert "1 (itself)" in next(line for line in text.splitlines() if line.startswith("| digits-fp32 (openvino/cpu"))


def test_tables_have_as_many_cells_as_their_head(report: Report) -> None:
    rows = [
        *report.rows,
        report.rows[2].model_copy(update={"name": "x", "status": "failed", "reason": "died | of `signal` 11"}),
    ]
    for table in re.findall(r"(?:^\|.*\n)+", render(changed(report, rows=rows)), re.MULTILINE):
        cells = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(cells) == 1, table


@pytest.mark.parametrize("status", ["failed", "skipped"])
def test_rows_without_figures_give_their_reason(report: Report, status: str) -> None:
    row = Row.model_validate(
        {"name": "npu", "role": "result", "backend": "openvino", "status": status, "reason": "no NPU here"}
    )
    text = render(changed(report, rows=[*report.rows, row]))
    assert f"| npu (openvino/cpu, result) | {status}: no NPU here |" in text


def test_how_it_was_measured(report: Report) -> None:
    text = render(report)
    for fact in (
        "scenario: single-stream",
        "noise: quiet; digits-int8 against itself in a second process 1.00x (CI 0.99 to 1.01)",
        "machine: A CPU, 2 cores, 25.0 GB of memory, Linux 6.1 x86\\_64, Python 3.11.7, load average at the start 0.25",
        "instruction sets: avx2 avx512\\_vnni",
        "versions: openvino 2026.4.1",
        "5 restarts of 6 rounds",
        "| validation | digits.npz | 1,000 | efefefefefefefef |",
        "seed: 7",
        "recipe sha256 cdcd",
        "p99 662",
    ):
        assert fact in text, fact


@pytest.mark.parametrize(("cores", "said"), [([1], ", all on core 1"), ([0, 2], ", all on cores 0 and 2"), ([], ""), ("1", "")])
def test_cores_that_rows_were_kept_on(report: Report, cores: object, said: str) -> None:
    assert f"rows in turn, in shuffled order{said}\n" in render(changed(report, method={"pinned": cores}))


def test_steps_notes_warnings_and_snippets(report: Report) -> None:
    text = render(report)
    assert "| openvino | quantize/static/nncf | 4.20 s | num\\_samples=300" in text
    assert "- openvino, quantize/static/nncf: fc kept in FP32" in text
    assert "- one note" in text
    assert "- ⚠ one warning" in text
    assert "```python\nimport openvino\nprint('hello')\n```" in text


def test_a_target_without_a_script_says_so(report: Report) -> None:
    text = render(changed(report, deployment={"npu": ""}))
    assert "<summary>Script for npu</summary>\n\nNo script can be written" in text
    assert "```" not in text


def test_identical_and_nonfinite_outputs_are_told_apart(report: Report) -> None:
    fidelity = report.rows[2].fidelity
    assert fidelity is not None
    for update, words in (
        ({"sqnr_db": None, "max_abs_difference": 0.0}, "identical"),
        ({"nonfinite_values": 1200}, "1,200 values NaN or infinite"),
    ):
        row = report.rows[2].model_copy(update={"fidelity": fidelity.model_copy(update=update)})
        assert words in render(changed(report, rows=[row]))


def test_the_file_gives_the_same_text(report: Report, tmp_path: Path) -> None:  # fault 64
    odd = changed(report, method={"nan": float("nan"), "path": Path("a/b"), "pair": (1, 2), "deep": {"er": [None, True]}})
    (tmp_path / "report.json").write_text(odd.json_text(), encoding="utf-8")
    assert render(read_report(tmp_path / "report.json")) == render(odd)


EVIL = {  # fault 31, one case each
    "html": "<script>alert(1)</script></details><h1>",
    "table": "a | b | c",
    "ansi": "\x1b[2J\x1b[31mred\x07",
    "command": "::error file=x::pwned",
    "lines": "x\n\n# PASS\n\n| a | b |",
    "comment": "--><script>x</script><!-- accel-report:other -->",
    "mention": "@everyone www.example.com https://example.com",
}


@pytest.mark.parametrize("kind", EVIL)
def test_injection_is_escaped_wherever_text_comes_from(report: Report, kind: str) -> None:
    evil = EVIL[kind]
    row = report.rows[2].model_copy(update={"name": evil, "backend": evil, "notes": [evil]})
    failed = row.model_copy(update={"status": "failed", "reason": evil})
    step = StepRecord(target=evil, name=evil, settings={evil: evil}, key="k", seconds=1, cached=False, notes=[evil])
    found = render(
        changed(
            report,
            name=evil,
            verdict=report.verdict.model_copy(update={"text": evil}),
            rows=[row, failed],
            steps=[step],
            notes=[evil],
            warnings=[evil],
            method={evil: evil},
            data=[report.data[0].model_copy(update={"source": evil})],
            environment=report.environment.model_copy(update={"cpu": evil, "libraries": {evil: evil}}),
            deployment={evil: "pass\n"},
        )
    )
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f]", found)
    assert "<script" not in found
    assert "<h1" not in found
    assert found.count("<!--") == found.count("-->") == 1
    shown = re.sub(r"^```.*?^```$|<!--.*?-->", "", found, flags=re.MULTILINE | re.DOTALL)  # code is shown as it is
    assert not re.search(r"@\w|www\.|https?://", shown)
    assert found.count("</details>") == found.count("<details><summary>")
    assert "::" not in found
    assert "\n# PASS" not in found
    assert len(re.findall("^# ", found, re.MULTILINE)) == 1
    for table in re.findall(r"(?:^\|.*\n)+", found, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1


@pytest.mark.parametrize("what", ["notes", "warnings", "rows", "steps", "snippet", "names", "method", "everything"])
def test_never_longer_than_a_comment_may_be(report: Report, what: str) -> None:
    long = "<|*" * 200
    many = [f"{long} {index}" for index in range(3000)]
    fields: dict[str, Any] = {
        "notes": many,
        "warnings": many,
        "rows": [report.rows[2].model_copy(update={"name": name, "notes": many[:50]}) for name in many[:500]],
        "steps": [report.steps[0].model_copy(update={"name": name, "notes": many[:50]}) for name in many[:500]],
        "method": {name: name for name in many},
        "deployment": {f"t{index}": "x = 1\n" * 5000 for index in range(50)},
    }
    if what == "names":
        chosen: dict[str, Any] = {"name": long * 100, "recipe_sha256": long * 100}
    elif what == "snippet":
        chosen = {"deployment": fields["deployment"]}
    else:
        chosen = fields if what == "everything" else {what: fields[what]}
    text = render(changed(report, **chosen))
    assert len(text) <= MAX_CHARACTERS
    assert text.startswith("**2.13x faster**")
    assert text.endswith(" -->\n")
    assert "report.json" in text or what == "names"
    assert text.count("<details>") == text.count("</details>")
    assert text.count("```") % 2 == 0


def test_long_lists_are_folded_and_counted(report: Report) -> None:
    text = render(changed(report, notes=[f"note {index}" for index in range(250)]))
    assert "<details><summary>Notes (250)</summary>" in text
    assert "and 50 more in report.json" in text


def test_empty_report(report: Report) -> None:
    empty = changed(report, rows=[], steps=[], notes=[], warnings=[], data=[], noise=None, method={}, deployment={})
    assert "## How it was measured" in render(empty)


@given(st.text(max_size=60), st.dictionaries(st.text(max_size=10), st.floats() | st.text(max_size=10), max_size=3))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_renders_the_same_after_reload(report: Report, text: str, method: dict[str, Any]) -> None:
    odd = changed(report, name=text, notes=[text], method=method)
    assert render(Report.model_validate_json(odd.json_text())) == render(odd)


def with_gates(report: Report, *gates: Gate) -> str:
    return render(changed(report, gates=list(gates)))


def test_the_first_line_says_what_became_of_the_gates(full_report: Report) -> None:
    good, bad, unclear = (
        full_report.gates[0].model_copy(update={"name": name, "verdict": verdict, "failed": verdict == "fail"})
        for name, verdict in (("size ort", "pass"), ("top1 ort", "fail"), ("p50 ort", "inconclusive"))
    )
    passed = with_gates(full_report, good, good).splitlines()
    assert passed[0] == "**PASS 2/2 gates: 2.13x faster**"
    assert passed[2:4] == ["> [!TIP]", "> All gates pass.  "]
    failed = with_gates(full_report, good, unclear, bad).splitlines()
    assert failed[0] == "**FAIL 1 of 3 gates (top1 ort): 2.13x faster**"
    assert failed[2] == "> [!CAUTION]"
    assert failed[3].startswith("> top-1 fell by 0.40 points")
    open_ = with_gates(full_report, good, unclear).splitlines()
    assert open_[0] == "**INCONCLUSIVE 1 of 2 gates (p50 ort): 2.13x faster**"
    assert open_[2] == "> [!WARNING]"
    assert "gate" not in render(changed(full_report, gates=[])).splitlines()[0]


def test_an_inconclusive_gate_that_fails_the_run_fails_in_the_first_line(full_report: Report) -> None:
    unclear = full_report.gates[0].model_copy(update={"verdict": "inconclusive", "failed": True})
    text = with_gates(full_report, unclear)
    assert text.startswith("**FAIL 1 of 1 gates (top1 openvino): ")
    assert "| ⚠️ inconclusive, fails the run |" in text


def test_everything_that_was_measured_is_shown(full_report: Report) -> None:
    text = render(full_report)
    for fact in (
        "| top1 openvino | ✅ pass | at most 1.00 points below digits-fp32 | -0.4 (CI -0.7 to -0.1) | digits-int8 |",
        "| digits-int8 | offline | 8 | 2 | 1 | – | – | – | 4,321/s (CI 4,200 to 4,400) | – | 1.90x (CI 1.80 to 2.00) | 40 |",
        "| digits-int8 | server | 1 | 1 pinned | 1 | 0.500 ms | – | 4.10 ms | – | 900/s within 4.20 ms | – | 9,000 |",
        "| digits-int8 | multi stream | 1 | 1 | 1 | not measured: the file has a batch of one |",
        "| digits-int8 | 48 % | 0.200 ms | 80 % | 40.6 M | 1.30 MB | Odd |",
        "FP32 110 Gop/s, INT8 430 Gop/s, memory 11.5 GB/s, cache 40.0 GB/s (measured 2026-01-02)",
        "conditions: 31.0 s of timing, others took 2.0 % of the cores, drift 1.004x",
        "⚠ the machine was busy",
        "| 98.10 % | 1,000 | -0.40 points (CI -0.70 to -0.10) | -0.40 points (CI -0.80 to +0.00) | 2 | 6 | 0.289 |",
        "| digits-int8 | digit 3 | 95 % | 90 % | 100 | no |",
        "sample 12: digit 3 instead of digit 8, distance 0.91",
        "| conv1 | Convolution | int8 | 0.200 ms | 67 % |",
        "commit 0123abc with local changes",
    ):
        assert fact in text, fact
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_unstable_figures_are_a_word_and_a_reason(full_report: Report) -> None:
    result = full_report.rows[2]
    assert result.latency is not None
    speedups = [found.model_copy(update={"unstable": "it drifted"}) for found in result.speedups]
    points = [result.points[0].model_copy(update={"unstable": "bursts"})]
    latency = result.latency.model_copy(update={"unstable": "throttled"})
    row = result.model_copy(update={"latency": latency, "speedups": speedups, "points": points})
    text = render(changed(full_report, rows=[*full_report.rows[:2], row]))
    line = next(line for line in text.splitlines() if line.startswith("| digits-int8 (openvino/cpu, result)"))
    assert "| unstable | unstable | unstable | 900 | unstable | unstable |" in line
    assert "digits-int8: latency: throttled" in text
    assert "digits-int8 against digits-fp32: it drifted" in text
    assert "unstable (bursts)" in text
    for number in ("2.13x (", "0.420 ms", "4,321"):
        assert number not in text, number


def test_the_marker_is_last_and_holds_no_name_that_ends_it(full_report: Report) -> None:
    assert render(full_report).endswith("\n<!-- accel-report:digits -->\n")
    odd = render(changed(full_report, name="a--> <b> @x -- y"))
    assert re.search(r"\n<!-- accel-report:[A-Za-z0-9_.-]+ -->\n$", odd)


def test_reads_like_a_github_table_where_a_summary_line_has_markup(full_report: Report) -> None:
    row = full_report.rows[2].model_copy(update={"name": "<b>conv_1</b> @me"})
    text = render(changed(full_report, rows=[row]))
    assert "<summary>&lt;b&gt;conv&#95;1&lt;/b&gt; @&#8203;me: the slowest of 3 layers</summary>" in text
