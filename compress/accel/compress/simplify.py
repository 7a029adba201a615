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
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnxslim", "onnx")

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises PassFault where onnxslim fails or changes the outputs."""
        from accel.compress.slim_onnx import simplify

        return simplify(model, job)
