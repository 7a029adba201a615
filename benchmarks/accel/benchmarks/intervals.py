"""Intervals of shares, and of what two figures with intervals give together. Light: no numpy."""

from __future__ import annotations

import math

from accel.report import Estimate

Z = 1.959963984540054  # two-sided 95 % of the normal distribution


def wilson(share: float, n: int, z: float = Z) -> tuple[float, float]:
    """The 95 % score interval of a share in [0, 1] seen in ``n`` samples (Wilson, JASA 22, 1927). (0, 1) for no samples."""
    if n < 1:
        return 0.0, 1.0
    share = min(1.0, max(0.0, share))
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    low = 0.0 if share == 0 else (centre - half) / whole
    high = 1.0 if share == 1 else (centre + half) / whole
    return min(low, share), max(high, share)


def newcombe(head: float, head_n: int, base: float, base_n: int) -> Estimate:
    """``head - base``, two shares of samples that are not paired: Newcombe's hybrid score interval (Statistics in Medicine 17,
    1998, method 10). For samples that are the same in both it is wider than it need be."""
    head_low, head_high = wilson(head, head_n)
    base_low, base_high = wilson(base, base_n)
    return minus(Estimate(value=head, low=head_low, high=head_high), Estimate(value=base, low=base_low, high=base_high))


def minus(first: Estimate, second: Estimate) -> Estimate:
    """``first - second`` of two independent estimates, bounds by the method of variance estimates recovery (Zou and Donner,
    Statistics in Medicine 27, 2008); no bounds where one of the two has none."""
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value=value)
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value=value, low=value - down, high=value + up)


def over(first: Estimate, second: Estimate) -> Estimate:
    """``first / second`` of two independent positive estimates: :func:`minus` of their logarithms."""
    return exponential(minus(logarithm(first), logarithm(second)))


def logarithm(found: Estimate) -> Estimate:
    """ValueError for values that are not positive; a bound that is not positive is unknown."""
    low = None if found.low is None or found.low <= 0 else math.log(found.low)
    high = None if found.high is None or found.high <= 0 else math.log(found.high)
    return Estimate(value=math.log(found.value), low=low, high=high)


def exponential(found: Estimate) -> Estimate:
    low = None if found.low is None else math.exp(found.low)
    high = None if found.high is None else math.exp(min(found.high, 700.0))
    return Estimate(value=math.exp(found.value), low=low, high=high)


def scaled(found: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    """``factor * found + offset``; a negative factor turns the bounds."""

    def moved(bound: float | None) -> float | None:
        return None if bound is None else factor * bound + offset

    low, high = moved(found.low), moved(found.high)
    if factor < 0:
        low, high = high, low
    return Estimate(value=factor * found.value + offset, low=low, high=high)


def inverse(found: Estimate) -> Estimate:
    """``1 / found`` of a positive estimate; a bound of 0 leaves the other side unknown."""
    low = None if not found.high else 1 / found.high
    high = None if not found.low else 1 / found.low
    return Estimate(value=1 / found.value, low=low, high=high)
