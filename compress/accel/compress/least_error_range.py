"""The range of an activation whose rounding errs least: a function of a histogram."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
CUTS = np.linspace(1.0, 0.2, 81)
"""Shares of each side of the range seen that are tried."""


def least_error_range(
    counts: NDArray[Any], edges: NDArray[Any], low: float, high: float, symmetric: bool = False
) -> tuple[float, float]:
    """Where to cut ``low`` to ``high``, the values seen, so that rounding to LEVELS and cutting err least in the mean square.

    ``counts`` (bins,), ``edges`` (bins + 1,). Zero is always inside. Both sides are cut in turn, not by one share, unless
    ``symmetric``. The whole range where the histogram is empty or no wider than a point.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    centers = ((edges[1:] + edges[:-1]) / 2).astype(np.float64)
    weights = counts.astype(np.float64)
    inside = weights > 0
    centers, weights = np.clip(centers[inside], low, high), weights[inside]
    if not weights.size or high <= low:
        return low, high

    def error(lower: float, upper: float) -> float:
        step = (upper - lower) / (LEVELS - 1)
        if step <= 0:
            return float("inf")
        zero = np.rint(-lower / step)
        rounded = (np.clip(np.rint(centers / step) + zero, 0, LEVELS - 1) - zero) * step
        return float(weights @ (rounded - centers) ** 2)

    if symmetric:
        reach = max(-low, high)
        best = min(CUTS, key=lambda cut: error(-reach * cut, reach * cut))
        return -reach * float(best), reach * float(best)
    lower, upper = low, high
    for _ in range(2):
        upper = high * float(min(CUTS, key=lambda cut: error(lower, high * cut)))
        lower = low * float(min(CUTS, key=lambda cut: error(low * cut, upper)))
    return lower, upper
