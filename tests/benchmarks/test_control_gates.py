"""The gate of accuracy control, and the table of what it kept back, in Markdown and as bars in the page."""

from __future__ import annotations

from typing import Any

import pytest

from accel.accuracy_outcome import AccuracyOutcome, LayerHarm, TriedSet
from accel.benchmarks import figures
from accel.benchmarks.control_gates import control_gates
from accel.benchmarks.gates import exit_code
from accel.benchmarks.html import kept, page
from accel.benchmarks.markdown import render
from accel.report import Report


def outcome(**changes: Any) -> AccuracyOutcome:
    """One of two convolutions stays in floating point."""
    content: dict[str, Any] = {
        "passed": True,
        "split": "selection",
        "metric": "top1",
        "reference": 0.9,
        "value": 0.893,
        "max_drop": 0.01,
        "drop_type": "absolute",
        "ranking_metric": "sqnr",
        "tried": [
            TriedSet(kept=[], value=0.5, sqnr_db=3.0, passed=False),
            TriedSet(kept=["stem/Conv"], value=0.893, sqnr_db=31.0, passed=True, latency_ms=1.5),
        ],
        "seconds": 12.5,
        "float_ms": 2.5,
        "layers": [
            LayerHarm(layer="stem/Conv", type="Conv", kept=True, sqnr_db=3.25),
            LayerHarm(layer="head/Conv", type="Conv", sqnr_db=40.5),
            LayerHarm(layer="pool", type="MaxPool", identical=True),
            LayerHarm(layer="odd", type="MatMul", failed="no kernel"),
            LayerHarm(layer="unknown", type="Add"),
        ],
    }
    return AccuracyOutcome.model_validate(content | changes)


def having(report: Report, found: AccuracyOutcome) -> Report:
    (step,) = report.steps
    return report.model_copy(update={"steps": [step.model_copy(update={"accuracy": found})]})


@pytest.mark.parametrize(("metric", "change"), [("cosine", -0.02), ("agreement", -2.0), ("mine.py:score", -0.02)])
def test_a_budget_on_any_measure_is_one_on_accuracy(report: Report, metric: str, change: float) -> None:
    (gate,) = control_gates(having(report, outcome(metric=metric, reference=1.0, value=0.98, passed=False)))
    assert (gate.metric, gate.kind, gate.verdict) == (metric, "accuracy", "fail") and exit_code([gate]) == 11
    assert gate.found is not None and gate.found.value == pytest.approx(change)


def test_a_budget_that_was_kept_is_a_gate_that_passes(report: Report) -> None:
    assert control_gates(report) == []
    (gate,) = control_gates(having(report, outcome()))
    assert (gate.name, gate.verdict, gate.failed, gate.kind) == ("accuracy_control@openvino", "pass", False, "accuracy")
    assert (gate.row, gate.target, gate.metric) == ("digits-int8", "openvino", "top1")
    assert gate.limit == "at least -1 points on selection data"
    assert gate.found is not None and gate.found.value == pytest.approx(-0.7) and gate.found.low is None
    assert "top1 of openvino: -0.70 points against the float model on selection data (1 of 5 layers kept" in gate.text
    assert exit_code([gate]) == 0


def test_a_best_effort_fails_the_run_with_the_code_of_accuracy(report: Report) -> None:
    (gate,) = control_gates(having(report, outcome(passed=False, value=0.85, stopped="timeout")))
    assert gate.failed and gate.verdict == "fail" and exit_code([gate]) == 11
    assert "-5.00 points" in gate.text and "best effort" in gate.text and "stopped by timeout" in gate.text


def test_a_relative_budget_is_in_percent_and_a_lower_metric_may_be_the_better_one(report: Report) -> None:
    (gate,) = control_gates(having(report, outcome(drop_type="relative", value=0.855, max_drop=0.06)))
    assert gate.limit == "at least -6 % on selection data" and gate.found is not None
    assert gate.found.value == pytest.approx(-5.0)
    error = outcome(metric="m.py:error", higher_is_better=False, reference=0.25, value=0.375, max_drop=0.25)
    assert error.loss == 0.125 and error.allowed == 0.25
    (gate,) = control_gates(having(report, error))
    assert gate.limit == "at most +0.25 on selection data" and "+0.125 against" in gate.text
    assert outcome(drop_type="relative").allowed == pytest.approx(0.009)
    (gate,) = control_gates(having(report, outcome(drop_type="relative", reference=0.0, passed=False)))
    assert gate.found is None and gate.failed


def test_a_candidate_without_a_number_has_none_in_its_gate(report: Report) -> None:
    (gate,) = control_gates(having(report, outcome(passed=False, value=None)))
    assert gate.found is None and "no candidate gave numbers" in gate.text


def test_the_table_lists_what_was_kept_back_with_its_harm(report: Report) -> None:
    text = render(having(report, outcome()))
    part = text[text.index("## Layers kept in floating point") :]
    assert "top-1 on selection data is 90.00 % in floating point, 50.00 % with every layer in INT8, 89.30 % in the" in part
    assert f"| stem/Conv | Conv | 3.2 dB | {figures.NONE} | floating point |" in part
    for layer, told in (("head/Conv", "40.5 dB"), ("pool", "no difference"), ("odd", "does not run")):
        assert f"| {layer} | " in part and f" | {told} | " in part
    assert part.index("stem/Conv") < part.index("<details>") < part.index("head/Conv"), "what is in INT8 is folded away"
    assert "## Layers kept" not in render(report)
    assert "NOT within the budget" in render(having(report, outcome(passed=False)))


def test_the_page_has_a_bar_for_each_layer_the_longest_for_the_most_harmful(report: Report) -> None:
    html = kept.kept(having(report, outcome()))
    assert html.count("<svg") == 5 and 'd="M0 4H100"' in html and 'd="M0 4H10"' in html
    assert html.index("stem/Conv") < html.index("head/Conv")
    assert 'id="kept"' in page.render(having(report, outcome())) and 'id="kept"' not in page.render(report)


def test_hostile_names_are_harmless(report: Report) -> None:
    hostile = "<script>alert(1)</script>|`x`\x1b[31m"
    layers = [LayerHarm(layer=hostile, type=hostile, kept=index == 0, sqnr_db=1.0) for index in range(40)]
    found = having(report, outcome(layers=layers, metric=hostile))
    assert "<script>alert" not in page.render(found) and "\x1b" not in page.render(found)
    text = render(found)
    assert "<script>" not in text and "\x1b" not in text


def test_many_layers_do_not_make_the_page_heavy(report: Report) -> None:
    layers = [LayerHarm(layer=f"blocks.{index}/Conv", type="Conv", sqnr_db=float(index)) for index in range(5000)]
    html = kept.kept(having(report, outcome(layers=layers)))
    assert len(html) < 300_000 and "4,700 more in report.json" in html
