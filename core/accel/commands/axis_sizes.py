"""``--shape AXIS=N``: how long the axes are that a file leaves open."""

from __future__ import annotations

from collections.abc import Sequence

from accel.errors import UsageError


def axis_sizes(shapes: Sequence[str]) -> dict[str, int]:
    """From ``height=224`` to a mapping. UsageError for anything else."""
    sizes = {}
    for text in shapes:
        name, _, size = text.partition("=")
        if not name or not size.isdecimal() or int(size) < 1:
            raise UsageError(f"--shape: found {text!r}, allowed is AXIS=N, such as height=224")
        sizes[name] = int(size)
    return sizes
