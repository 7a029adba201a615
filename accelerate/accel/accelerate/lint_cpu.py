"""What ONNX Runtime and OpenVINO, on a CPU, ask of a Q/DQ file to run it on integers: one check a rule. Reads ONNX only."""

from __future__ import annotations

from pathlib import Path

from accel.accelerate.lint import cpu_placement, integer_ranges, onnxruntime_fusion, openvino_int8, qdq_file, tensorrt_file
from accel.accelerate.lint.graph import read
from accel.accelerate.lint.rules import Rule, Severity, described, findings
from accel.contracts import Finding

_SHARED = (*qdq_file.RULES, *cpu_placement.ERRORS)
ONNXRUNTIME: tuple[Rule, ...] = (
    *tensorrt_file.WHOLE,
    *_SHARED,
    *onnxruntime_fusion.ERRORS,
    *onnxruntime_fusion.WARNINGS,
    *cpu_placement.WARNINGS,
    *integer_ranges.RULES,
)
OPENVINO: tuple[Rule, ...] = (
    *tensorrt_file.WHOLE,
    *_SHARED,
    *openvino_int8.RULES,
    *cpu_placement.WARNINGS,
    *integer_ranges.RULES,
)


def lint_onnxruntime(path: Path) -> list[Finding]:
    """Findings for ONNX Runtime on a CPU, errors first. Raises as ``lint_tensorrt.lint``."""
    return _found(path, ONNXRUNTIME)


def lint_openvino(path: Path) -> list[Finding]:
    """Findings for OpenVINO on a CPU; as :func:`lint_onnxruntime`."""
    return _found(path, OPENVINO)


def rules_onnxruntime() -> list[tuple[str, Severity, str]]:
    """Name, severity and one line for each rule of :func:`lint_onnxruntime`."""
    return described(ONNXRUNTIME)


def rules_openvino() -> list[tuple[str, Severity, str]]:
    """The same of :func:`lint_openvino`."""
    return described(OPENVINO)


def _found(path: Path, rules: tuple[Rule, ...]) -> list[Finding]:
    graph = read(path)
    # What does not hold together cannot be followed any further.
    found = findings(tensorrt_file.WHOLE if graph.broken is not None else rules, graph)
    return sorted(found, key=lambda finding: finding.severity)  # stable, and "error" comes before "warning"
