"""Samples of a task for a model that a pass has changed: the task gives them as the untouched model takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


def in_batches(
    run: Callable[[Mapping[str, NDArray[Any]]], Sequence[NDArray[Any]]],
    inputs: Mapping[str, NDArray[Any]],
    specs: Sequence[TensorSpec],
    size: int | None,
) -> list[NDArray[Any]]:
    """Outputs for any number of samples from a model that takes ``specs``, ``size`` samples at a time (None: any number).

    The last piece is filled up with repeats, which are cut off again: what is scored is what is timed.
    """
    import numpy as np

    inputs = in_float16(inputs, specs)
    samples = len(next(iter(inputs.values())))
    if size is None:
        return [np.array(output, copy=True) for output in run(inputs)]
    parts: list[list[NDArray[Any]]] = []
    for first in range(0, samples, size):
        real = min(size, samples - first)
        piece = {name: np.resize(array[first : first + real], (size, *array.shape[1:])) for name, array in inputs.items()}
        parts.append([np.array(output[:real], copy=True) for output in run(piece)])
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
