"""The pass that quantizes a torch module with neural-compressor, before ``export_onnx``."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from accel.compress.calibration import NeuralCompressorCalibration
from accel.compress.quantize_aware import IgnoredModules
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


def core() -> Any:
    """The module that imports the library. MissingBackend with the way out where that is not installed."""
    try:
        from accel.compress import pt2e_neural_compressor
    except ModuleNotFoundError as absent:
        if (absent.name or "").startswith("accel"):
            raise
        raise MissingBackend(
            f"quantize (engine neural-compressor): {absent.name} is not installed; "
            "pip install 'accel-toolkit[neural-compressor]'"
        ) from absent
    return pt2e_neural_compressor
