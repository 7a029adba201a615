"""McNemar's test: of the samples on which two rows are not both right or both wrong, is one side favoured?"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from accel.report import McNemar


def mcnemar(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> McNemar:
    """``ours``, ``theirs``: (n,) of 0 (wrong) or 1 (right) for the same samples. ValueError where they cannot be paired."""
    if ours.shape != theirs.shape or ours.ndim != 1:
        raise ValueError(f"answers over {ours.shape} and {theirs.shape} samples cannot be paired")
    gained, lost = int(np.count_nonzero(ours > theirs)), int(np.count_nonzero(ours < theirs))
    return McNemar(gained=gained, lost=lost, p_value=p_value(gained, lost))


def p_value(gained: int, lost: int) -> float:
    """Exact, two-sided: twice P(Binomial(gained + lost, 1/2) <= the smaller of the two), at most 1; 1 without any.

    McNemar, Psychometrika 12 (1947), with the binomial distribution instead of its chi-squared approximation. Terms are added
    from the largest down, relative to it, so that no count is too large for them.
    """
    few, total = min(gained, lost), gained + lost
    if gained == lost:
        return 1.0
    log_largest = math.lgamma(total + 1) - math.lgamma(few + 1) - math.lgamma(total - few + 1) - total * math.log(2)
    term = tail = 1.0
    for count in range(few, 0, -1):
        term *= count / (total - count + 1)
        tail += term
        if term < 1e-17 * tail:
            break
    return min(1.0, 2 * math.exp(log_largest + math.log(tail)))
