"""TensorRT and TensorRT-RTX: engines built from strongly typed ONNX, run where their GPU is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accel import engine_file
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines import options as tensorrt_options
from accel.accelerate.shipping import require_onnx
from accel.contracts import LayerProfile, Progress, QuantizationProfile, silent
from accel.errors import MissingBackend
from accel.model import Model, OnnxModel, Target

if TYPE_CHECKING:
    from accel.accelerate.engines.run import EngineRunner
    from accel.contracts import Array


class TensorRt:
    """TensorRT (data centre, Jetson) or TensorRT-RTX (RTX GPUs, ahead of time), whichever ``library`` says or is here.

    Options: see ``accel.accelerate.engines.options``.
    """

    name: ClassVar[str] = "tensorrt"
    distribution: ClassVar[str] = "tensorrt"
    devices: ClassVar[tuple[str, ...]] = ("gpu",)
    # Symmetric signed with zero point 0, and a float bias: an INT32 bias behind DequantizeLinear does not parse.
    quantization: ClassVar[QuantizationProfile] = QuantizationProfile(
        activation="int8",
        activation_symmetric=True,
        weight_granularity="per_channel",
        bias="float",
        quantize_residual_add=False,
        engine="onnxruntime",
    )

    def unavailable(self, device: str = "gpu") -> str | None:
        if device not in self.devices:
            return f"tensorrt has no device {device!r}; it has {', '.join(self.devices)}"
        return tensorrt_library.problem("auto") or tensorrt_library.gpu_problem()

    def built_with(self, target: Target) -> Mapping[str, Any]:
        """The library, its version, and the GPU where none is named."""
        return tensorrt_library.built_with(target)

    def cannot_build(self, target: Target) -> str | None:
        return tensorrt_library.cannot_build(target)

    def cannot_run(self, target: Target) -> str | None:
        return tensorrt_library.cannot_run(target)

    def installed_distribution(self) -> str | None:
        """The name under which it is installed; None if it is not."""
        return tensorrt_library.installed_distribution()

    def versions(self) -> dict[str, str]:
        """Every installed distribution that brings one of the two libraries, to its version."""
        return tensorrt_library.versions()

    def check_options(self, target: Target) -> None:
        tensorrt_options.check(target)

    def runtime_settings(self, target: Target) -> Mapping[str, Any]:
        """How the engine is built and run, in the words of the options, every default written out."""
        return tensorrt_options.build_settings(target) | asdict(tensorrt_options.run_settings(target))

    def runtime_settings_for(self, target: Target, path: Path) -> Mapping[str, Any]:
        """With the library that built the engine at ``path``."""
        return {**self.runtime_settings(target), "library": engine_file.read(path).library}

    def deploy(self, model: Model, target: Target, folder: Path, *, cache: Path, progress: Progress = silent) -> OnnxModel:
        """``model.engine`` and its manifest ``engine.json``. ``cache`` keeps the timing cache."""
        file = require_onnx(model, self.name)
        self.check_options(target)
        sentence = self.cannot_build(target)
        if sentence is not None:
            raise MissingBackend(f"target {target.name}: {sentence}")
        from accel.accelerate.engines.build import build

        made = build(file, target, folder / "model.engine", cache=cache, progress=progress)
        return replace(file, path=folder / "model.engine", signature=made.manifest.signature).noting(*made.notes)

    def compile(self, model: Model, target: Target, cache: Path) -> EngineRunner:
        """Deserializes the engine beside its manifest; one that does not fit this machine is refused."""
        file = require_onnx(model, self.name)
        self.check_options(target)
        sentence = self.cannot_run(target)
        if sentence is not None:
            raise MissingBackend(f"target {target.name}: {sentence}")
        from accel.accelerate.engines.run import open_engine

        return open_engine(file.path, file.signature, target)

    def profile(self, model: Model, target: Target, inputs: Mapping[str, Array], *, queries: int, cache: Path) -> LayerProfile:
        """From the engine inspector and the library's own profiler."""
        with self.compile(model, target, cache) as runner:
            runner(inputs)  # its shapes are those that are profiled
            return runner.profile(queries)
