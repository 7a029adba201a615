"""The pass that cleans an ONNX graph: folds constants, fuses and drops what no output needs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.contracts import Job, Need
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Simplify:
    """onnxslim, with what it loses put back (node names) and its result compared with the file that went in.

    A file that it leaves as it was comes back byte for byte, so that the step can be seen to have changed nothing.

    ``short_names``: for the smallest file, as the last pass: tensors inside the graph get short names, Q/DQ nodes none, equal
    constants are stored once, attributes at their default are dropped, and a Conv's INT32 bias is stored as the float32 that it
    stands for. Inputs, outputs and operators keep their names.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    version: ClassVar[int] = 3
    libraries: ClassVar[tuple[str, ...]] = ("onnxslim", "onnx")

    short_names: bool = False

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises PassFault where onnxslim fails or changes the outputs."""
        from accel.compress.slim_onnx import simplify

        return simplify(model, job, short_names=self.short_names)
