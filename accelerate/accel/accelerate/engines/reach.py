"""Where a path through a network's layers leads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence


def reached(start: Iterable[int], along: Sequence[Collection[int]]) -> set[int]:
    """Every layer that ``start`` leads to, itself only where another of them leads to it. ``along``: layer to the next ones."""
    found: set[int] = set()
    pending = list(start)
    while pending:
        for place in along[pending.pop()]:
            if place not in found:
                found.add(place)
                pending.append(place)
    return found
