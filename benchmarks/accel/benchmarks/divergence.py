"""Where two runs of one network stop agreeing: its layers in topological order, and the first whose values differ.

To look at a value inside a network it is made an output, and a runtime that must hand a value out does not fuse across it. So
all values are looked at together first, which finds what is wrong in a layer. Where that shows nothing and the results still
differ, a fusion is to blame: then one value at a time is looked at, with all fusions before it as they ship, by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from accel.errors import DataFault

if TYPE_CHECKING:
    from accel.contracts import Array

Observe = Callable[[Sequence[str]], Sequence["Array"]]
"""The values that the named nodes make, from one run in which these values alone are looked at."""


@dataclass(frozen=True)
class Step:
    """What one node makes, in both runs. ``sqnr_db``: 10 log10(power expected / power of the difference); None where both are
    the same (it would be infinite). ``wrong``: what is not a matter of degree (another shape, NaN), else empty.

    ``lost_db``: how much less than the worst of the nodes it reads; None where these are not known or are the same in both.
    """

    node: str
    sqnr_db: float | None
    max_abs_difference: float
    wrong: str = ""
    lost_db: float | None = None

    def below(self, limit_db: float) -> bool:
        """Whether the two disagree."""
        return bool(self.wrong) or (self.sqnr_db is not None and self.sqnr_db < limit_db)


@dataclass(frozen=True)
class Divergence:
    """``first``: None where the two agree throughout. ``fused``: seen only where fusions before it are as they ship.

    ``steps``: every node, each looked at with all others; ``result``: the last one, looked at alone.
    """

    first: Step | None
    fused: bool
    below_db: float
    steps: tuple[Step, ...]
    result: Step


def first_divergence(
    nodes: Sequence[str],
    expected: Observe,
    found: Observe,
    *,
    below_db: float,
    reads: Mapping[str, Sequence[str]] | None = None,
) -> Divergence:
    """``nodes``: in topological order, those that both have, the one that makes the result last; ``reads``: what each reads.

    Disagreement is a signal-to-noise ratio below ``below_db``. Bisection assumes that what has gone wrong stays wrong.
    DataFault for no nodes.
    """
    if not nodes:
        raise DataFault("no layer has one name in both networks, so there is nothing to compare layer by layer")
    wanted = dict(zip(nodes, expected(nodes), strict=True))
    steps: dict[str, Step] = {}
    for node, value in zip(nodes, found(nodes), strict=True):
        steps[node] = _losing(
            step(node, wanted[node], value), [steps[each] for each in (reads or {}).get(node, ()) if each in steps]
        )

    def alone(node: str) -> Step:
        return step(node, wanted[node], found([node])[0])

    result = alone(nodes[-1])
    listed = tuple(steps.values())
    together = next((each for each in listed if each.below(below_db)), None)
    if together is not None or not result.below(below_db):
        return Divergence(together, False, below_db, listed, result)
    low, high, first = 0, len(nodes) - 1, result
    while low < high:
        middle = (low + high) // 2
        seen = alone(nodes[middle])
        if seen.below(below_db):
            high, first = middle, seen
        else:
            low = middle + 1
    return Divergence(first, True, below_db, listed, result)


def step(node: str, expected: Array, found: Array) -> Step:
    """How far ``found`` is from ``expected``. Where both are NaN, or the same infinity, they agree."""
    if expected.shape != found.shape:
        return Step(node, None, math.inf, f"its shape is {list(found.shape)}, expected was {list(expected.shape)}")
    ours, theirs = found.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(ours) & np.isfinite(theirs)
    odd = ~finite & ~((ours == theirs) | (np.isnan(ours) & np.isnan(theirs)))
    apart = np.where(finite, ours, 0.0) - np.where(finite, theirs, 0.0)
    error, signal = float(np.sum(apart**2)), float(np.sum(np.where(finite, theirs, 0.0) ** 2))
    ratio = None if error == 0 else 10 * math.log10(signal / error) if signal > 0 else -math.inf
    wrong = f"{int(odd.sum())} of its {odd.size} values are NaN or infinite in one of the two only" if odd.any() else ""
    return Step(node, ratio, float(np.abs(apart).max(initial=0.0)), wrong)


def _losing(own: Step, sources: Sequence[Step]) -> Step:
    known = [each.sqnr_db for each in sources if each.sqnr_db is not None]
    if own.sqnr_db is None or not known or not all(map(math.isfinite, [own.sqnr_db, *known])):
        return own
    return Step(own.node, own.sqnr_db, own.max_abs_difference, own.wrong, min(known) - own.sqnr_db)
