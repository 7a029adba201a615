"""``junit.xml``: a test case for each gate, in the form that Jenkins, GitLab and Azure show. Light: no numpy.

One ``testsuites`` holds one ``testsuite`` (the run) of ``properties`` and ``testcase``s, with the attributes of Jenkins'
junit-10.xsd and no others. A gate that fails the run is a ``failure``, an inconclusive one that does not is ``skipped``; a row
that failed is an ``error``, one that an optional target left out is ``skipped``. There is always a test case: Jenkins fails a
build whose file has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from accel.benchmarks import figures
from accel.benchmarks.untrusted import plain
from accel.report import Gate, Report

LONGEST = 2000
"""Characters of one text."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")


def render(report: Report) -> str:
    """The report as JUnit XML, UTF-8."""
    cases = list(_cases(report))
    counts = {
        "tests": len(cases),
        "failures": sum(case.find("failure") is not None for case in cases),
        "errors": sum(case.find("error") is not None for case in cases),
    }
    numbers = {name: str(count) for name, count in counts.items()}
    seconds = sum(step.seconds for step in report.steps if not step.cached)
    seconds += 0.0 if report.conditions is None else report.conditions.seconds
    time = {"time": f"{seconds:.3f}"}
    root = Element("testsuites", {"name": "accel", **numbers, **time})
    skipped = str(sum(case.find("skipped") is not None for case in cases))
    moment = _MOMENT.match(report.created)
    suite = ElementTree.SubElement(root, "testsuite", {"name": _text(report.name), **numbers, "skipped": skipped, **time})
    if moment is not None:
        suite.set("timestamp", moment.group())
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in _properties(report):
        ElementTree.SubElement(properties, "property", {"name": _text(name, 200), "value": _text(value)})
    suite.extend(cases)
    ElementTree.indent(root)
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{body}\n'


def _text(text: str, limit: int = LONGEST) -> str:
    """No character that XML forbids, and nothing that a log it is printed to would obey."""
    return plain(text, limit)


def _cases(report: Report) -> Iterator[Element]:
    for gate in report.gates:
        yield _gate(report, gate)
    for row in report.rows:
        if row.status in ("failed", "skipped"):
            case = _case(report.name, row.target, f"row {row.name}")
            kind = "error" if row.status == "failed" else "skipped"
            reason = row.reason or "no reason given"
            found = ElementTree.SubElement(case, kind, {"message": _text(reason, 400)})
            if kind == "error":
                found.set("type", "row")
                found.text = _text(reason)
            yield case
    if not report.gates and all(row.status not in ("failed", "skipped") for row in report.rows):
        case = _case(report.name, None, "report")
        ElementTree.SubElement(case, "system-out").text = _text(report.verdict.text)
        yield case


def _case(run: str, target: str | None, name: str) -> Element:
    """A dot is what CI servers split the class at: names of ours keep theirs out of it."""
    place = [part.replace(".", "_") for part in (run, target or "all")]
    return Element("testcase", {"classname": _text(".".join(place)), "name": _text(name), "time": "0.000"})


def _gate(report: Report, gate: Gate) -> Element:
    case = _case(report.name, gate.target, gate.name)
    facts = [gate.text, f"limit: {gate.limit}"]
    facts += [] if gate.found is None else [f"found: {figures.estimate(gate.found)}"]
    facts += [f"row: {gate.row or 'none'}"] + ([] if gate.vs is None else [f"against: {gate.vs}"])
    if gate.line:
        facts.append(f"recipe: {report.recipe or ''}:{gate.line}:{gate.column}")
    text = "\n".join(_text(fact) for fact in facts)
    if gate.failed:
        kind = gate.kind if gate.verdict == "fail" else "inconclusive"
        failure = ElementTree.SubElement(case, "failure", {"message": _text(gate.text, 400), "type": kind})
        failure.text = text
    elif gate.verdict != "pass":
        ElementTree.SubElement(case, "skipped", {"message": _text(f"inconclusive: {gate.text}", 400)})
    else:
        ElementTree.SubElement(case, "system-out").text = text
    return case


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    here = report.environment
    yield "verdict", report.verdict.text
    yield "accel", report.accel_version
    yield "platform", here.platform
    yield "python", here.python
    yield "cpu", here.cpu
    yield "cores", str(here.cores)
    yield "memory_bytes", str(here.memory_bytes)
    yield "instruction sets", " ".join(here.isa_flags)
    yield "seed", str(report.seed)
    yield "recipe_sha256", report.recipe_sha256 or ""
    if report.source is not None:
        yield "commit", report.source.commit + (" with local changes" if report.source.dirty else "")
    if report.noise is not None:
        yield "noise", f"{report.noise.verdict}, {figures.ratio(report.noise.ratio)}"
    for name, version in here.libraries.items():
        yield f"version of {name}", version
