"""The options of a target as the library's builder configuration: what is set, what is cleared, what is left as it is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.config import configured
from accel.accelerate.engines.editions import edition
from accel.accelerate.engines.library import TensorRtLibrary
from accel.errors import BackendFault
from accel.model import Target

FLAGS = ("VERSION_COMPATIBLE", "WEIGHT_STREAMING", "SPARSE_WEIGHTS", "REFIT", "TF32")


def target(**options: Any) -> Target:
    return Target("edge", "tensorrt", "gpu", options=options)


class Config:
    """What TensorRT 11's has: nothing about compute capabilities."""

    __slots__ = ("builder_optimization_level", "flags", "hardware_compatibility_level", "limits", "profiling_verbosity")

    builder_optimization_level: int
    hardware_compatibility_level: str
    profiling_verbosity: str

    def __init__(self) -> None:
        self.flags = {"TF32"}  # the library's own default
        self.limits: dict[str, int] = {}

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, size_bytes: int) -> None:
        self.limits[pool] = size_bytes


def fake() -> TensorRtLibrary:
    level = type("HardwareCompatibilityLevel", (), {"AMPERE_PLUS": "ampere"})
    module = SimpleNamespace(
        BuilderFlag=SimpleNamespace(**{flag: flag for flag in FLAGS}),
        ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
        MemoryPoolType=SimpleNamespace(WORKSPACE="workspace"),
        HardwareCompatibilityLevel=level,
    )
    return TensorRtLibrary("tensorrt", "11.4.1", module, edition("tensorrt", 11))


def made(**options: Any) -> Config:
    builder = SimpleNamespace(create_builder_config=Config)
    config = configured(fake(), builder, target(**options), (), on_device=True)
    assert isinstance(config, Config)
    return config


def test_float32_is_float32_unless_asked() -> None:
    plain = made()
    assert plain.flags == set()
    assert plain.profiling_verbosity == "detailed"
    assert plain.limits == {}
    assert not hasattr(plain, "builder_optimization_level")
    assert not hasattr(plain, "hardware_compatibility_level")
    assert made(tf32=True).flags == {"TF32"}


def test_every_option() -> None:
    names = ("version_compatible", "weight_streaming", "sparse_weights", "refittable")
    full = made(
        **dict.fromkeys(names, True), workspace_mb=3, builder_optimization_level=0, hardware_compatibility="ampere_plus"
    )
    assert full.flags == set(FLAGS) - {"TF32"}
    assert full.limits == {"workspace": 3 << 20}
    assert full.builder_optimization_level == 0
    assert full.hardware_compatibility_level == "ampere"


def test_a_level_of_a_later_version() -> None:
    with pytest.raises(BackendFault, match=r"11\.4\.1 has no HardwareCompatibilityLevel\.SAME_COMPUTE_CAPABILITY"):
        made(hardware_compatibility="same_compute_capability")


def test_the_real_one() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    library = tensorrt_library.chosen("tensorrt-rtx")
    trt = library.trt
    builder = trt.Builder(library.logger(lambda severity, message: None))
    config = configured(library, builder, target(weight_streaming=True), ("8.6", "12.0"), on_device=False)
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.get_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    found = [config.get_compute_capability(index) for index in range(config.num_compute_capabilities)]
    assert found == [trt.ComputeCapability.SM86, trt.ComputeCapability.SM120]
    here = configured(library, builder, target(), (), on_device=True)
    assert [here.get_compute_capability(0)] == [trt.ComputeCapability.CURRENT]
