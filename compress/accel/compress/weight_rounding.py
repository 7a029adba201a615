"""Matrices to integers in groups along their inputs: to the nearest, or so that a layer's output changes least.

A matrix is (inputs, outputs), as MatMul has it. Groups of ``size`` inputs of one output share a scale, and a zero point unless
they are symmetric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

CUTS = np.linspace(1.0, 0.6, 17)
"""Shares of a group's range that are tried: values beyond are cut off, and the others get a finer grid."""

_BLOCK = 128  # inputs whose errors are handed on together: the sums over the rest are then matrix products
_LEAST = float(np.finfo(np.float32).tiny)  # a smaller scale divides into infinity
_DAMPING = 0.01  # of the mean of the diagonal, as Frantar et al. have it


@dataclass(frozen=True)
class Grouped:
    """``integers`` (groups * size, outputs) in [0, 2**bits), filled up with the zero point; ``scales`` and ``zeros`` (groups,
    outputs). A weight is ``(integer - zero) * scale``. Symmetric: every zero is half of 2**bits. ``algorithm`` made them, or
    a library did."""

    integers: NDArray[np.uint8]
    scales: Floats
    zeros: NDArray[np.uint8]
    size: int
    algorithm: Literal["rtn", "gptq", "library"]

    def restored(self, inputs: int) -> Floats:
        """(inputs, outputs) as the runtime sees them."""
        scales, zeros = np.repeat(self.scales, self.size, axis=0), np.repeat(self.zeros, self.size, axis=0)
        found = (self.integers.astype(np.float32) - zeros) * scales
        return np.asarray(found[:inputs], np.float32)


def to_nearest(weights: Floats, size: int, bits: int, symmetric: bool, importance: Doubles | None = None) -> Grouped:
    """Each weight to the nearest step of its group's grid, whose range is cut where that lowers the sum of squared errors.

    ``importance``: (inputs,), how much the errors of an input count; alike where it is None.
    """
    padded = _padded(weights, size)
    scales, zeros = _grids(padded, size, bits, symmetric, importance)
    levels = 2**bits - 1
    wide_scales, wide_zeros = (np.repeat(each, size, axis=0) for each in (scales, zeros))
    integers = np.clip(np.rint(padded / wide_scales) + wide_zeros, 0, levels)
    return Grouped(_filled(integers, wide_zeros, len(weights)), scales, zeros.astype(np.uint8), size, "rtn")


def by_gptq(weights: Floats, products: Doubles, size: int, bits: int, symmetric: bool) -> Grouped:
    """GPTQ (Frantar et al., ICLR 2023): inputs are rounded one after the other, those with most energy first, and what each
    loses is made up for by those still to come. Grids are those of :func:`to_nearest`, found before.

    ``products``: (inputs, inputs), the sum of x xT over what the layer reads. An input that is always zero is rounded last.
    """
    count = len(weights)
    energy = np.diag(products).copy()
    padded = _padded(weights, size)
    scales, zeros = _grids(padded, size, bits, symmetric, energy)
    order = np.argsort(-energy, kind="stable")
    left = weights.astype(np.float64)[order]
    upper = _inverse_factor(products[np.ix_(order, order)])
    groups = order // size
    levels = 2**bits - 1
    integers = np.zeros((len(padded), weights.shape[1]))
    for first in range(0, count, _BLOCK):
        last = min(first + _BLOCK, count)
        errors = np.zeros((last - first, weights.shape[1]))
        for row in range(first, last):
            scale, zero = scales[groups[row]].astype(np.float64), zeros[groups[row]]
            steps = np.clip(np.rint(left[row] / scale) + zero, 0, levels)
            integers[order[row]] = steps
            error = (left[row] - (steps - zero) * scale) / upper[row, row]
            left[row + 1 : last] -= np.outer(upper[row, row + 1 : last], error)
            errors[row - first] = error
        left[last:] -= upper[first:last, last:].T @ errors
    wide_zeros = np.repeat(zeros, size, axis=0)
    return Grouped(_filled(integers, wide_zeros, count), scales, zeros.astype(np.uint8), size, "gptq")


def _inverse_factor(products: Doubles) -> Doubles:
    """The upper triangular U with UT U = the inverse of the damped ``products``."""
    damped = products.astype(np.float64)
    mean = float(np.mean(np.diag(damped))) or 1.0
    damped[np.diag_indices_from(damped)] += _DAMPING * mean
    inverse = np.linalg.inv(damped)
    return np.asarray(np.linalg.cholesky((inverse + inverse.T) / 2).T)


def _padded(weights: Floats, size: int) -> Floats:
    """A multiple of ``size`` inputs: zeros are added."""
    return np.pad(weights.astype(np.float32), ((0, -len(weights) % size), (0, 0)))


def _filled(integers: Doubles | Floats, zeros: NDArray[np.float32], count: int) -> NDArray[np.uint8]:
    """What was added stands for zero."""
    found = integers.copy()
    found[count:] = zeros[count:]
    return np.asarray(found, np.uint8)


def _grids(padded: Floats, size: int, bits: int, symmetric: bool, importance: Doubles | None) -> tuple[Floats, Floats]:
    """Scales and zero points (groups, outputs) with the least weighted squared error among CUTS."""
    groups = padded.reshape(-1, size, padded.shape[1])
    weight = np.ones(len(padded)) if importance is None else np.pad(importance, (0, len(padded) - len(importance)))
    weight = weight.reshape(-1, size, 1).astype(np.float32)
    best = np.full((len(groups), padded.shape[1]), np.inf, np.float32)
    scales, zeros = np.ones_like(best), np.zeros_like(best)
    for cut in CUTS:
        scale, zero = _grid(groups, float(cut), bits, symmetric)
        steps = np.clip(np.rint(groups / scale[:, None]) + zero[:, None], 0, 2**bits - 1)
        error = (((steps - zero[:, None]) * scale[:, None] - groups) ** 2 * weight).sum(axis=1)
        better = error < best
        best, scales, zeros = np.where(better, error, best), np.where(better, scale, scales), np.where(better, zero, zeros)
    return scales.astype(np.float32), zeros.astype(np.float32)


def _grid(groups: Floats, cut: float, bits: int, symmetric: bool) -> tuple[Floats, Floats]:
    """For the share ``cut`` of each group's range. Zero is always a step of it."""
    low, high = np.minimum(groups.min(axis=1), 0) * cut, np.maximum(groups.max(axis=1), 0) * cut
    if symmetric:  # the side that reaches further gets the step that the other lacks: scales may be negative
        half = 2 ** (bits - 1)
        furthest = np.where(high > -low, high, low)
        scale = -furthest / half
        scale = np.where(np.abs(scale) < _LEAST, 1.0, scale).astype(np.float32)
        return scale, np.full_like(scale, half, np.float32)
    scale = (high - low) / (2**bits - 1)
    scale = np.where(scale < _LEAST, 1.0, scale).astype(np.float32)
    return scale, np.clip(np.rint(-low / scale), 0, 2**bits - 1).astype(np.float32)
