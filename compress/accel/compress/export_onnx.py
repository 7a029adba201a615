"""The pass that turns a torch module into an ONNX file."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from accel.contracts import Job, Need
from accel.model import OnnxModel, TorchModel

DEFAULT_OPSET = 20
"""The newest that torch's exporter (its default), ONNX Runtime, OpenVINO and NNCF all take as it is."""

NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Tolerance:
    """Two outputs are equal where no value differs by more than ``atol + rtol * (largest magnitude of the reference)``."""

    rtol: NonNegative = 1e-3
    atol: NonNegative = 1e-5


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ExportOnnx:
    """Export with torch.export: axes that the signature names may vary, nodes are called by their module path.

    ``opset``: 18 to 23, None for 20, or 21 where weights are integers in groups. ``check``: how close the file's outputs must
    be to PyTorch's.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("torch", "onnx", "onnx-ir", "onnxscript")

    opset: Annotated[int, Field(ge=18, le=23)] | None = None
    check: Tolerance = Tolerance()

    def __call__(self, model: TorchModel, job: Job) -> OnnxModel:
        """``model.onnx`` in the job's folder. Raises PassFault naming the module that cannot be exported or the output that
        differs; ModelFault where the module's own outputs are not numbers."""
        from accel.compress.torch_to_onnx import export

        return export(model, job, opset=self.opset, rtol=self.check.rtol, atol=self.check.atol)
