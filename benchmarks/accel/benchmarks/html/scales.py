"""Axes: where a value is drawn, and which values are named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

LOG_BEYOND = 6.0
"""An axis that may be logarithmic is, where its largest value is more than this many times its smallest."""

_FARTHEST = 1e15
"""No axis goes beyond; what does is drawn outside the picture."""


@dataclass(frozen=True)
class Scale:
    """Values from ``low`` to ``high`` onto ``start`` to ``end`` (pixels; ``end`` may be the smaller)."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (math.log(max(each, 1e-300)) if self.log else each for each in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def held(self, value: float) -> float:
        """:meth:`at`, for a value beyond the axis at its end."""
        return self.at(min(max(value, self.low), self.high))

    def ticks(self, most: int = 6) -> list[float]:
        """Round values, at most ``most``, from low to high."""
        if self.log and (found := _log_ticks(self.low, self.high, most)):
            return found
        return _linear_ticks(self.low, self.high, most)


def fit(values: Sequence[float], start: float, end: float, *, may_be_log: bool, pad: float = 0.08) -> Scale:
    """An axis that holds all of ``values`` with room at both ends. It is logarithmic only where all are above 0."""
    low, high = (min(max(value, -_FARTHEST), _FARTHEST) for value in (min(values), max(values)))
    if may_be_log and low > 1 / _FARTHEST and high / low > LOG_BEYOND:
        room = (high / low) ** pad
        return Scale(low / room, high * room, start, end, log=True)
    room = max((high - low) * pad, max(abs(low), abs(high)) * 1e-3, 1e-8)  # equal values have an axis too
    floor = 0.0 if low >= 0 and low - room < 0 else low - room
    return Scale(floor, high + room, start, end)


def tick_text(value: float, ticks: Sequence[float]) -> str:
    """A tick with as many decimals as tell it from its neighbours: for a logarithmic axis from each other's size."""
    if value == 0:
        return "0"
    gaps = [abs(after - before) for before, after in pairwise(ticks)]
    ratio = max(abs(tick) for tick in ticks) / min(abs(tick) for tick in ticks if tick)
    step = abs(value) if ratio > 4 * len(ticks) else min(gaps, default=abs(value))
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 9:
        return f"{value:.3g}"
    if decimals < 9 and not math.isclose(round(step, decimals), step, rel_tol=1e-6):
        decimals += 1
    return f"{value:,.{decimals}f}"


def _linear_ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / max(1, most)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 of each power of ten, or fewer of them where that is too many; empty where fewer than two fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors, stride in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3)):
        found = [factor * 10.0**power for power in powers if power % stride == 0 for factor in factors]
        found = [tick for tick in found if low * 0.999 <= tick <= high * 1.001]
        if len(found) <= most + 1:
            return found if len(found) >= 2 else []
    return []
