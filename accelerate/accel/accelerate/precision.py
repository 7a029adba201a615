"""How what a runtime executed is summed up, the same way for every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from accel.contracts import ExecutedPrecision

# tf32: ten bits of mantissa, so not to be called fp32.
_LOWEST_FIRST = ("bf16", "fp16", "tf32", "fp32", "fp64")


@dataclass(frozen=True)
class Counts:
    """What an optimized graph runs.

    ``operators``: type to count; ``int8``: how many multiply-accumulate ones in INT8; ``floats``: of the others, float
    precision to count (of all operators, where no multiply-accumulate one is left in float).
    """

    operators: Mapping[str, int]
    int8: int
    floats: Mapping[str, int]


def executed(counts: Counts, quantized: int, notes: tuple[str, ...] = ()) -> ExecutedPrecision:
    """Sum up what ran of ``quantized`` operators.

    A mixture is called by its lowest precision, so that nothing is called fp32 which is not wholly that; a note says the rest.
    """
    present = [name for name in _LOWEST_FIRST if counts.floats.get(name)]
    if len(present) > 1:
        parts = ", ".join(f"{counts.floats[name]} in {name}" for name in present)
        notes = (*notes, f"operators ran in more than one float precision: {parts}")
    if counts.int8 < quantized:
        notes = (*notes, f"{quantized - counts.int8} of {quantized} quantized operators did not run in INT8")
    return ExecutedPrecision(
        float_precision=present[0] if present else "fp32",
        quantized_operators=quantized,
        int8_operators=counts.int8,
        operators=dict(sorted(counts.operators.items())),
        notes=notes,
    )
