"""Does a prepared sample fit the model's input? Says what is wrong, and casts only where nothing can be lost but precision.

Light: numpy only once there is a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from accel.errors import DataFault, UsageError
from accel.model import Signature, TensorSpec

if TYPE_CHECKING:
    from accel.contracts import Array


def image_input(signature: Signature | None) -> TensorSpec | None:
    """The one input that an image classifier has; None where no signature is known. UsageError for several."""
    if signature is None:
        return None
    if len(signature.inputs) != 1:
        names = ", ".join(spec.name for spec in signature.inputs)
        raise UsageError(f"model: has {len(signature.inputs)} inputs ({names}); image_classification feeds exactly one")
    return signature.inputs[0]


def fixed_batch(spec: TensorSpec | None) -> int | None:
    """The batch size that the model insists on; None where it takes any."""
    return spec.shape[0] if spec is not None and spec.shape and isinstance(spec.shape[0], int) else None


def fitted(sample: Array, spec: TensorSpec | None, place: str) -> Array:
    """``sample`` (without a batch axis) in the model's dtype. DataFault if shape or dtype cannot be what the model takes."""
    import numpy as np

    if spec is None:
        return sample
    wanted = spec.shape[1:]
    shown = ", ".join(str(axis) for axis in wanted)
    if len(wanted) != sample.ndim or any(
        isinstance(axis, int) and axis != size for axis, size in zip(wanted, sample.shape, strict=True)
    ):
        raise DataFault(
            f"{place}: is {sample.dtype} {sample.shape}, but the model's input {spec.name!r} takes {spec.dtype} ({shown});"
            f" {_shape_hint(sample.shape, wanted)}"
        )
    dtype = np.dtype(spec.dtype)
    if sample.dtype == dtype or (sample.dtype.kind == "f" and dtype.kind == "f"):
        return sample.astype(dtype, copy=False)
    if sample.dtype.kind == "f" and dtype.kind in "ui":
        whole = sample.astype(dtype)
        if (whole == sample).all():
            return whole
    if sample.dtype == np.uint8 and dtype.kind == "f":
        hint = "these are pixels: declare task.preprocess, or store what the model takes"
    else:
        hint = f"store the data as {spec.dtype}"
    raise DataFault(f"{place}: is {sample.dtype}, but the model's input {spec.name!r} takes {spec.dtype}; {hint}")


def _shape_hint(found: tuple[int, ...], wanted: tuple[int | str, ...]) -> str:
    if len(found) == len(wanted) == 3:
        if found[0] == found[-1]:
            return "set task.preprocess.resize"
        turned = (found[2], found[0], found[1]), (found[1], found[2], found[0])
        if wanted in turned:
            return "the channels stand on the other side: set task.preprocess.layout, or transpose the data"
        if found[0] != wanted[0] and wanted[0] in (1, 3) and found[0] in (1, 3):
            return f"set task.preprocess.color to {'gray' if wanted[0] == 1 else 'rgb'}"
        return "set task.preprocess.resize and center_crop"
    return "set task.preprocess, or store the data in this shape"
