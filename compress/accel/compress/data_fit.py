"""Whether samples are what the model takes: the same sentences for calibration and for training."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.contracts import Batch
from accel.errors import DataFault
from accel.model import Signature, TensorSpec

Array = NDArray[Any]


def inputs_of(batch: Batch, signature: Signature, split: str) -> dict[str, Array]:
    """The arrays that the model takes, by input name. DataFault for one that ``batch`` does not hold."""
    missing = [spec.name for spec in signature.inputs if spec.name not in batch.inputs]
    if missing:
        raise DataFault(f"{split}: batches hold {sorted(batch.inputs)} but the model takes {missing} too")
    return {spec.name: np.asarray(batch.inputs[spec.name]) for spec in signature.inputs}


def require_fit(array: Array, spec: TensorSpec, sample: str) -> None:
    """DataFault unless ``array`` (n, ...) has the shape and type of ``spec``. ``sample``: whose it is, "training sample 7"."""
    wanted, got = spec.shape[1:], array.shape[1:]
    if len(wanted) != len(got) or any(isinstance(w, int) and w != g for w, g in zip(wanted, got, strict=True)):
        raise DataFault(
            f"{sample}: input {spec.name!r} has shape {tuple(got)} but the model takes {tuple(wanted)}; check task.preprocess"
        )
    if array.dtype != np.dtype(spec.dtype):
        raise DataFault(
            f"{sample}: input {spec.name!r} is {array.dtype} but the model takes {spec.dtype};"
            " convert the data or set task.preprocess"
        )
