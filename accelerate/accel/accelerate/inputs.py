"""The inputs of a call against the signature they should have. Used once before a loop, never inside one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from accel.errors import DataFault, UsageError
from accel.model import Signature, TensorSpec

if TYPE_CHECKING:
    from accel.contracts import Array


def check_inputs(signature: Signature, inputs: Mapping[str, Array]) -> None:
    """Raise DataFault, naming the input, where a name, dtype or shape is not the signature's.

    A named axis may have any size, but the same one in every input that has it.
    """
    expected = {spec.name: spec for spec in signature.inputs}
    missing = [name for name in expected if name not in inputs]
    unknown = [name for name in inputs if name not in expected]
    if missing or unknown:
        found = ", ".join(inputs) or "none"
        raise DataFault(f"the model takes the inputs {', '.join(expected)}; given were {found}")
    sizes: dict[str, tuple[int, str]] = {}
    for name, spec in expected.items():
        _check_input(spec, inputs[name], sizes)


def _check_input(spec: TensorSpec, array: Array, sizes: dict[str, tuple[int, str]]) -> None:
    dtype = getattr(array, "dtype", None)
    if dtype is None:
        raise DataFault(f"input {spec.name} is a {type(array).__name__}; it must be a numpy array of {spec.dtype}")
    if str(dtype) != spec.dtype:
        raise DataFault(f"input {spec.name} has dtype {dtype}; the model takes {spec.dtype}")
    shown = "x".join(map(str, spec.shape))
    if len(array.shape) != len(spec.shape):
        raise DataFault(f"input {spec.name} has shape {_shown(array.shape)}; the model takes {shown}")
    for size, axis in zip(array.shape, spec.shape, strict=True):
        if isinstance(axis, int):
            if size != axis:
                raise DataFault(f"input {spec.name} has shape {_shown(array.shape)}; the model takes {shown}")
        else:
            first, where = sizes.setdefault(axis, (size, spec.name))
            if size != first:
                raise DataFault(f"input {spec.name} has {size} along {axis}, but input {where} has {first}")


def _shown(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


def batch_axis(signature: Signature, batch: int) -> str | None:
    """The name of the axis that holds the samples; None where it is fixed, and that to ``batch``.

    Raises UsageError where the inputs are fixed to another number, have several first axes, or have none.
    """
    names = {spec.shape[0] for spec in signature.inputs if spec.shape and isinstance(spec.shape[0], str)}
    if len(names) == 1:
        return str(names.pop())
    if names:
        raise UsageError(f"batch {batch}: the inputs vary along several first axes ({', '.join(sorted(map(str, names)))})")
    fixed = {spec.shape[0] for spec in signature.inputs if spec.shape}
    if fixed != {batch}:
        raise UsageError(f"batch {batch}: the model is fixed to {', '.join(map(str, sorted(map(int, fixed)))) or 'no axis'}")
    return None


def fix_axis(signature: Signature, axis: str, size: int) -> Signature:
    """The signature with the named ``axis`` fixed to ``size`` wherever it occurs."""

    def fixed(spec: TensorSpec) -> TensorSpec:
        return replace(spec, shape=tuple(size if part == axis else part for part in spec.shape))

    return Signature(tuple(map(fixed, signature.inputs)), tuple(map(fixed, signature.outputs)))
