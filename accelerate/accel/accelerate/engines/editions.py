"""How TensorRT and TensorRT-RTX differ, and their major versions: one table. Imports no library.

What stands here of TensorRT-RTX was run with 1.7.1.116 on a machine without a GPU, unless a source is named. The ``tensorrt``
wheels were not to be had: what stands of them is from NVIDIA's documentation, named with each entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Edition:
    """One library in one major version.

    ``needs_strong_flag``: networks are strongly typed only where the flag is given; elsewhere they always are.
    ``lacks``: option to why it is not there and what to do instead.
    ``capabilities``: compute capabilities an engine can be built for on another machine; empty where a build needs the GPU
    that the engine is for.
    ``refit_needs_gpu``: a refittable engine is built on a GPU only.
    ``has_runtime_cache``: the runtime compiles kernels as it loads an engine, and can keep them in a file.
    ``convolutions_int8``: whether NVIDIA lists INT8 convolutions (data and weights).
    """

    library: str
    major: int
    needs_strong_flag: bool
    lacks: Mapping[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()
    refit_needs_gpu: bool = False
    has_runtime_cache: bool = False
    convolutions_int8: bool = True

    @property
    def builds_without_gpu(self) -> bool:
        """Engines are made ahead of time, for GPUs that are not here."""
        return bool(self.capabilities)


_TENSORRT_LACKS = {
    # IBuilderConfig has no such member: docs.nvidia.com/deeplearning/tensorrt, C++ API, 10.14.1 and 11.4.1.
    "compute_capabilities": (
        "TensorRT times kernels on the GPU it builds for, and builds for no other; leave it out and build there, or set"
        " `library: tensorrt-rtx`"
    ),
}

EDITIONS: tuple[Edition, ...] = (
    # 10.12 deprecates weak typing, 11 removes it together with the flags FP16 and INT8, calibrators and precision constraints,
    # and there accepts and ignores STRONGLY_TYPED (docs.nvidia.com/deeplearning/tensorrt: "Migrating from TensorRT 10.x to
    # 11.x"; github.com/NVIDIA/TensorRT: .agents/skills/trt-strong-typing-migration).
    Edition(library="tensorrt", major=10, needs_strong_flag=True, lacks=_TENSORRT_LACKS),
    Edition(library="tensorrt", major=11, needs_strong_flag=False, lacks=_TENSORRT_LACKS),
    Edition(
        library="tensorrt-rtx",
        major=1,
        needs_strong_flag=False,  # run: the same engine, byte by byte, with and without the flag
        lacks={
            # Run: "setHardwareCompatibilityLevel() is unsupported in TensorRT-RTX".
            "hardware_compatibility": "its engines run on every GPU in `compute_capabilities`; name them there",
            # Run: the build fails, libnvinfer_lean is not part of the packages.
            "version_compatible": "the lean runtime it needs is not part of TensorRT-RTX; build with the version that runs it",
            # Documentation, "Timing Cache Migration": no effect on engines, and makes a build ask for a GPU. Run: a no-op.
            "timing_cache": "it times nothing while it builds, so there is nothing to keep; leave it out",
            # Run: levels 0 to 9 gave the same engine, byte by byte.
            "builder_optimization_level": "it searches no kernels while it builds: every level gives the same; leave it out",
            # Run: with weights in the 2:4 pattern (FP16, 64 channels), the same engine with and without it.
            "sparse_weights": "it changes nothing in its engines, so 2:4 weights run as dense ones; leave it out",
        },
        capabilities=("7.5", "8.0", "8.6", "8.9", "12.0", "12.1"),
        refit_needs_gpu=True,  # run: "CHECK(status == CUDA_SUCCESS) failed"
        has_runtime_cache=True,
        convolutions_int8=False,  # Documentation, "Support Matrix" 1.0 to 1.5: "INT8 WoQ GEMM", weight-only matrix products
    ),
)


def edition(library: str, major: int) -> Edition:
    """The row for a version; for a newer one than the table knows, the newest row of its library."""
    rows = [row for row in EDITIONS if row.library == library]
    older = [row for row in rows if row.major <= major]
    return older[-1] if older else rows[0]


def lacking(row: Edition, options: Mapping[str, Any]) -> Mapping[str, str]:
    """Of the options that ask for something, those that ``row`` lacks, with the reason."""
    return {name: why for name, why in row.lacks.items() if _asks(options.get(name))}


def _asks(value: Any) -> bool:
    """An option that is off, or left out, asks for nothing."""
    return value is not None and value is not False and value != "none" and value != []
