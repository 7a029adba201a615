"""Which layers must stay in floating point: a search over sets of layers, each answered by a score. No model, no data here.

The layers come ranked, the most harmful first. The shortest front part of the ranking that passes is found by doubling and
halving; then layers are given back to INT8, the least harmful first and in groups, as long as the rest still passes: what is
left is the smallest set as far as keeping one more layer never makes a network worse. About ``2 log n`` candidates, and
``log n`` more for each layer kept. (NNCF's accuracy control reverts one layer after the other by rank, and gives none back.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

Kept = frozenset[str]
Stopped = Literal["timeout", "max_iterations"]


@dataclass(frozen=True)
class Trial:
    """One candidate. ``loss``: how much worse than the float model, None where it is worth nothing; ``passed``: it is within
    the budget."""

    kept: Kept
    loss: float | None
    passed: bool


@dataclass
class Budget:
    """Seconds from when it is made, and a number of candidates. ``clock`` gives seconds."""

    timeout: float
    max_iterations: int | None = None
    clock: Callable[[], float] = time.monotonic
    stopped: Stopped | None = None
    spent: int = 0
    longest_s: float = 0.0
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.began = self.clock()

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.began

    def room(self, share: float = 1.0) -> bool:
        """Whether one more candidate, as slow as the slowest so far, fits into ``share`` of the time."""
        return self.elapsed_s + self.longest_s <= share * self.timeout

    def allows(self) -> bool:
        """Whether the search may score one more candidate; ``stopped`` says why not."""
        if self.max_iterations is not None and self.spent >= self.max_iterations:
            self.stopped = "max_iterations"
        elif not self.room():
            self.stopped = "timeout"
        else:
            return True
        return False

    def timed(self, began: float) -> None:
        """A candidate was begun at ``began`` by the clock and has ended now."""
        self.longest_s = max(self.longest_s, self.clock() - began)


class _Spent(Exception):
    """Nothing more may be tried."""


def smallest(
    ranked: Sequence[str],
    loss: Callable[[Kept], float | None],
    allowed: float,
    budget: Budget,
    may: Callable[[Kept], bool] = lambda kept: True,
) -> list[Trial]:
    """What was tried, in order; the smallest set that passed is the last that did. Each set is asked for once.

    ``loss`` scores the network with these layers in floating point. ``may``: sets that are candidates at all; a front part of
    the ranking that is none ends it. Every set tried is a non-empty one.
    """
    search = _Search(loss, allowed, budget)
    most = next((count for count in range(len(ranked), 0, -1) if may(frozenset(ranked[:count]))), 0)
    try:
        count = search.front(ranked, most)
        if count is not None:
            search.give_back(ranked[:count])
    except _Spent:
        pass
    return list(search.tried.values())


class _Search:
    def __init__(self, loss: Callable[[Kept], float | None], allowed: float, budget: Budget) -> None:
        self.tried: dict[Kept, Trial] = {}
        self._loss = loss
        self._allowed = allowed
        self._budget = budget

    def front(self, ranked: Sequence[str], most: int) -> int | None:
        """The length of the shortest front part that passes; None where not even the longest does."""
        if not most:
            return None
        fails, passes = 0, 1
        while not self.passed(ranked[:passes]):
            if passes == most:
                return None
            fails, passes = passes, min(2 * passes, most)
        while passes - fails > 1:
            middle = (fails + passes) // 2
            if self.passed(ranked[:middle]):
                passes = middle
            else:
                fails = middle
        return passes

    def give_back(self, front: Sequence[str]) -> None:
        """The last of ``front`` stays: without it nothing passed. Of the others, what need not stay goes back to INT8."""
        kept = set(front)

        def without(group: Sequence[str]) -> None:
            if not group:
                return
            if self.passed(kept.difference(group)):
                kept.difference_update(group)
            elif len(group) > 1:
                half = len(group) // 2
                without(group[:half])
                without(group[half:])

        without(front[-2::-1])

    def passed(self, layers: Sequence[str] | set[str]) -> bool:
        kept = frozenset(layers)
        if kept not in self.tried:
            if not self._budget.allows():
                raise _Spent
            began = self._budget.clock()
            found = self._loss(kept)
            self._budget.timed(began)
            self._budget.spent += 1
            self.tried[kept] = Trial(kept, found, within(found, self._allowed))
        return self.tried[kept].passed


def within(loss: float | None, allowed: float) -> bool:
    """Whether a loss is within the budget: 0.01 is, where 0.01 is allowed, whatever binary fractions make of it."""
    return loss is not None and loss <= allowed + 1e-9 * max(1.0, abs(allowed))


def best_effort(tried: Sequence[Trial]) -> Trial | None:
    """Of what did not pass, the candidate that lost least, and of equals the one with most in INT8; None where none runs."""
    worth = [trial for trial in tried if trial.loss is not None]
    return min(worth, key=lambda trial: (trial.loss, len(trial.kept)), default=None)
