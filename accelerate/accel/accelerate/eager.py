"""PyTorch eager: the reference that every other row is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.accelerate.installed import Library, installed_distribution, problem, versions
from accel.accelerate.options import check
from accel.contracts import Progress, QuantizationProfile, silent
from accel.errors import BackendFault, MissingBackend
from accel.model import Model, Target, TorchModel

if TYPE_CHECKING:
    from accel.accelerate.eager_module import EagerRunner

LIBRARY = Library(module="torch", distribution="torch", minimum=(2, 7), extra="")
_DEVICES = {"cpu": "cpu", "gpu": "cuda"}


class Eager:
    """PyTorch as it is: the reference that every other row is compared with.

    It has no options, and takes any batch size whatever the target says: nothing is compiled.
    """

    name: ClassVar[str] = "eager"
    distribution: ClassVar[str] = "torch"
    devices: ClassVar[tuple[str, ...]] = ("cpu", "gpu")
    # It runs whatever module it is given; the CPU dialect lets a module quantized for the others be compared here.
    quantization: ClassVar[QuantizationProfile] = QuantizationProfile(
        activation="uint8",
        activation_symmetric=False,
        weight_granularity="per_channel",
        bias="int32",
        quantize_residual_add=True,
        engine="onnxruntime",
    )

    def unavailable(self, device: str = "cpu") -> str | None:
        sentence = problem(LIBRARY)
        if sentence is not None:
            return sentence
        if device not in self.devices:
            return f"eager has no device {device!r}; it has {', '.join(self.devices)}"
        if device == "gpu":
            from accel.accelerate.eager_module import cuda_problem

            return cuda_problem()
        return None

    def installed_distribution(self) -> str | None:
        """``torch``; None if it is not installed."""
        return installed_distribution(LIBRARY)

    def versions(self) -> dict[str, str]:
        """``torch`` to its version."""
        return versions(LIBRARY)

    def check_options(self, target: Target) -> None:
        check(
            target,
            devices=self.devices,
            precisions=("fp32",),
            why_precision="it is the reference, and a reference is FP32",
            options={},
        )

    def runtime_settings(self, target: Target) -> dict[str, Any]:
        """``device``, ``num_threads`` and ``float32_matmul_precision``, as PyTorch calls them."""
        return {
            "device": _DEVICES[target.device],
            "num_threads": target.threads,
            "float32_matmul_precision": "highest",  # "medium", set anywhere, makes FP32 products BF16
        }

    def deploy(
        self, model: Model, target: Target, folder: Path, *, cache: Path | None = None, progress: Progress = silent
    ) -> TorchModel:
        """Write the weights as ``model.safetensors``; what runs is the same module."""
        from accel.accelerate.eager_module import save_weights

        torch_model = _require_torch(model)
        save_weights(torch_model.module, folder / "model.safetensors")
        return torch_model

    def compile(self, model: Model, target: Target, cache: Path) -> EagerRunner:
        """``cache`` keeps nothing: there is nothing to compile."""
        torch_model = _require_torch(model)
        self.check_options(target)
        sentence = self.unavailable(target.device)
        if sentence is not None:
            raise MissingBackend(f"target {target.name}: {sentence}")
        from accel.accelerate.eager_module import EagerRunner

        return EagerRunner(torch_model, self.runtime_settings(target))


def _require_torch(model: Model) -> TorchModel:
    if not isinstance(model, TorchModel):
        raise BackendFault("eager runs a PyTorch module, not an ONNX file: leave export_onnx out, or choose another backend")
    return model
