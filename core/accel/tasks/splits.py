"""Which samples of which source each split has. Light: the standard library only.

Shuffling sorts by a hash of seed and index rather than by a generator: the order is the same on every machine and version.

``selection`` (what choices are made on) is its own source where one is given; else a seeded tenth of ``training``, which then
has the other nine; else, where ``hold_selection`` asks for it, a seeded half of ``calibration``, which keeps the other
half (the larger one of an odd number).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from accel.contracts import Split
from accel.errors import UsageError
from accel.tasks.settings import DataSettings, DataSource

SPLITS: tuple[Split, ...] = ("training", "calibration", "selection", "validation")

Role = Literal["all", "tenth", "all but a tenth", "half", "all but a half"]


@dataclass(frozen=True)
class Part:
    """A source, the split that declares it, and which share of its samples is meant."""

    source: DataSource
    declared: Split
    role: Role


def part(data: DataSettings, split: Split, hold_selection: bool) -> Part | None:
    """What ``split`` consists of; None where there is nothing for it."""
    own: DataSource | None = getattr(data, split)
    if split == "selection" and own is None:
        if data.training is not None:
            return Part(data.training, "training", "tenth")
        if data.calibration is not None and hold_selection:
            return Part(data.calibration, "calibration", "half")
        return None
    if own is None:
        return None
    gives = data.selection is None
    if split == "training" and gives:
        return Part(own, split, "all but a tenth")
    if split == "calibration" and gives and data.training is None and hold_selection:
        return Part(own, split, "all but a half")
    return Part(own, split, "all")


def require_part(data: DataSettings, split: Split, hold_selection: bool) -> Part:
    """As ``part``; UsageError where there is nothing."""
    found = part(data, split, hold_selection)
    if found is None:
        hint = "data.selection or data.training" if split == "selection" else f"data.{split}"
        raise UsageError(f"data.{split}: the recipe declares none; give {hint}")
    return found


def order(count: int, source: DataSource) -> list[int]:
    """The indices that ``source`` means, of ``count`` samples: shuffled, then ``skip`` passed over, then ``num_samples``."""
    indices = list(range(count))
    if source.shuffle is not None:
        indices = _shuffled(indices, f"shuffle {source.shuffle}")
    end = None if source.num_samples is None else source.skip + source.num_samples
    return indices[source.skip : end]


def share(indices: Sequence[int], role: Role, seed: int) -> list[int]:
    """The members of ``indices`` that ``role`` gets, in the order they had."""
    if role == "all":
        return list(indices)
    count = len(indices)
    wanted = count // 2 if role in ("half", "all but a half") else max(count // 10, 1 if count > 1 else 0)
    taken = set(_shuffled(indices, f"selection {seed}")[:wanted])
    keep_taken = role in ("tenth", "half")
    return [index for index in indices if (index in taken) == keep_taken]


def _shuffled(indices: Sequence[int], key: str) -> list[int]:
    return sorted(indices, key=lambda index: hashlib.blake2b(f"{key}:{index}".encode(), digest_size=8).digest())
