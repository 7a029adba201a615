"""How wide each group becomes: from a ratio, or so that the network costs what was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, lcm

from torch import Tensor

from accel.compress.pruning.channel_groups import Group
from accel.errors import PassFault

Widths = dict[str, int]
Count = Callable[[Mapping[str, int]], int]

CLOSE = 0.005
"""Of the whole network's cost: near enough to what was asked; less than the 3 points that a chain is held to, and seldom
missed."""

ROUNDS = 40
"""Steps of one group that are tried at most, to come nearer than the ratio alone can."""


@dataclass(frozen=True)
class Rules:
    """``ratios``: group name to its own ratio, where it has one. Others as in ``Prune``; ``round_to`` None is 1."""

    ratios: Mapping[str, float]
    max_pruning_ratio: float = 1.0
    global_pruning: bool = False
    round_to: int | None = None


def step_of(group: Group, rules: Rules) -> int:
    """Widths of the group are multiples of this, except for the width it has."""
    return lcm(group.divisor, rules.round_to or 1)


def lowest(group: Group, rules: Rules) -> int:
    """The smallest width that the group may get: one step, and not less than ``max_pruning_ratio`` leaves."""
    step = step_of(group, rules)
    if step >= group.width:
        return group.width
    floor_width = group.positions - floor(group.positions * rules.max_pruning_ratio + 1e-9)
    least = max(1, floor_width) * group.divisor
    return min(group.width, -(-least // step) * step)


def at_ratio(groups: Sequence[Group], scores: Mapping[str, Tensor], ratio: float, rules: Rules) -> Widths:
    """The width of each group after removing ``ratio`` of its channels, or with ``global_pruning`` of all channels together.

    Rounded to the nearest multiple of ``round_to``; at least one step stays. A group narrower than one stays as it is.
    """
    drops: dict[str, int] = {}
    shared = [group for group in groups if rules.global_pruning and group.name not in rules.ratios]
    if shared:
        drops = _ranked(shared, scores, ratio, rules)
    for group in groups:
        own = min(rules.ratios.get(group.name, ratio), rules.max_pruning_ratio)
        drops.setdefault(group.name, floor(group.positions * own + 0.5))
    return {group.name: _rounded(group, group.positions - drops[group.name], rules) for group in groups}


def _rounded(group: Group, positions: int, rules: Rules) -> int:
    wanted = positions * group.divisor
    if wanted >= group.width:
        return group.width
    step = step_of(group, rules)
    nearest = floor(wanted / step + 0.5) * step
    return min(group.width, max(nearest, lowest(group, rules)))


def _ranked(groups: Sequence[Group], scores: Mapping[str, Tensor], ratio: float, rules: Rules) -> dict[str, int]:
    """How many positions each group loses where the ``ratio`` of all that matter least go."""
    ranking = sorted(
        (score, index)
        for index, group in enumerate(groups)
        for score in (scores[group.name].reshape(group.divisor, group.positions).mean(0)).tolist()
    )
    most = [group.positions - lowest(group, rules) // group.divisor for group in groups]
    left = floor(ratio * len(ranking) + 0.5)
    drops = [0] * len(groups)
    for _, index in ranking:
        if left and drops[index] < most[index]:
            drops[index] += 1
            left -= 1
    return {group.name: drop for group, drop in zip(groups, drops, strict=True)}


def at_cost(
    groups: Sequence[Group], scores: Mapping[str, Tensor], rules: Rules, count: Count, wanted: float, unit: str
) -> Widths:
    """The widths at which ``count`` comes nearest to ``wanted``.

    A ratio is looked for first; single steps of single groups then close the gap that rounding leaves. Groups with a ratio of
    their own keep it. Raises PassFault where even the lowest widths cost more, naming what they cost.
    """
    whole = count({})
    low, high = 0.0, 1.0
    least = count(at_ratio(groups, scores, 1.0, rules))
    if least > wanted + CLOSE * whole:
        raise PassFault(
            f"prune: {unit} cannot be brought to {wanted:,.0f} of {whole:,}: with the fewest channels everywhere "
            f"{least:,} ({least / whole:.1%}) remain; ask for more, free ignored_layers, or raise max_pruning_ratio"
        )
    for _ in range(30):
        middle = (low + high) / 2
        if count(at_ratio(groups, scores, middle, rules)) > wanted:
            low = middle
        else:
            high = middle
    candidates = [at_ratio(groups, scores, ratio, rules) for ratio in (low, high)]
    widths = min(candidates, key=lambda each: abs(count(each) - wanted))
    return _nearer(groups, rules, count, wanted, widths, CLOSE * whole)


def _nearer(groups: Sequence[Group], rules: Rules, count: Count, wanted: float, widths: Widths, close: float) -> Widths:
    """One group a step wider or narrower at a time, the best each time, while that helps.

    Among steps that all come close the one of the widest group is taken: it changes that group least.
    """
    free = [group for group in groups if group.name not in rules.ratios]
    gap = abs(count(widths) - wanted)
    for _ in range(ROUNDS):
        if gap <= close:
            break
        trials = []
        for group in free:
            step = step_of(group, rules)
            for width in (widths[group.name] - step, widths[group.name] + step):
                if lowest(group, rules) <= width < group.width:
                    trial = {**widths, group.name: width}
                    trials.append((max(abs(count(trial) - wanted), close), step / widths[group.name], group.name, trial))
        best = min(trials, key=lambda each: each[:3], default=None)
        if best is None or abs(count(best[3]) - wanted) >= gap:
            break
        widths = best[3]
        gap = abs(count(widths) - wanted)
    return widths
