"""The passes that quantize a torch module with neural-compressor, before ``export_onnx``."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.calibration import NeuralCompressorCalibration
from accel.compress.quantize_aware import IgnoredModules
from accel.compress.weight_settings import LibraryWeights, WeightCalibration
from accel.contracts import Job, Need
from accel.errors import MissingBackend
from accel.model import TorchModel


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeStaticNeuralCompressor:
    """INT8 weights and activations by neural-compressor's PT2E flow, for a torch model, ranges from calibration data.

    ``export_onnx`` writes it with the weights as INT8. Where values are rounded follows torch's quantizer for x86, which keeps
    additions in floating point: other engines put more of a residual network into INT8. ``ignored_scope``: module paths.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"calibration", "profile"})
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch", "torchao", "neural-compressor-pt")

    approach: Literal["static"] = "static"
    engine: Literal["neural-compressor"] = "neural-compressor"
    calibration: NeuralCompressorCalibration = NeuralCompressorCalibration()
    ignored_scope: IgnoredModules = IgnoredModules()

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """Raises DataFault for calibration data that is missing or does not fit; PassFault where nothing is quantized, the
        profile is TensorRT's, a name in ``ignored_scope`` matches nothing, or torch.export cannot follow the module, naming
        it; MissingBackend without neural-compressor."""
        found: TorchModel = core().quantized(model, job, self.calibration, self.ignored_scope)
        return found


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class QuantizeWeightOnlyNeuralCompressor:
    """Weights alone of linear layers, chosen by neural-compressor on the torch model.

    ``export_onnx`` writes them as integers behind DequantizeLinear in blocks (opset 21): ONNX Runtime makes MatMulNBits of
    that when it loads the file, OpenVINO keeps them compressed. Embedding tables stay in float32: the engines after
    ``export_onnx`` store those too. ``ignored_scope``: module paths.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch", "neural-compressor-pt")

    approach: Literal["weight_only"] = "weight_only"
    engine: Literal["neural-compressor"] = "neural-compressor"
    weights: LibraryWeights = LibraryWeights()
    calibration: WeightCalibration = WeightCalibration()
    ignored_scope: IgnoredModules = IgnoredModules()

    @property
    def needs(self) -> frozenset[Need]:
        """Calibration data for what looks at activations."""
        return frozenset() if self.weights.algorithm == "rtn" else frozenset({"calibration"})

    def __call__(self, model: TorchModel, job: Job) -> TorchModel:
        """Raises DataFault for calibration data that is missing or does not fit; PassFault where nothing is quantized, a name
        in ``ignored_scope`` matches nothing, there is no stack of blocks for ``gptq`` or ``awq``, or the library fails;
        MissingBackend without neural-compressor, or what its GPTQ imports."""
        found: TorchModel = core("weights_neural_compressor").quantized(
            model, job, self.weights, self.calibration, self.ignored_scope
        )
        return found


def core(name: str = "pt2e_neural_compressor") -> Any:
    """A module of this package that needs the library. MissingBackend with the way out where that is not installed."""
    try:
        return import_module(f"accel.compress.{name}")
    except ModuleNotFoundError as absent:
        if (absent.name or "").startswith("accel"):
            raise
        raise MissingBackend(
            f"quantize (engine neural-compressor): {absent.name} is not installed; "
            "pip install 'accel-toolkit[neural-compressor]'"
        ) from absent
