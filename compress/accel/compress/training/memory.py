"""Memory that a training step frees stays with the process until the training ends, where the C library is glibc.

A step frees all its activations at its end. By default glibc gives such an amount back to the system, which clears each page
again for the next step: a seventh of the time of ResNet-20's distillation on two cores. torch has no setting for it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3): M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_MOST = 2**31 - 1
_LARGEST_MMAP = 32 << 20
"""The highest that glibc takes, and what its own adjusting comes to with blocks of that size; a call of mallopt ends that."""


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """While the block runs on a CPU, up to 2 GiB of free memory stay with the process; afterwards they are given back.

    It holds for the whole process, whose thresholds are afterwards what glibc's own adjusting comes to at most: blocks from
    32 MiB on are mapped on their own, and 64 MiB stay. Does nothing on a GPU or with another C library.
    """
    library = _glibc() if device.type == "cpu" else None
    if library is None:
        yield
        return
    library.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    try:
        yield
    finally:
        library.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP)
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows: there is no library of the process itself
        return None
    return library if all(hasattr(library, name) for name in ("gnu_get_libc_version", "mallopt", "malloc_trim")) else None
