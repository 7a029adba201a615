"""What a row is timed on. Light: a child that only times reads no recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from accel.errors import UsageError
from accel.feeding import in_float16
from accel.model import TensorSpec

if TYPE_CHECKING:
    from accel.contracts import Array


_DTYPES = frozenset(
    {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)


@dataclass(frozen=True)
class Sample:
    """What a session is timed on: ``size`` samples, those in the .npz ``file`` over and over, or else seeded noise.

    ``sizes``: for noise, of the axes that may vary besides the batch.
    """

    file: str | None
    size: int
    seed: int
    sizes: Mapping[str, int] = field(default_factory=dict)

    def inputs(self, specs: Sequence[TensorSpec]) -> dict[str, Array]:
        """By name, for a model that takes ``specs``."""
        import numpy as np

        if self.file is None:
            return noise(specs, self.size, self.seed, self.sizes)
        with np.load(self.file, allow_pickle=False) as stored:
            filled = {name: np.resize(stored[name], (self.size, *stored[name].shape[1:])) for name in stored.files}
        return in_float16(filled, specs)


def axis_sizes(specs: Sequence[TensorSpec], inputs: Mapping[str, Array]) -> dict[str, int]:
    """What ``inputs`` show of the axes that may vary, besides the batch."""
    return {
        axis: inputs[spec.name].shape[index]
        for spec in specs
        for index, axis in enumerate(spec.shape)
        if index and isinstance(axis, str)
    }


def noise(inputs: Sequence[TensorSpec], size: int, seed: int, sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Seeded standard normal floats, zeros for integers: for timing and checks only, never for calibration.

    Masks are of ones, or a text model would attend to nothing, and its outputs were no numbers. ``size`` samples; ``sizes`` for
    the other axes that may vary. Raises UsageError for one that has none, and for bfloat16, strings and the like.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in inputs:
        shape = []
        for index, axis in enumerate(spec.shape):
            known = axis if isinstance(axis, int) else size if index == 0 else (sizes or {}).get(axis)
            if known is None:
                raise UsageError(
                    f"input {spec.name}: axis {axis!r} may vary and there is no data to take it from; give --shape {axis}=N"
                )
            shape.append(known)
        if spec.dtype not in _DTYPES:  # not by np.dtype: whether that knows bfloat16 depends on what else was imported
            raise UsageError(
                f"input {spec.name}: it is {spec.dtype}, and no noise is made of that; give the model float32 inputs, and have"
                " it cast them"
            )
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            made[spec.name] = generator.standard_normal(shape).astype(dtype)
        else:
            made[spec.name] = np.full(shape, "mask" in spec.name.lower(), dtype=dtype)
    return made
