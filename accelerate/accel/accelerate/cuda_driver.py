"""Whether CUDA's driver finds a GPU for this process. Imports no library and makes no CUDA context.

NVML (:mod:`accel.accelerate.nvidia_device`) tells of the machine. This tells what a library that uses CUDA will find: it
honours CUDA_VISIBLE_DEVICES, and works where there is no NVML (Jetson before JetPack 7).
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_NO_DEVICE = 100
"""CUDA_ERROR_NO_DEVICE of the driver API."""


def problem() -> str | None:
    """None, or one sentence: why nothing can run on an NVIDIA GPU here."""
    driver = _driver()
    if driver is None:
        return "there is no NVIDIA driver here; install NVIDIA's driver for this machine's GPU, or start the container with it"
    count = ctypes.c_int()
    code = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if code in (0, _NO_DEVICE) and count.value < 1:
        return "NVIDIA's driver finds no GPU for this process; look whether there is one, and at CUDA_VISIBLE_DEVICES"
    if code:
        return f"NVIDIA's driver does not start (CUDA error {code}); nvidia-smi may say more"
    return None


def _driver() -> Any:
    """The driver's library; None where there is none."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
