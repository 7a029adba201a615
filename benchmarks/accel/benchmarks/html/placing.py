"""Where the names of a chart's marks go: beside them, not over each other. Greedy, over eight places in three distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CHARACTER = 7.0
"""Width in pixels of a character of the chart's 11.5 pixel text: as wide as the widest of the common system fonts."""

HEIGHT = 14.0
_PLACES = ((1, 0), (-1, 0), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1))
_MARK = 8.0


@dataclass(frozen=True)
class Box:
    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """Square pixels that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


@dataclass(frozen=True)
class Label:
    """``x``, ``y``: the middle of the text's left edge. ``leader``: whether it is so far off that a line should lead to it."""

    text: str
    x: float
    y: float
    leader: bool


def place(marks: Sequence[tuple[float, float, str, str]], area: Box, avoid: Sequence[Box] = ()) -> list[Label]:
    """A label for each ``(x, y, text, short text)``, the first ones first: the short text where the long finds no room.

    ``avoid``: what labels should not cover, besides marks and each other.
    """
    dots = [Box(x - _MARK, y - _MARK, x + _MARK, y + _MARK) for x, y, _, _ in marks]
    taken: list[Box] = []
    labels = []
    for x, y, long, brief in marks:
        cost, label, box = min(_candidates(x, y, long, area, dots, taken, avoid), key=lambda found: found[0])
        if cost > HEIGHT * CHARACTER:  # about one character is covered
            cost, label, box = min(_candidates(x, y, brief, area, dots, taken, avoid), key=lambda found: found[0])
        taken.append(box)
        labels.append(label)
    return labels


def _candidates(
    x: float, y: float, text: str, area: Box, dots: Sequence[Box], taken: Sequence[Box], avoid: Sequence[Box]
) -> list[tuple[float, Label, Box]]:
    width = len(text) * CHARACTER
    found = []
    for far, reach in enumerate((13.0, 25.0, 40.0)):
        for order, (right, down) in enumerate(_PLACES):
            left = x + right * reach if right > 0 else x - width - reach if right < 0 else x - width / 2
            middle = y + down * (reach + 4)
            box = Box(left, middle - HEIGHT / 2, left + width, middle + HEIGHT / 2)
            outside = width * HEIGHT - box.overlap(area)
            cost = 2 * sum(map(box.overlap, taken)) + sum(map(box.overlap, dots)) + 4 * outside
            cost += 0.3 * sum(map(box.overlap, avoid)) + 1.5 * order + 25 * far
            found.append((cost, Label(text, left, middle, leader=far > 0), box))
    return found
