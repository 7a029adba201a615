"""The pass that writes an INT8 Q/DQ file with ONNX Runtime's quantizer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.accuracy_control import AccuracyControl, needs_of
from accel.compress.calibration import Calibration
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.repair_settings import AdaRound, Repairs, SmoothQuant, StaticWeights
from accel.contracts import Job, Need
from accel.errors import MissingBackend
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeStaticOnnxRuntime:
    """INT8 weights and activations, ranges from calibration data, in the dialect of the target's profile.

    Writes every profile: unsigned activations for ONNX Runtime and OpenVINO on a CPU, symmetric signed ones for TensorRT.
    ``cross_layer_equalization`` (Nagel et al. 2019), ``bias_correction`` (the same, empirical), ``smooth_quant`` and
    ``adaround`` repair what rounding costs; all of them read calibration data only.
    """

    version: ClassVar[int] = 3  # 3: factors of Gemm are folded first

    approach: Literal["static"] = "static"
    engine: Literal["auto", "onnxruntime"] = "auto"
    calibration: Calibration = Calibration()
    ignored_scope: IgnoredScope = IgnoredScope()
    accuracy_control: AccuracyControl | None = None
    weights: StaticWeights = StaticWeights()
    adaround: AdaRound | None = None
    bias_correction: bool = False
    cross_layer_equalization: bool = False
    smooth_quant: SmoothQuant | None = None

    @property
    def _repairs(self) -> Repairs:
        return Repairs(self.weights, self.adaround, self.bias_correction, self.cross_layer_equalization, self.smooth_quant)

    @property
    def libraries(self) -> tuple[str, ...]:
        """torch, too, where it computes the rounding or the biases."""
        torch = self._repairs.rewrites_weights or self.bias_correction
        return ("onnxruntime", "onnx", *(("torch",) if torch else ()))

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of(frozenset({"calibration", "profile"}), self.accuracy_control)

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises DataFault for calibration data that is missing or does not fit, PassFault
        where nothing is quantized or the quantizer fails, MissingBackend without onnxruntime; with ``accuracy_control`` also as
        ``accuracy.control.control``."""
        try:
            from accel.compress.repair.repaired import quantize
        except ModuleNotFoundError as absent:
            raise MissingBackend(
                f"quantize (engine onnxruntime): {absent.name} is not installed; pip install 'accel-toolkit[onnxruntime]'"
            ) from absent
        return quantize(model, job, self.calibration, self.ignored_scope, self._repairs, self.accuracy_control)
