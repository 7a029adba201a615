"""Samples of a task for a model that a pass has changed: the task gives them as the untouched model takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from accel.errors import DataFault
from accel.model import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray


def in_float16(inputs: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec]) -> dict[str, NDArray[Any]]:
    """``inputs``, floats in float16 where the model takes that (``cast`` with ``keep_io_types: false``), all else untouched.

    DataFault for a number that float16 does not hold: it would go in as infinity, without a word.
    """
    import numpy as np

    half = {spec.name for spec in specs if spec.dtype == "float16"}
    fed: dict[str, NDArray[Any]] = {}
    for name, array in inputs.items():
        fed[name] = array
        if name not in half or array.dtype.kind != "f" or array.dtype == np.float16:
            continue
        with np.errstate(over="ignore"):
            fed[name] = array.astype(np.float16)
        if np.isinf(fed[name]).sum() > np.isinf(array).sum():
            largest = np.abs(array[np.isfinite(array)]).max()
            raise DataFault(
                f"input {name} has values up to {largest:.6g}, and the model takes float16, which ends at"
                f" {np.finfo(np.float16).max:.0f}; set keep_io_types: true in the cast pass"
            )
    return fed
