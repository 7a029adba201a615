"""The passes that store weights alone in few bits, in the form that each runtime multiplies without unpacking all of it."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.ignored_scope import IgnoredScope
from accel.compress.weight_settings import BlockWeights, CompressedWeights, WeightCalibration
from accel.contracts import Job, Need
from accel.errors import MissingBackend
from accel.model import OnnxModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeWeightOnlyOnnxRuntime:
    """Linear layers as ONNX Runtime's MatMulNBits, embedding tables in INT8 for each row.

    Buys size, and time where reading the weights is the limit.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnx")

    approach: Literal["weight_only"] = "weight_only"
    engine: Literal["auto", "onnxruntime"] = "auto"
    weights: BlockWeights = BlockWeights()
    calibration: WeightCalibration = WeightCalibration()
    ignored_scope: IgnoredScope = IgnoredScope()

    @property
    def needs(self) -> frozenset[Need]:
        """Calibration data for what looks at activations."""
        return frozenset({"profile", "calibration"}) if self.weights.algorithm == "gptq" else frozenset({"profile"})

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises PassFault where nothing is quantized, the profile is TensorRT's or
        calibration fails, DataFault for calibration data that is missing or does not fit, MissingBackend without
        onnxruntime."""
        try:
            from accel.compress.weights_onnxruntime import quantize
        except ModuleNotFoundError as absent:
            raise MissingBackend(
                f"quantize (approach weight_only): {absent.name} is not installed; pip install 'accel-toolkit[onnxruntime]'"
            ) from absent
        return quantize(model, job, self.weights, self.calibration, self.ignored_scope)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeWeightOnlyNncf:
    """Linear layers and embedding tables behind DequantizeLinear, which OpenVINO keeps compressed and multiplies so."""

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("nncf", "onnx", "onnxruntime")

    approach: Literal["weight_only"] = "weight_only"
    engine: Literal["auto", "nncf"] = "auto"
    weights: CompressedWeights = CompressedWeights()
    calibration: WeightCalibration = WeightCalibration()
    ignored_scope: IgnoredScope = IgnoredScope()

    @property
    def needs(self) -> frozenset[Need]:
        """Calibration data for what looks at activations."""
        return frozenset({"calibration"}) if self.weights.algorithm != "rtn" else frozenset()

    def __call__(self, model: OnnxModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises PassFault where nothing is quantized or NNCF fails, DataFault for
        calibration data that is missing or does not fit, MissingBackend without nncf."""
        try:
            from accel.compress.weights_nncf import quantize
        except ModuleNotFoundError as absent:
            raise MissingBackend(
                f"quantize (engine nncf): {absent.name} is not installed; pip install 'accel-toolkit[openvino]'"
            ) from absent
        return quantize(model, job, self.weights, self.calibration, self.ignored_scope)
