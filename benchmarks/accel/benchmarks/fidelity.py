"""How close one row's outputs are to another's, read from files a piece at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from accel.benchmarks.embeddings import similar
from accel.errors import BackendFault
from accel.report import Fidelity

if TYPE_CHECKING:
    from accel.contracts import Array

Floats = NDArray[np.float64]
PIECE_VALUES = 1 << 20
"""Values of one output held at once, as float64."""


def compare(
    outputs: Sequence[Path | Array], reference: Sequence[Path | Array], vs: str, *, embeddings: bool = False
) -> Fidelity:
    """``outputs`` against those of row ``vs``: one array or ``.npy`` file for each output of the signature, (samples, ...).

    ``embeddings``: the first output is a vector for each sample, and not scores of classes: see ``embeddings.py``.
    ``top1_agreement``: the share of samples whose largest value has the same place, where the first output is (samples, at
    least 2 classes); a sample with NaN or infinity never agrees. ``sqnr_db``: 10 log10(power of the reference / power of the
    difference), of the output where it is lowest; null where the outputs are identical (it would be infinite) or the reference
    is all zero. ``max_abs_difference``: over all outputs. Both leave out the values that are not finite on either side, and
    ``nonfinite_values`` counts them. BackendFault where number or shapes of the outputs differ.
    """
    if len(outputs) != len(reference):
        raise BackendFault(f"{len(outputs)} outputs where {vs} gave {len(reference)}; the two do not run the same model")
    agreeing: int | None = None
    samples = nonfinite = 0
    largest = 0.0
    ratios: list[float] = []
    for index, (ours, theirs) in enumerate(zip(map(_opened, outputs), map(_opened, reference), strict=True)):
        if ours.shape != theirs.shape:
            raise BackendFault(f"output {index} has shape {ours.shape} where {vs} gave {theirs.shape}")
        signal = error = 0.0
        classes = index == 0 and ours.ndim == 2 and ours.shape[1] > 1 and not embeddings
        if classes:
            agreeing, samples = 0, len(ours)
        for mine, wanted in _pieces(ours, theirs):
            finite = np.isfinite(mine) & np.isfinite(wanted)
            nonfinite += finite.size - int(np.count_nonzero(finite))
            if classes:
                same = (mine.argmax(axis=1) == wanted.argmax(axis=1)) & finite.all(axis=1)
                agreeing = (agreeing or 0) + int(np.count_nonzero(same))
            apart = np.where(finite, mine, 0.0) - np.where(finite, wanted, 0.0)
            signal += float(np.sum(np.where(finite, wanted, 0.0) ** 2))
            error += float(np.sum(apart**2))
            largest = max(largest, float(np.abs(apart).max(initial=0.0)))
        if error > 0 and signal > 0:
            ratios.append(10 * math.log10(signal / error))
    first = (_opened(outputs[0]), _opened(reference[0])) if embeddings and outputs else None
    close = None if first is None or first[0].ndim != 2 else similar(*first)
    return Fidelity(
        vs=vs,
        top1_agreement=agreeing / samples if agreeing is not None and samples else None,
        sqnr_db=min(ratios, default=None),
        max_abs_difference=largest,
        nonfinite_values=nonfinite,
        cosine=None if close is None else close.cosine,
        nearest_agreement=None if close is None else close.nearest_agreement,
    )


def _opened(output: Path | Array) -> Array:
    if not isinstance(output, Path):
        return output
    opened: Array = np.load(output, mmap_mode="r", allow_pickle=False)
    return opened


def _pieces(ours: Array, theirs: Array) -> Iterator[tuple[Floats, Floats]]:
    """The same samples of both, as float64."""
    if ours.ndim == 0:
        ours, theirs = ours[None], theirs[None]
    per_sample = max(1, math.prod(ours.shape[1:]))
    step = max(1, PIECE_VALUES // per_sample)
    for start in range(0, len(ours), step):
        piece = slice(start, start + step)
        yield ours[piece].astype(np.float64), theirs[piece].astype(np.float64)
