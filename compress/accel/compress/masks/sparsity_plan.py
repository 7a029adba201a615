"""How much is zeroed, and when: the settings that the pass ``sparsify`` and ``Sparsifier`` share, checked in one place."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

Schedule = Literal["one_shot", "cubic"]

UNSTRUCTURED = "unstructured"
BEGIN, END, UPDATE_EVERY = 0.0, 0.75, 10
"""Of a cubic schedule where nothing is said: the last quarter of the training is left for the survivors to settle."""


@dataclass(frozen=True)
class Plan:
    """Checked settings. ``kept``: (n, m) of an n:m pattern, n of every m weights may stay; None for an unstructured one.

    ``sparsity``: the fraction of zeros at the end, in each layer, or over all of them with ``global_pruning``.
    """

    pattern: str
    kept: tuple[int, int] | None
    sparsity: float
    global_pruning: bool
    schedule: Schedule
    begin: float
    end: float
    update_every: int

    def first(self, total: int) -> int:
        """The step, counted from 1, after which the first weights go."""
        return max(1, round(self.begin * total)) if self.schedule == "cubic" else 1

    def last(self, total: int) -> int:
        """The step after which the sparsity is final."""
        return max(self.first(total), round(self.end * total)) if self.schedule == "cubic" else 1

    def due(self, step: int, total: int) -> bool:
        """Whether the masks are drawn anew after ``step`` of ``total``."""
        first, last = self.first(total), self.last(total)
        return first <= step <= last and (step == last or (step - first) % self.update_every == 0)

    def sparsity_at(self, step: int, total: int) -> float:
        """The fraction of zeros after ``step`` of ``total``: s_f (1 - (1 - u)^3), u from 0 at ``begin`` to 1 at ``end``.

        Zhu and Gupta, "To prune, or not to prune" (arXiv 1710.01878), equation 1, with an initial sparsity of 0.
        """
        if self.schedule == "one_shot":
            return self.sparsity
        begin, end = self.begin * total, self.last(total)
        if step >= end:
            return self.sparsity
        done = max(0.0, (step - begin) / (end - begin))
        return self.sparsity * (1 - (1 - done) ** 3)


def plan(
    *,
    pattern: str = UNSTRUCTURED,
    sparsity: float | None = None,
    global_pruning: bool = False,
    schedule: Schedule = "one_shot",
    begin: float | None = None,
    end: float | None = None,
    update_every: int | None = None,
) -> Plan:
    """Check the settings against each other. Raises ValueError with what is wrong and what would do."""
    kept = pattern_of(pattern)
    if sparsity is not None and not 0 < sparsity < 1:  # false for NaN too
        raise ValueError(f"sparsity: {sparsity} is not a fraction between 0 and 1, both excluded")
    if kept is not None:
        fixed = 1 - kept[0] / kept[1]
        if sparsity is not None and not math.isclose(sparsity, fixed, abs_tol=1e-6):
            raise ValueError(
                f"sparsity: the pattern {pattern} makes {fixed:g} of the weights zero, not {sparsity:g}; leave it out"
            )
        if global_pruning:
            raise ValueError(
                f"global_pruning: the pattern {pattern} holds in every layer; leave it out, or pattern: {UNSTRUCTURED}"
            )
        sparsity = fixed
    timing = {"begin": begin, "end": end, "update_every": update_every}
    given = [name for name, value in timing.items() if value is not None]
    if schedule == "one_shot" and given:
        raise ValueError(f"{', '.join(given)}: only schedule: cubic takes time; leave it out, or set schedule: cubic")
    begin, end = BEGIN if begin is None else begin, END if end is None else end
    if not 0 <= begin < end <= 1:
        raise ValueError(f"begin, end: {begin} and {end} are not fractions of the training with 0 <= begin < end <= 1")
    every = UPDATE_EVERY if update_every is None else update_every
    if every < 1:
        raise ValueError(f"update_every: {every} steps; 1 or more")
    return Plan(pattern, kept, 0.5 if sparsity is None else sparsity, global_pruning, schedule, begin, end, every)


def pattern_of(text: str) -> tuple[int, int] | None:
    """(n, m) of ``"n:m"``, None for ``unstructured``. Raises ValueError for anything else."""
    if text == UNSTRUCTURED:
        return None
    found = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", text)
    if found is None or not 0 < int(found[1]) < int(found[2]):
        raise ValueError(f"pattern: {text!r} is neither {UNSTRUCTURED!r} nor n:m with 0 < n < m, such as '2:4'")
    return int(found[1]), int(found[2])
