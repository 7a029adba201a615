"""The two TensorRT libraries and how they differ. The only file that imports them."""

from __future__ import annotations

from accel.accelerate import nvidia_device
from accel.accelerate.installed import Library
from accel.accelerate.installed import problem as library_problem
from accel.model import Target

TENSORRT = Library(module="tensorrt", distribution="tensorrt", minimum=(10, 12), extra="tensorrt")
TENSORRT_RTX = Library(module="tensorrt_rtx", distribution="tensorrt-rtx-cu13", minimum=(1, 7), extra="tensorrt-rtx")


def problem(library: str) -> str | None:
    """None, or one sentence: why ``auto``, ``tensorrt`` or ``tensorrt-rtx`` cannot be used here."""
    if library == "auto":
        first = library_problem(TENSORRT)
        return first if first is None else library_problem(TENSORRT_RTX)
    return library_problem(TENSORRT if library == "tensorrt" else TENSORRT_RTX)


def gpu_problem() -> str | None:
    """None, or one sentence: why no NVIDIA GPU can be used here."""
    return nvidia_device.problem()


def cannot_build(target: Target) -> str | None:
    """None, or one sentence: why an engine for ``target`` cannot be built here."""
    sentence = problem(str(target.options.get("library", "auto")))
    if sentence is None and not target.options.get("compute_capabilities"):
        sentence = gpu_problem()
    return sentence


def installed_distribution() -> str | None:
    return None


def versions() -> dict[str, str]:
    return {}
