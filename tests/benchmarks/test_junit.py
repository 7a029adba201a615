"""``junit.xml``: read by a parser, counted as Jenkins counts, and held against the attributes of Jenkins' junit-10.xsd."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.benchmarks.junit import render
from accel.report import Gate, Report, Row

ATTRIBUTES = {
    "testsuites": ({"name", "tests", "failures", "errors"}, {"time", "disabled"}),
    "testsuite": ({"name", "tests", "failures", "errors"}, {"time", "timestamp", "skipped", "hostname", "id", "package"}),
    "properties": (set[str](), set[str]()),
    "property": ({"name", "value"}, set[str]()),
    "testcase": ({"name", "classname", "time"}, set[str]()),
    "failure": ({"message", "type"}, set[str]()),
    "error": ({"message", "type"}, set[str]()),
    "skipped": (set[str](), {"message"}),
    "system-out": (set[str](), set[str]()),
}
"""What each element must and may have: what Jenkins' schema and GitLab's reader share."""

CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"properties", "testcase"},
    "properties": {"property"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}


def checked(text: str) -> Element:
    """The one suite of a file that has the shape CI servers read, with counts that are true."""
    root = ElementTree.fromstring(text.encode("utf-8"))
    for element in root.iter():
        needed, allowed = ATTRIBUTES[element.tag]
        assert needed <= set(element.attrib) <= needed | allowed, element.tag
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    (suite,) = root
    assert [child.tag for child in suite][:1] == ["properties"]
    for holder in (root, suite):
        assert int(holder.attrib["tests"]) == len(suite.findall("testcase"))
        assert int(holder.attrib["failures"]) == len(suite.findall("testcase/failure"))
        assert int(holder.attrib["errors"]) == len(suite.findall("testcase/error"))
        assert float(holder.attrib["time"]) >= 0
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
    return suite


def with_gates(report: Report, **verdicts: tuple[str, bool]) -> Element:
    gates = [
        report.gates[0].model_copy(update={"name": name, "verdict": verdict, "failed": failed})
        for name, (verdict, failed) in verdicts.items()
    ]
    return checked(render(report.model_copy(update={"gates": gates})))


def test_a_test_case_for_each_gate(full_report: Report) -> None:
    suite = with_gates(
        full_report, good=("pass", False), bad=("fail", True), open=("inconclusive", False), strict=("inconclusive", True)
    )
    found = {case.attrib["name"]: [child.tag for child in case] for case in suite.findall("testcase")}
    assert found == {"good": ["system-out"], "bad": ["failure"], "open": ["skipped"], "strict": ["failure"]}
    assert {case.attrib["classname"] for case in suite.findall("testcase")} == {"digits.openvino"}
    failures = {case.attrib["name"]: failure for case in suite for failure in case.findall("failure")}
    assert failures["bad"].attrib["message"].startswith("top-1 fell by 0.40 points")
    assert (failures["bad"].attrib["type"], failures["strict"].attrib["type"]) == ("accuracy", "inconclusive")
    text = failures["bad"].text or ""
    for fact in (
        "limit: at most 1.00 points",
        "found: -0.4 (CI -0.7 to -0.1)",
        "against: digits-fp32",
        "recipe: models/recipe.yaml:7:3",
    ):
        assert fact in text, fact


def test_rows_that_failed_are_errors_and_absent_ones_are_skipped(full_report: Report) -> None:
    rows = [
        Row.model_validate({"name": name, "role": "result", "backend": "openvino", "status": name, "reason": "no NPU"})
        for name in ("failed", "skipped")
    ]
    suite = checked(render(full_report.model_copy(update={"rows": rows, "gates": []})))
    found = {
        case.attrib["name"]: [(child.tag, child.attrib["message"]) for child in case] for case in suite.findall("testcase")
    }
    assert found == {"row failed": [("error", "no NPU")], "row skipped": [("skipped", "no NPU")]}


def test_there_is_always_a_test_case(report: Report) -> None:
    (case,) = checked(render(report)).findall("testcase")
    assert (case.attrib["name"], case.findtext("system-out")) == ("report", "2.13x faster")


def test_properties_say_what_it_holds_for(full_report: Report) -> None:
    suite = checked(render(full_report))
    found = {entry.attrib["name"]: entry.attrib["value"] for entry in suite.iter("property")}
    for name, value in (
        ("cpu", "A CPU"),
        ("version of openvino", "2026.4.1"),
        ("seed", "7"),
        ("commit", "0123abc with local changes"),
    ):
        assert found[name] == value
    assert suite.attrib["timestamp"] == "2026-01-02T03:04:05"
    assert float(suite.attrib["time"]) == pytest.approx(35.2)  # 31 s of timing and the one step that was not reused


def test_a_moment_that_is_none_is_left_out(full_report: Report) -> None:
    assert "timestamp" not in checked(render(full_report.model_copy(update={"created": "yesterday"}))).attrib


@given(st.text(st.characters(exclude_categories=[]), max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_valid_xml(full_report: Report, text: str) -> None:
    """Control characters, halves of surrogate pairs and the end of the plane among it."""
    gates = [Gate.model_construct(**{**dict(full_report.gates[0]), "name": text, "text": text, "failed": True})]
    environment = full_report.environment.model_copy(update={"cpu": text, "libraries": {text: text}})
    row = full_report.rows[0].model_copy(update={"name": text, "status": "failed", "reason": text})
    odd = full_report.model_copy(update={"name": text, "gates": gates, "environment": environment, "rows": [row]})
    checked(render(odd))
