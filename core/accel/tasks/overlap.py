"""Do splits share samples? By content, so that a copied or renamed file is found."""

from __future__ import annotations

from collections.abc import Mapping, Set
from itertools import combinations

MOST = 20_000
"""How many samples of a split are compared: hashing means decoding."""


def shared_samples(contents: Mapping[str, Set[bytes]], totals: Mapping[str, int]) -> list[str]:
    """A sentence for each two splits with samples in common.

    ``contents``: for each split the digests of its first samples, at most MOST; ``totals``: how many samples it has. The counts
    in the sentence are of different samples: those shared, out of those of the smaller split.
    """
    found = []
    for first, second in combinations(contents, 2):
        shared = len(contents[first] & contents[second])
        if not shared:
            continue
        smaller = min(len(contents[first]), len(contents[second]))
        limited = max(totals[first], totals[second]) > MOST
        extent = f", looking at the first {MOST:,} of each" if limited else ""
        found.append(f"{first} and {second} share {shared} of {smaller} samples (by content{extent})")
    return found
