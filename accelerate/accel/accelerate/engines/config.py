"""The options of a target as a builder configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from accel.accelerate.engines.library import TensorRtLibrary
from accel.errors import BackendFault
from accel.model import Target

_FLAGS = {
    "version_compatible": "VERSION_COMPATIBLE",
    "weight_streaming": "WEIGHT_STREAMING",
    "sparse_weights": "SPARSE_WEIGHTS",
    "refittable": "REFIT",
    "tf32": "TF32",
}


def configured(library: TensorRtLibrary, builder: Any, target: Target, capabilities: Sequence[str], *, on_device: bool) -> Any:
    """An ``IBuilderConfig``. ``capabilities``: what to build for; empty and ``on_device``: the GPU here.

    Layers keep all they are known by, so that the inspector can tell of each; it costs some bytes of the engine.
    """
    trt = library.trt
    options = target.options
    config = builder.create_builder_config()
    for name, flag in _FLAGS.items():
        (config.set_flag if options.get(name) else config.clear_flag)(getattr(trt.BuilderFlag, flag))
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if "workspace_mb" in options:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_mb"] << 20)
    if "builder_optimization_level" in options:
        config.builder_optimization_level = options["builder_optimization_level"]
    level = options.get("hardware_compatibility", "none")
    if level != "none":
        config.hardware_compatibility_level = _member(library, trt.HardwareCompatibilityLevel, level)
    if library.edition.builds_without_gpu:
        _set_capabilities(library, config, capabilities, on_device)
    return config


def _set_capabilities(library: TensorRtLibrary, config: Any, capabilities: Sequence[str], on_device: bool) -> None:
    names = [f"SM{name.replace('.', '')}" for name in capabilities] or (["CURRENT"] if on_device else [])
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        if not config.set_compute_capability(_member(library, library.trt.ComputeCapability, name), index):
            raise BackendFault(
                f"{library.name} {library.version} refuses {capabilities[index] if capabilities else 'this GPU'}"
            )


def _member(library: TensorRtLibrary, enumeration: Any, name: str) -> Any:
    found = getattr(enumeration, name.upper(), None)
    if found is None:
        raise BackendFault(
            f"{library.name} {library.version} has no {enumeration.__name__}.{name.upper()}; it is of a later version"
        )
    return found
