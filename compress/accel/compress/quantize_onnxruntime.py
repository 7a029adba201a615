"""The pass that writes an INT8 Q/DQ file with ONNX Runtime's quantizer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.accuracy_control import AccuracyControl, controlled, needs_of
from accel.compress.calibration import Calibration
from accel.compress.ignored_scope import IgnoredScope
from accel.contracts import Job, Need
from accel.errors import MissingBackend
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeStaticOnnxRuntime:
    """INT8 weights and activations, ranges from calibration data, in the dialect of the target's profile.

    Writes every profile: unsigned activations for ONNX Runtime and OpenVINO on a CPU, symmetric signed ones for TensorRT.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    approach: Literal["static"] = "static"
    engine: Literal["auto", "onnxruntime"] = "auto"
    calibration: Calibration = Calibration()
    ignored_scope: IgnoredScope = IgnoredScope()
    accuracy_control: AccuracyControl | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of(frozenset({"calibration", "profile"}), self.accuracy_control)

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises DataFault for calibration data that is missing or does not fit, PassFault
        where nothing is quantized or the quantizer fails, MissingBackend without onnxruntime; with ``accuracy_control`` also as
        ``accuracy.control.control``."""
        try:
            from accel.compress.qdq_onnxruntime import quantize
        except ModuleNotFoundError as absent:
            raise MissingBackend(
                f"quantize (engine onnxruntime): {absent.name} is not installed; pip install 'accel-toolkit[onnxruntime]'"
            ) from absent
        quantized = quantize(model, job, self.calibration, self.ignored_scope)
        return controlled(model, quantized, job, self.accuracy_control)
