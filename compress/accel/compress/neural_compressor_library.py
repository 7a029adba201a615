"""The one file that imports neural_compressor, which logs and prints as it is imported."""

from __future__ import annotations

from accel.compress.quiet_library import quiet
from accel.distributions import installed

with quiet():
    import neural_compressor.torch.quantization as library
    from neural_compressor.common.version import __version__ as _version
    from neural_compressor.torch.algorithms.weight_only.modules import INCWeightOnlyLinear, MulLinear

__all__ = ["INCWeightOnlyLinear", "MulLinear", "library", "library_version"]


def library_version() -> str:
    """Of the distribution that is installed under one of its two names, else what the package says."""
    found = installed("neural-compressor-pt")
    return found[1] if found else str(_version)
