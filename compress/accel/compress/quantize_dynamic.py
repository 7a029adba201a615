"""The pass that stores weights in INT8 and rounds activations as they come: for transformers, without calibration data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.ignored_scope import IgnoredScope
from accel.contracts import Job, Need
from accel.errors import MissingBackend
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeDynamic:
    """Products with a constant matrix in INT8, one scale for each output; embedding tables, one scale for each row.

    The range of the activations is that of each inference's own. Convolutions stay as they are: approach ``static`` is faster.
    For ONNX Runtime: OpenVINO takes the file, but has no fast kernels for these products.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"profile", "target"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    approach: Literal["dynamic"] = "dynamic"
    engine: Literal["auto", "onnxruntime"] = "auto"
    ignored_scope: IgnoredScope = IgnoredScope()

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises PassFault where nothing is quantized, the profile is TensorRT's or the
        quantizer fails, MissingBackend without onnxruntime."""
        try:
            from accel.compress.dynamic_onnxruntime import quantize
        except ModuleNotFoundError as absent:
            raise MissingBackend(
                f"quantize (approach dynamic): {absent.name} is not installed; pip install 'accel-toolkit[onnxruntime]'"
            ) from absent
        return quantize(model, job, self.ignored_scope)
