"""NVIDIA GPUs of this machine, by NVML. The only file that imports it; no CUDA context is made."""

from __future__ import annotations


def problem() -> str | None:
    """None, or one sentence: why no NVIDIA GPU can be used here."""
    return "there is no NVIDIA GPU here"
