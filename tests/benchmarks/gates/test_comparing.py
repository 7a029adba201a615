from __future__ import annotations

import json
import re
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from accel.benchmarks.compare_markdown import MAX_CHARACTERS, render
from accel.benchmarks.compare_terminal import show
from accel.benchmarks.comparing import Comparison, Figure, compare
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gates import judge
from accel.commands.compare import run
from accel.errors import UsageError
from accel.report import Metric, Row, Source, Speedup

if TYPE_CHECKING:
    from tests.benchmarks.gates.conftest import Make

HOSTILE = "x|`<img src=x onerror=1>`\n::error::y ##[error]z @all [a](http://b) \x1b[31m\u202e" + "A" * 10_000


def figure(found: Comparison, metric: str, row: str = "ov") -> Figure:
    (entry,) = [row_ for row_ in found.rows if row_.name == row]
    return next(each for each in entry.figures if each.metric == metric)


def terminal(found: Comparison) -> str:
    console = Console(file=StringIO(), width=100)
    show(found, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_a_report_and_itself_differ_in_nothing(make: Make) -> None:
    found = compare(make.report(), make.report())
    assert found.verdict == "nothing changed significantly"
    assert found.count("regressed") == found.count("improved") == 0
    assert found.count("unchanged") > 10
    assert found.surroundings == []


def test_what_changed_is_told_with_its_interval_and_direction(make: Make) -> None:
    slower = [Speedup(vs="ov fp32 baseline", ratio=make.estimate(1.5, 0.01))]
    worse = Metric(name="top1", value=0.80, n=10_000, difference=make.estimate(-0.12, 0.004))
    head = make.report(
        make.reference(),
        make.baseline(),
        make.result(speedups=slower, metrics=[worse], size_bytes=200_000, precision=make.precision(8)),
    )
    found = compare(make.report(), head)
    assert figure(found, "latency_p50_ms").outcome == "regressed"
    assert figure(found, "latency_p50_ms").change_text.startswith("+33.3 % (95 % CI")
    assert figure(found, "top1").outcome == "regressed"
    assert figure(found, "top1").change_unit == "absolute"
    assert figure(found, "size_bytes").outcome == "improved"
    assert figure(found, "size_bytes").change_text == "-33.3 %"
    assert figure(found, "int8_share").outcome == "regressed"
    assert figure(found, "gzip_bytes").outcome == "unchanged"
    assert found.verdict.startswith(
        "3 regressed (top1 of ov, latency_p50_ms of ov and int8_share of ov), 1 improved (size_bytes"
    )
    text = render(found)
    assert text.startswith("**3 regressed (top1 of ov")
    assert "> [!WARNING]\n> 3 worse, 1 better" in text
    assert text.index("### Worse") < text.index("### Better") < text.index("<details><summary>Unchanged")
    assert "executed precision: INT8 16/16 operators, else fp32, now INT8 8/16" in text
    assert "regressed latency\\_p50\\_ms" not in text
    assert "regressed latency_p50_ms: 0.5 ms -> 0.5 ms, +33.3 %" in terminal(found)


def test_a_change_too_small_to_act_on_is_none(make: Make) -> None:
    surely = [Speedup(vs="ov fp32 baseline", ratio=make.estimate(1.99, 0.0001))]
    base = make.report(
        make.baseline(), make.result(speedups=[Speedup(vs="ov fp32 baseline", ratio=make.estimate(2.0, 0.0001))])
    )
    head = make.report(make.baseline(), make.result(speedups=surely, size_bytes=300_001))
    assert compare(base, head).verdict == "nothing changed significantly"


def test_rows_come_go_break_and_mend(make: Make) -> None:
    extra = make.result(name="ort", target="ort")
    failed = extra.model_copy(update={"status": "failed", "reason": "SIGSEGV", "metrics": [], "latency": None})
    with_extra, without = make.report(make.baseline(), make.result(), extra), make.report(make.baseline(), make.result())
    broken = make.report(make.baseline(), make.result(), failed)
    assert compare(with_extra, without).names("removed") == ["ort"]
    assert compare(without, with_extra).names("added") == ["ort"]
    assert compare(with_extra, broken).names("broken") == ["ort"]
    assert compare(broken, with_extra).names("mended") == ["ort"]
    assert "rows broken: ort" in compare(with_extra, broken).verdict
    assert "SIGSEGV" in render(compare(with_extra, broken))
    assert "> [!WARNING]" in render(compare(with_extra, without))
    assert "ort: removed" in terminal(compare(with_extra, without))


def test_another_machine_is_said_once_and_latencies_are_not_compared(make: Make) -> None:
    found = compare(make.report(cpu="Another"), make.report())
    assert figure(found, "latency_p50_ms").outcome == "not_comparable"
    assert figure(found, "size_bytes").outcome == "unchanged"
    assert "the CPU differs (Another, now A CPU)" in found.incomparable[0]
    assert [(one.what, one.base, one.head) for one in found.surroundings] == [("CPU", "Another", "A CPU")]
    assert "not compared" in terminal(found)
    across = compare(make.report(cpu="Another"), make.report(), across_machines=True)
    assert figure(across, "latency_p50_ms").outcome == "unchanged"
    assert "only ratios taken in one run" in across.incomparable[0]


def test_gates_stand_in_the_first_line(make: Make) -> None:
    head = make.report(make.baseline(), make.result(size_bytes=400_000))
    gates = judge([GateSettings(metric="size", max_drop=0.0, vs="base")], head, stored={"base": make.report()})
    found = compare(make.report(make.baseline(), make.result()), head, gates=gates)
    assert found.verdict.startswith("FAIL 1 of 1 gates")
    text = render(found)
    assert text.startswith("**FAIL 1 of 1 gates")
    assert "> [!CAUTION]" in text
    assert "FAIL size@ov: size_bytes of ov: +33.3 % against base; the limit is at most +0 %" in terminal(found)


def test_the_document_reads_back_and_has_no_nan(make: Make) -> None:
    empty = Row(name="ov", role="result", target="ov", backend="openvino", status="skipped", reason="gone")
    zero = make.result(size_bytes=0, gzip_bytes=0, compile_s=0.0)
    for base in (make.report(), make.report(empty), make.report(zero)):
        for head in (make.report(), make.report(empty), make.report(zero)):
            text = compare(base, head).json_text()
            assert "NaN" not in text
            assert "Infinity" not in text
            assert Comparison.model_validate(json.loads(text)).json_text() == text
            assert render(Comparison.model_validate_json(text))


def test_hostile_names_are_harmless_and_the_limit_is_kept(make: Make) -> None:
    rows = [make.result(name=f"{index} {HOSTILE}", target=None) for index in range(200)]
    worse = [row.model_copy(update={"size_bytes": 400_000, "precision": None}) for row in rows[:150]]
    base = make.report(*rows, name=HOSTILE, source=Source(commit=HOSTILE, dirty=True))
    found = compare(base, make.report(*worse, cpu=HOSTILE, name=HOSTILE))
    text = render(found)
    assert len(text) <= MAX_CHARACTERS
    assert "<img" not in text
    assert "\x1b" not in text + terminal(found)
    assert not re.search(r"(?m)^\s*::|##\[", text + terminal(found))
    assert text.count("<details>") == text.count("</details>")
    assert "more in the JSON" in text


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_long_list_is_counted(make: Make, count: int) -> None:
    rows = [make.result(name=f"r{index}", target=f"r{index}") for index in range(count)]
    worse = [row.model_copy(update={"size_bytes": 400_000}) for row in rows]
    verdict = compare(make.report(*rows), make.report(*worse)).verdict
    assert verdict.startswith(f"{count} regressed (size_bytes of r0")
    assert ("more" in verdict) == (count > 3)


def test_a_gate_on_one_target_does_not_mind_the_runtime_of_another(make: Make, tmp_path: Path) -> None:
    ort = make.result(name="ort", target="ort", backend="onnxruntime")
    rows = [make.reference(), make.baseline(), make.result(), ort]
    for name, version in (("base", "1.20.0"), ("head", "2.0.0")):
        libraries = {"openvino": "2026.4.1", "onnxruntime": version}
        (tmp_path / f"{name}.json").write_text(make.report(*rows, libraries=libraries).json_text())

    def code(*fail_on: str) -> int:
        fixed: dict[str, Any] = {"across_machines": False, "on_removed": "warn", "form": "table", "output": None}
        return run(tmp_path / "base.json", tmp_path / "head.json", fail_on=fail_on, out=Console(file=StringIO()), **fixed)

    assert code("latency>+20%@ov") == 0
    with pytest.raises(UsageError, match="onnxruntime differs"):
        code("latency>+20%@ort")
