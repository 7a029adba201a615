"""What TensorRT's parser and its precision plan ask of an ONNX file, one check for each rule. Reads ONNX only."""

from __future__ import annotations

from pathlib import Path

from accel.accelerate.lint import integer_ranges, qdq_file
from accel.accelerate.lint import tensorrt_constraints as lint_tensorrt_constraints
from accel.accelerate.lint import tensorrt_file as lint_tensorrt_file
from accel.accelerate.lint import tensorrt_operators as lint_tensorrt_operators
from accel.accelerate.lint import tensorrt_placement as lint_tensorrt_placement
from accel.accelerate.lint import tensorrt_qdq as lint_tensorrt_qdq
from accel.accelerate.lint import tensorrt_types as lint_tensorrt_types
from accel.accelerate.lint.graph import read
from accel.accelerate.lint.rules import Rule, Severity, described, findings
from accel.contracts import Finding

_SHARED = (
    *lint_tensorrt_file.RULES,
    *lint_tensorrt_operators.RULES,
    *lint_tensorrt_constraints.RULES,
    *lint_tensorrt_types.RULES,
    *lint_tensorrt_qdq.RULES,
    *lint_tensorrt_placement.RULES,
    *integer_ranges.RULES,
    *qdq_file.READ,
)
_WHOLE = lint_tensorrt_file.WHOLE
TENSORRT: tuple[Rule, ...] = (
    *_WHOLE,
    *_SHARED,
    *lint_tensorrt_operators.TENSORRT_ONLY,
    *lint_tensorrt_placement.TENSORRT_ONLY,
)
TENSORRT_RTX: tuple[Rule, ...] = (
    *_WHOLE,
    *_SHARED,
    *lint_tensorrt_operators.RTX_ONLY,
    *lint_tensorrt_constraints.RTX_ONLY,
    *lint_tensorrt_placement.RTX_ONLY,
)


def lint(path: Path) -> list[Finding]:
    """Findings for TensorRT, errors first. Raises ModelFault for a file that is not ONNX, UsageError for one that is not there,
    SafetyRefusal for external data outside the model's folder."""
    return _found(path, TENSORRT)


def lint_rtx(path: Path) -> list[Finding]:
    """Findings for TensorRT-RTX; as :func:`lint`."""
    return _found(path, TENSORRT_RTX)


def rules() -> list[tuple[str, Severity, str]]:
    """Name, severity and one line for each rule of :func:`lint`."""
    return described(TENSORRT)


def rules_rtx() -> list[tuple[str, Severity, str]]:
    """The same of :func:`lint_rtx`."""
    return described(TENSORRT_RTX)


def _found(path: Path, rules: tuple[Rule, ...]) -> list[Finding]:
    graph = read(path)
    # What does not hold together cannot be followed any further.
    found = findings(_WHOLE if graph.broken is not None else rules, graph)
    return sorted(found, key=lambda finding: finding.severity)  # stable, and "error" comes before "warning"
