"""The names that one library is published under, and which of them are installed here. Imports none of the libraries."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

FLAVOURS: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": (
        "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml", "onnxruntime-migraphx",
        "onnxruntime-rocm", "onnxruntime-qnn", "onnxruntime-training", "ort-nightly", "ort-nightly-gpu",
    ),
    "openvino": ("openvino", "openvino-nightly", "openvino-dev"),
    "neural-compressor-pt": ("neural-compressor-pt", "neural-compressor"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx-cu13": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}  # fmt: skip
"""The usual name of a library to all of its names, that one first. Each installs the same module, so any of them serves."""


def flavours(distribution: str) -> tuple[str, ...]:
    """Every name that the library ``distribution`` is published under; for most it is the one."""
    return FLAVOURS.get(distribution, (distribution,))


def versions(distribution: str) -> dict[str, str]:
    """Every installed flavour of ``distribution`` to its version. More than one means they overwrote each other's files."""
    found = {}
    for name in flavours(distribution):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def installed(distribution: str) -> tuple[str, str] | None:
    """Name and version of the first flavour of ``distribution`` that is installed; None if there is none."""
    return next(iter(versions(distribution).items()), None)
