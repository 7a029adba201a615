"""When a figure is not to be relied on: a sentence with what was seen, in place of a number that would be believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from accel.report import Estimate

Floats = NDArray[np.float64]

WIDEST_LATENCY = 0.20
"""The interval of a median over restarts: what the machine does to every row alike is in it, and cancels in ratios."""

WIDEST_RATIO = 0.10
WIDEST_TURNS = 0.50
"""The middle half of all turns, relative to their median: beyond it a median is of two different machines."""

RESOLUTION_MS = 1e-6
STOOD_STILL = "the clock stood still or went backwards: no query took any time"
WAY_OUT = "some figures are unstable: measure where nothing else runs, or give it more time (benchmark.max_duration_s)"
"""Said once for a whole report, not with each reason."""


def width(found: Estimate) -> float | None:
    """How far apart the ends of the interval are, relative to its lower one: 0.03 is 3 %. None without an interval."""
    if found.low is None or found.high is None or found.low <= 0:
        return None
    return found.high / found.low - 1


def stood_still(turns_ms: Floats) -> bool:
    """Whether half of the turns or more took no time at all."""
    return float(np.median(turns_ms)) <= RESOLUTION_MS


def of_latency(p50_ms: Estimate, turns_ms: Floats) -> str | None:
    """Why the median latency of a row is not to be relied on; None where it is. ``turns_ms``: (restarts, rounds), medians."""
    if p50_ms.value <= RESOLUTION_MS:
        return STOOD_STILL
    wide = width(p50_ms)
    if wide is not None and wide > WIDEST_LATENCY:
        return f"between {p50_ms.low:.4g} and {p50_ms.high:.4g} ms, {_percent(wide)} apart, after {turns_ms.shape[0]} restarts"
    low, middle, high = (float(each) for each in np.quantile(turns_ms, (0.25, 0.5, 0.75)))
    low = max(low, RESOLUTION_MS)
    if high - low > WIDEST_TURNS * middle:
        return (
            f"half of its {turns_ms.size} turns had a median below {low:.4g} or above {high:.4g} ms,"
            f" {_percent(high / low - 1)} apart"
        )
    return None


def of_ratio(found: Estimate, restarts: int) -> str | None:
    """Why a ratio is not to be relied on; None where it is. Restarts were added for as long as there was time."""
    wide = width(found)
    if wide is None or wide <= WIDEST_RATIO:
        return None
    return f"between {found.low:.3g}x and {found.high:.3g}x, {_percent(wide)} apart, after {restarts} restarts"


def quantiles(samples: Floats) -> list[float]:
    """0, 1, ... 100 % of ``samples``, in their unit, to six digits: for a picture."""
    return [float(f"{value:.6g}") for value in np.quantile(samples, np.linspace(0, 1, 101))]


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share < 100 else "more than a hundred times"
