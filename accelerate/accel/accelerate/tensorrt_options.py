"""What a TensorRT target may ask for, and what was removed and by what it is replaced. Imports no library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from accel.accelerate.options import Choice
from accel.accelerate.options import check as check_common
from accel.model import Target

_OPTIONS = {"library": Choice(("auto", "tensorrt", "tensorrt-rtx"))}


def check(target: Target) -> None:
    """Raise UsageError for an option, device or precision that TensorRT does not have."""
    check_common(
        target,
        devices=("gpu",),
        precisions=("fp32", "fp16", "bf16"),
        why_precision="INT8 comes from a quantize pass",
        options=_OPTIONS,
    )


def build_settings(target: Target) -> Mapping[str, Any]:
    """What decides the engine besides the ONNX file and the library, JSON-ready, every default written out."""
    return dict(target.options)
