"""Channels that can only be removed together, and the edit that removes them.

Everything is in the index space of the module as it is: a group says, for each dimension of each tensor, which of its channels
an index belongs to. The edit for any choice of channels, in any number of groups at once, follows without touching a module.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor, nn

from accel.model import KeepChannels

NOT_OURS = -1
"""In ``channels``: this index belongs to no channel of the group, and stays."""


@dataclass(frozen=True)
class Member:
    """Dimension ``dim`` of the parameter or buffer ``tensor``: ``channels[i]`` is the group's channel that index i belongs to.

    ``role``: ``out`` the weight of a layer that makes the channels, ``in`` of one that reads them, ``scale`` the weight of a
    batch norm, ``norm`` of another normalization, ``other`` what follows without a say in importance (biases, statistics).
    """

    tensor: str
    dim: int
    channels: tuple[int, ...]
    role: Literal["out", "in", "scale", "norm", "other"]


@dataclass(frozen=True)
class Count:
    """The integer attribute ``attribute`` of the module at ``path`` counts these channels (as in :class:`Member`)."""

    path: str
    attribute: str
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """Coupled channels. ``name``: module path of the first layer that makes them. ``layers``: all layers that do;
    ``readers``: those whose inputs shrink with them. ``width``: how many there are.

    ``divisor``: they lie in this many equal blocks (groups of a convolution, attention heads), and the same positions of each
    block stay: a new width is a multiple of it. ``width // divisor`` positions can be chosen among.
    """

    name: str
    layers: tuple[str, ...]
    readers: tuple[str, ...]
    width: int
    divisor: int
    members: tuple[Member, ...]
    counts: tuple[Count, ...]

    @property
    def positions(self) -> int:
        return self.width // self.divisor

    def channels_at(self, positions: Iterable[int]) -> frozenset[int]:
        """The channels at these positions of every block."""
        return frozenset(position + block * self.positions for position in positions for block in range(self.divisor))


class Found(NamedTuple):
    """``groups``: all that may be cut, in the order of the module. ``notes``: what is left alone, and why."""

    groups: tuple[Group, ...]
    notes: tuple[str, ...]


class Narrowed(NamedTuple):
    """``module``: a copy whose last edit is ``edit``. ``notes``: old and new width of each group that shrank."""

    module: nn.Module
    edit: KeepChannels
    notes: tuple[str, ...]


def best_positions(group: Group, width: int, scores: Tensor) -> tuple[int, ...]:
    """The ``width // divisor`` positions with the highest ``scores`` (width,), summed over blocks, ascending; ties keep the
    first.

    Raises ValueError for a width that the group cannot have.
    """
    if width % group.divisor or not 0 < width <= group.width:
        raise ValueError(
            f"{group.name}: a multiple of {group.divisor} from {group.divisor} to {group.width} expected, not {width}"
        )
    each = scores.detach().double().cpu().reshape(group.divisor, group.positions).sum(0).tolist()
    ranked = sorted(range(group.positions), key=lambda position: (-each[position], position))
    return tuple(sorted(ranked[: width // group.divisor]))


def edit_of(groups: Sequence[Group], dropped: Mapping[str, frozenset[int]]) -> KeepChannels:
    """The edit that removes the channels ``dropped`` (group name to channels; groups not named stay whole)."""
    gone: dict[tuple[str, int], set[int]] = defaultdict(set)
    sizes: dict[tuple[str, int], int] = {}
    numbers: dict[tuple[str, str], set[int]] = defaultdict(set)
    totals: dict[tuple[str, str], int] = {}
    for group in groups:
        removed = dropped.get(group.name, frozenset())
        if not removed:
            continue
        for member in group.members:
            place = member.tensor, member.dim
            gone[place].update(index for index, channel in enumerate(member.channels) if channel in removed)
            sizes[place] = len(member.channels)
        for count in group.counts:
            at = count.path, count.attribute
            numbers[at].update(index for index, channel in enumerate(count.channels) if channel in removed)
            totals[at] = len(count.channels)
    kept: dict[str, dict[int, tuple[int, ...]]] = defaultdict(dict)
    for (tensor, dim), indices in gone.items():
        kept[tensor][dim] = tuple(index for index in range(sizes[tensor, dim]) if index not in indices)
    attributes: dict[str, dict[str, int]] = defaultdict(dict)
    for (path, attribute), indices in numbers.items():
        attributes[path][attribute] = totals[path, attribute] - len(indices)
    return KeepChannels(kept=dict(kept), attributes=dict(attributes))


def edit_for(groups: Sequence[Group], widths: Mapping[str, int], scores: Mapping[str, Tensor]) -> KeepChannels:
    """The edit that leaves each group in ``widths`` its best channels by ``scores`` (group name to (width,))."""
    dropped: dict[str, frozenset[int]] = {}
    for group in groups:
        width = widths.get(group.name, group.width)
        if width != group.width:
            stay = best_positions(group, width, scores[group.name])
            dropped[group.name] = frozenset(range(group.width)) - group.channels_at(stay)
    return edit_of(groups, dropped)


def width_notes(groups: Sequence[Group], widths: Mapping[str, int]) -> tuple[str, ...]:
    """``layer1.0.conv1: 16 -> 8 channels`` for each group that shrinks; how many more layers make the same channels."""
    notes = []
    for group in groups:
        width = widths.get(group.name, group.width)
        if width != group.width:
            others = f" (and {', '.join(group.layers[1:])})" if len(group.layers) > 1 else ""
            notes.append(f"{group.name}{others}: {group.width} -> {width} channels")
    return tuple(notes)
