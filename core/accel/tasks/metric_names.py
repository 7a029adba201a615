"""The metrics that need no code of the user's, by name. Light: strings only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accel.errors import UsageError

RANKED: Mapping[str, int] = {"top1": 1, "top5": 5}
"""A built-in metric to how many of the model's first answers may hold the right class."""


def require_known(names: Sequence[str]) -> None:
    """UsageError for a metric that is neither built in nor a reference to a callable, and for none at all."""
    if not names:
        raise UsageError("task.metrics: is empty; name top1, top5 or module:callable")
    for name in names:
        if name not in RANKED and ":" not in name:
            raise UsageError(f"task.metrics: {name!r} is no metric; use {', '.join(RANKED)}, file.py:name or module:callable")
