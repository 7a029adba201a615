"""PyTorch itself: eager, the reference that every other row is compared with, and how else PyTorch runs the same module."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel.accelerate.installed import Library, installed_distribution, problem, versions
from accel.accelerate.options import Choice, Flag, Option, check
from accel.contracts import Progress, QuantizationProfile, silent
from accel.errors import BackendFault, MissingBackend, UsageError
from accel.model import Model, Target, TorchModel

if TYPE_CHECKING:
    from accel.accelerate.eager_module import EagerRunner

LIBRARY = Library(module="torch", distribution="torch", minimum=(2, 7), extra="")
_DEVICES = {"cpu": "cpu", "gpu": "cuda"}
_OPTIONS: Mapping[str, Option] = {"mode": Choice(("eager", "compile")), "cuda_graphs": Flag(), "channels_last": Flag()}
_AUTOCAST = {"fp16": "float16", "bf16": "bfloat16"}


class Eager:
    """PyTorch as it is: the reference that every other row is compared with; with options, PyTorch at its fastest.

    Options: ``mode`` (``eager``; ``compile``: torch.compile), ``cuda_graphs`` (the whole call as one CUDA graph, on a GPU),
    ``channels_last`` (memory format of images and convolutions). Precision ``bf16``, and ``fp16`` on a GPU, is autocast with
    the weights of linear and convolution layers cast once. It takes any batch size whatever the target says.
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
            precisions=("fp32", *_AUTOCAST),
            why_precision="INT8 comes from a quantize pass, and runs on the other backends",
            options=_OPTIONS,
        )
        place, options = f"target {target.name}: backend eager", target.options
        if target.precision == "fp16" and target.device == "cpu":
            raise UsageError(f"{place}: precision fp16 needs device gpu; on a CPU take bf16, or fp32")
        if options.get("cuda_graphs", False) and target.device == "cpu":
            raise UsageError(f"{place}: option cuda_graphs needs device gpu; set it, or leave the option out")
        if options.get("cuda_graphs", False) and options.get("mode", "eager") != "eager":
            raise UsageError(
                f"{place}: option cuda_graphs goes with mode eager, not {options['mode']}: leave one of the two out, or make "
                "two targets of them"
            )

    def runtime_settings(self, target: Target) -> dict[str, Any]:
        """``device``, ``num_threads`` and ``float32_matmul_precision``, as PyTorch calls them; and, only where asked for,
        ``autocast`` (a dtype), ``memory_format``, ``torch_compile`` and ``cuda_graphs``."""
        settings: dict[str, Any] = {
            "device": _DEVICES[target.device],
            "num_threads": target.threads,
            "float32_matmul_precision": "highest",  # "medium", set anywhere, makes FP32 products BF16
        }
        if target.precision in _AUTOCAST:
            settings["autocast"] = _AUTOCAST[target.precision]
        if target.options.get("channels_last", False):
            settings["memory_format"] = "channels_last"
        if target.options.get("mode", "eager") == "compile":
            settings["torch_compile"] = True
        if target.options.get("cuda_graphs", False):
            settings["cuda_graphs"] = True
        return settings

    def deploy(
        self, model: Model, target: Target, folder: Path, *, cache: Path | None = None, progress: Progress = silent
    ) -> TorchModel:
        """Write the weights as ``model.safetensors``; what runs is the same module."""
        from accel.accelerate.eager_module import save_weights

        torch_model = _require_torch(model)
        save_weights(torch_model.module, folder / "model.safetensors")
        return torch_model

    def compile(self, model: Model, target: Target, cache: Path) -> EagerRunner:
        """``cache`` holds what torch.compile writes until the runner is closed: nothing it compiled before is taken up again.

        With mode compile and a known batch size the code is made here, so that the time it takes is compile time; else, and
        again for other sizes, by the first call. MissingBackend where there is no compiler, or no Triton for a GPU.
        """
        torch_model = _require_torch(model)
        self.check_options(target)
        sentence = self.unavailable(target.device)
        if sentence is not None:
            raise MissingBackend(f"target {target.name}: {sentence}")
        from accel.accelerate.eager_module import EagerRunner

        return EagerRunner(torch_model, self.runtime_settings(target), batch=target.batch, cache=cache)


def _require_torch(model: Model) -> TorchModel:
    if not isinstance(model, TorchModel):
        raise BackendFault("eager runs a PyTorch module, not an ONNX file: leave export_onnx out, or choose another backend")
    return model
