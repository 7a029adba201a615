"""Names for the axes of a model file that have neither a size nor a name."""

from __future__ import annotations

from collections.abc import Sequence

from accel.model import TensorSpec


class AxisNames:
    """Gives every axis of unknown size a name that is the same in each reading.

    The first axis of an input is ``batch``, any other ``<input>_dim<i>``; the first axis of an output has the name of the first
    input's first axis, if that varies.
    """

    def __init__(self) -> None:
        self._batch: str | None = None
        self._seen = False

    def input(self, name: str, dims: Sequence[int | str | None], dtype: str) -> TensorSpec:
        """An input; None in ``dims`` is an axis without size or name."""
        shape = tuple(("batch" if i == 0 else f"{name}_dim{i}") if dim is None else dim for i, dim in enumerate(dims))
        if not self._seen:
            self._seen = True
            self._batch = shape[0] if shape and isinstance(shape[0], str) else None
        return TensorSpec(name, shape, dtype)

    def output(self, name: str, dims: Sequence[int | str | None], dtype: str) -> TensorSpec:
        """An output, after all inputs."""
        first = self._batch or f"{name}_dim0"
        return TensorSpec(
            name, tuple((first if i == 0 else f"{name}_dim{i}") if dim is None else dim for i, dim in enumerate(dims)), dtype
        )
