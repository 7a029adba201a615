"""``accel lint``: what a target will refuse or run badly of an ONNX file, before anything is built. Reads the file only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from accel import catalog
from accel.benchmarks.untrusted import plain
from accel.contracts import Finding
from accel.errors import UsageError

_NAMED = 5  # nodes on a terminal for each rule; JSON has them all
_LONGEST_NAME, _LONGEST = 120, 600  # characters of a name and of a message on a terminal: both come from the file
_FAILED = 1  # a verdict: the file was read, and the target would refuse it


def run(path: Path | None, *, target: str | None, rules: bool, as_json: bool, out: Console) -> int:
    """Print the findings, or with ``rules`` what is looked for. Gives 1 where a finding is an error, else 0.

    UsageError for an unknown target and a missing path; ModelFault and SafetyRefusal as the target's lint.
    """
    known = ", ".join(catalog.LINTS)
    if target is not None and target not in catalog.LINTS:
        raise UsageError(f"lint: there is no target {target!r}; there are {known}")
    if rules:
        return _rules([target] if target else list(catalog.LINTS), as_json=as_json, out=out)
    if target is None:
        raise UsageError(f"lint: give --target; there are {known}")
    if path is None:
        raise UsageError("lint: name an .onnx file, or give --rules to see what is looked for")
    _require_onnx(path)
    found: Sequence[Finding] = catalog.load(catalog.LINTS[target])(path)
    errors = sum(finding.severity == "error" for finding in found)
    if as_json:
        out.file.write(json.dumps(_record(path, target, found), indent=2) + "\n")
    else:
        _show(path, target, found, out)
    return _FAILED if errors else 0


def _require_onnx(path: Path) -> None:
    """UsageError that says what to do with a path that is no ONNX file, by its name."""
    if path.is_dir():
        raise UsageError(f"{path}: a folder; name the .onnx file in it")
    if path.suffix == ".engine":
        raise UsageError(f"{path}: an engine is built already; lint the .onnx file it is made from, or see `accel inspect`")
    if path.suffix == ".xml":
        raise UsageError(f"{path}: an OpenVINO IR; lint reads the .onnx file that TensorRT would be given")
    if path.suffix in (".yaml", ".yml", ".py"):
        raise UsageError(f"{path}: lint reads .onnx files; for a recipe there are `accel validate` and `accel plan`")


def _record(path: Path, target: str, found: Sequence[Finding]) -> dict[str, Any]:
    errors = sum(finding.severity == "error" for finding in found)
    return {
        "file": str(path),
        "target": target,
        "ok": not errors,
        "errors": errors,
        "warnings": len(found) - errors,
        "findings": [
            {
                "rule": finding.rule,
                "severity": finding.severity,
                "node": finding.node,
                "message": finding.message,
                "way_out": finding.way_out,
            }
            for finding in found
        ],
    }


def _rules(targets: Sequence[str], *, as_json: bool, out: Console) -> int:
    record = {target: catalog.load(catalog.LINT_RULES[target])() for target in targets}
    if as_json:
        listed = {
            target: [{"rule": name, "severity": severity, "about": about} for name, severity, about in rules]
            for target, rules in record.items()
        }
        out.file.write(json.dumps(listed, indent=2) + "\n")
        return 0
    for target, rules in record.items():
        out.print(Text(f"{target}: {len(rules)} rules"))
        width = max(len(name) for name, _, _ in rules)
        for name, severity, about in rules:
            out.print(Text(f"  {name:<{width}}  {severity:<7}  {about}"), soft_wrap=True)
    return 0


def _show(path: Path, target: str, found: Sequence[Finding], out: Console) -> None:
    groups: dict[str, list[Finding]] = {}
    for finding in found:
        groups.setdefault(finding.rule, []).append(finding)
    for rule, members in groups.items():
        first = members[0]
        where = f"{plain(first.node, _LONGEST_NAME)}: " if first.node else ""
        out.print(_safe(f"{first.severity} {rule}: {where}{first.message}"), soft_wrap=True)
        out.print(Text("    way out: ").append(_safe(first.way_out)), soft_wrap=True)
        if len(members) > 1:
            out.print(Text("    also: ").append(_safe(_others(members[1:]))), soft_wrap=True)
    errors = sum(finding.severity == "error" for finding in found)
    out.print(_safe(f"{path}: {_summary(errors, len(found) - errors, len(groups), target)}"), soft_wrap=True)


def _others(members: Sequence[Finding]) -> str:
    named = ", ".join(plain(member.node or member.message, _LONGEST_NAME) for member in members[:_NAMED])
    return named + (f" and {len(members) - _NAMED} more" if len(members) > _NAMED else "")


def _summary(errors: int, warnings: int, rules: int, target: str) -> str:
    if not errors and not warnings:
        return f"nothing found for {target}"
    counts = (
        f"{errors} {_plural('error', errors)} and {warnings} {_plural('warning', warnings)} of {rules} {_plural('rule', rules)}"
    )
    return f"{counts}; {target} {'would refuse it, or give other results' if errors else 'takes it'}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _safe(text: str) -> Text:
    """Names come from the file: no escape sequence, markup or command of a CI log reaches the terminal."""
    return Text(plain(text, _LONGEST))
