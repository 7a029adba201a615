"""The pass that writes an INT8 Q/DQ file with NNCF."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.accuracy_control import AccuracyControl, controlled, needs_of
from accel.compress.calibration import NncfCalibration
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.repair_settings import Repairs, SmoothQuant
from accel.contracts import Job, Need
from accel.errors import MissingBackend
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeStaticNncf:
    """INT8 weights and activations, ranges from calibration data, biases corrected, placed as OpenVINO runs them.

    Cannot write the symmetric signed dialect of TensorRT. ``bias_correction`` (the fast one) and ``smooth_quant`` are NNCF's
    own, ``cross_layer_equalization`` ours; learned rounding and INT4 weights are the other engine's.
    """

    version: ClassVar[int] = 3  # 3: factors of Gemm are folded first
    libraries: ClassVar[tuple[str, ...]] = ("nncf", "onnx", "onnxruntime")  # onnxruntime computes NNCF's statistics

    approach: Literal["static"] = "static"
    engine: Literal["auto", "nncf"] = "auto"
    calibration: NncfCalibration = NncfCalibration()
    ignored_scope: IgnoredScope = IgnoredScope()
    accuracy_control: AccuracyControl | None = None
    bias_correction: bool = True
    cross_layer_equalization: bool = False
    smooth_quant: SmoothQuant | None = None

    @property
    def needs(self) -> frozenset[Need]:
        return needs_of(frozenset({"calibration", "profile"}), self.accuracy_control)

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises DataFault for calibration data that is missing or does not fit, PassFault
        where nothing is quantized, the profile is TensorRT's or NNCF fails, MissingBackend without nncf; with
        ``accuracy_control`` also as ``accuracy.control.control``."""
        try:
            from accel.compress.qdq_nncf import quantize
            from accel.compress.repair.float_network import prepared
        except ModuleNotFoundError as absent:
            raise MissingBackend(
                f"quantize (engine nncf): {absent.name} is not installed; pip install 'accel-toolkit[openvino]'"
            ) from absent
        repairs = Repairs(cross_layer_equalization=self.cross_layer_equalization)
        with prepared(model, job, repairs, self.ignored_scope, self.calibration.num_samples) as network:
            quantized = quantize(
                network.model,
                job,
                self.calibration,
                self.ignored_scope,
                bias_correction=self.bias_correction,
                smooth_quant=self.smooth_quant,
            )
            return controlled(network.model, quantized, job, self.accuracy_control).noting(*network.notes)
