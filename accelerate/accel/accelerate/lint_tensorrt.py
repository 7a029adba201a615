"""What TensorRT's parser and its precision plan ask of an ONNX file, one check for each rule. Reads ONNX only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.contracts import Finding


def lint(path: Path) -> Sequence[Finding]:
    """Findings for TensorRT."""
    return []


def lint_rtx(path: Path) -> Sequence[Finding]:
    """Findings for TensorRT-RTX."""
    return []
