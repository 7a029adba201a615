"""Student's t for whole degrees of freedom: without scipy, which is no dependency of ours."""

from __future__ import annotations

from functools import cache
from math import cos, pi, sin, sqrt, tan
from statistics import NormalDist

MANY = 1000
"""Degrees of freedom from which on the quantile is a series: the exact sum has half as many terms."""


@cache
def quantile(confidence: float, freedom: int) -> float:
    """The t with P(|T| <= t) = ``confidence``, in (0, 1): exact below ``MANY`` degrees, to eight digits at 95 % above."""
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence lies between 0 and 1, found {confidence}")
    if freedom < 1:
        raise ValueError("Student's t needs at least one degree of freedom")
    if freedom > MANY:  # Abramowitz and Stegun 26.7.5
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    low, high = 0.0, pi / 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within_angle(middle, freedom) < confidence else (low, middle)
    return sqrt(freedom) * tan(low)


def _within_angle(angle: float, freedom: int) -> float:
    """P(|T| <= t) for t >= 0 (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4). ``angle``: arc tangent of t over the root of
    ``freedom``."""
    odd = freedom % 2
    term = cos(angle) if odd else 1.0
    total = 0.0
    for step in range(2 + odd, freedom + 1, 2):
        total += term
        term *= (step - 1) / step * cos(angle) ** 2
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total
