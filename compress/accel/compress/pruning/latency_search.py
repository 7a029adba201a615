"""Which group of channels gets how narrow, so that a network is fast enough and loses least: a knapsack over measured widths.

As in HALP (Shen et al. 2022, "Structural pruning via latency-saliency knapsack"): each group's savings are taken to add up.
Plain numbers, no tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, log


@dataclass(frozen=True)
class Choice:
    """One group. ``widths``: ascending, the last is the whole group's.

    ``saved_ms``: what the network saves at each, never growing with the width, 0 at the last. ``kept``: the part of the group's
    importance that stays, in (0, 1], 1 at the last.
    """

    name: str
    widths: tuple[int, ...]
    saved_ms: tuple[float, ...]
    kept: tuple[float, ...]

    def lost(self, index: int) -> float:
        """What the network loses at this width: the square of the logarithm of what the group keeps.

        The square, because a trained network is at a minimum, so that harm starts flat and grows as a parabola does (LeCun et
        al. 1990, "Optimal brain damage"): the first quarter of a layer costs next to nothing, the second much more. With a
        price that grows evenly, few groups would go to their narrowest where all of them could lose a little.
        """
        return log(self.kept[index]) ** 2 if self.kept[index] > 0 else inf


def isotonic(values: Sequence[float]) -> list[float]:
    """The non-decreasing sequence with the least squared distance from ``values`` (pool adjacent violators, Barlow 1972)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        total, count = value, 1
        while pools and pools[-1][0] / pools[-1][1] > total / count:
            before, size = pools.pop()
            total, count = total + before, count + size
        pools.append((total, count))
    return [total / count for total, count in pools for _ in range(count)]


def savings(latencies_ms: Sequence[float], whole_ms: float, noise_ms: float) -> tuple[float, ...]:
    """What is saved at each width, ascending and without the whole one, which is added: 0.

    A network is taken to get no slower as it gets narrower, and what is within ``noise_ms`` saves nothing.
    """
    smooth = isotonic([min(latency, whole_ms) for latency in latencies_ms])
    return (*(whole_ms - latency if whole_ms - latency > noise_ms else 0.0 for latency in smooth), 0.0)


def most_saved_ms(choices: Sequence[Choice]) -> float:
    """What the narrowest of everything saves, by the table."""
    return sum(max(choice.saved_ms) for choice in choices)


def choose(choices: Sequence[Choice], needed_ms: float) -> dict[str, int] | None:
    """Group name to width, for groups that get narrower: saves at least ``needed_ms`` by the table; None if nothing does.

    From the whole network on, always the step (any group, any smaller width) that saves most for what it loses; at the end,
    widths that were not needed are given back. A step that saves nothing is never taken.
    """
    if needed_ms > most_saved_ms(choices) * (1 + 1e-9):
        return None
    at = {choice.name: len(choice.widths) - 1 for choice in choices}
    saved = 0.0
    while saved < needed_ms * (1 - 1e-9):
        best: tuple[float, float, Choice, int] | None = None
        for choice in choices:
            here = at[choice.name]
            for index in range(here):
                gained = choice.saved_ms[index] - choice.saved_ms[here]
                if gained <= 0:
                    continue
                lost = choice.lost(index) - choice.lost(here)
                worth = gained / lost if lost > 0 else inf
                if best is None or (worth, gained) > best[:2]:
                    best = worth, gained, choice, index
        if best is None:
            return None
        saved += best[1]
        at[best[2].name] = best[3]
    _give_back_(at, choices, saved - needed_ms)
    return {choice.name: choice.widths[at[choice.name]] for choice in choices if at[choice.name] < len(choice.widths) - 1}


def _give_back_(at: dict[str, int], choices: Sequence[Choice], spare_ms: float) -> None:
    """Widen groups as far as ``spare_ms`` goes, always what regains most importance. In place."""
    while True:
        best: tuple[float, float, str, int] | None = None
        for choice in choices:
            here = at[choice.name]
            for index in range(here + 1, len(choice.widths)):
                price = choice.saved_ms[here] - choice.saved_ms[index]
                regained = choice.lost(here) - choice.lost(index)
                if price <= spare_ms and regained > 0 and (best is None or regained > best[0]):
                    best = regained, price, choice.name, index
        if best is None:
            return
        spare_ms -= best[1]
        at[best[2]] = best[3]


def predicted_saving_ms(choices: Sequence[Choice], widths: Mapping[str, int]) -> float:
    """By the table, for these widths; groups not named are whole."""
    return sum(choice.saved_ms[choice.widths.index(widths.get(choice.name, choice.widths[-1]))] for choice in choices)


def widths_between(least: int, width: int, step: int, count: int) -> tuple[int, ...]:
    """``width``, and at most ``count`` widths from ``least`` on, which is a multiple of ``step`` as all are. Ascending.

    Where there are too many, those of twice the step, four times and so on: kernels work through channels in powers of two, so
    what fills a register is measured, and a width beside it is not.
    """
    options = range(least, width, step)
    if len(options) <= count:
        return (*options, width)
    while len(options) >= count:  # one place is the least's
        step *= 2
        options = range(-(-(least + 1) // step) * step, width, step)
    return (least, *options, width)
