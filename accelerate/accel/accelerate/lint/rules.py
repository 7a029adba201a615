"""What a rule of a lint is, and how a list of them becomes findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from accel.accelerate.lint.graph import LintGraph
from accel.contracts import Finding

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One place that a rule complains about. ``node``: empty where it is about the whole file."""

    node: str
    message: str
    way_out: str


Check = Callable[[LintGraph], Iterator[Problem]]


@dataclass(frozen=True)
class Rule:
    """``about``: what it asks for, in one line."""

    name: str
    severity: Severity
    about: str
    check: Check


def findings(rules: Iterable[Rule], graph: LintGraph) -> list[Finding]:
    """What each rule finds, in the order of the rules and of the file."""
    return [
        Finding(rule.name, rule.severity, problem.node, problem.message, problem.way_out)
        for rule in rules
        for problem in rule.check(graph)
    ]


def described(rules: Sequence[Rule]) -> list[tuple[str, Severity, str]]:
    """Name, severity and one line for each rule."""
    return [(rule.name, rule.severity, rule.about) for rule in rules]
