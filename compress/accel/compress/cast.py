"""The pass that writes floats in half the bits: FP16 or BF16 in the graph."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.contracts import Job, Need
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Cast:
    """Floats of the graph in ``dtype``; nodes that would overflow or lose too much stay FP32 and are named."""

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnx",)

    dtype: Literal["fp16", "bf16"] = "fp16"

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        raise NotImplementedError
