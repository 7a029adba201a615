"""The metrics that need no code of the user's, by name. Light: strings only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from accel.errors import UsageError

RANKED: Mapping[str, int] = {"top1": 1, "top5": 5}
"""A built-in metric to how many of the model's first answers may hold the right class."""

NEAREST = "nearest_label"
"""Of embeddings: the share of samples whose nearest other sample has their label."""

BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "image_classification": tuple(RANKED),
    "text_classification": tuple(RANKED),
    "embedding": (NEAREST,),
}
"""Task type to its metrics."""


def require_known(names: Sequence[str], kind: str = "image_classification") -> None:
    """UsageError for a metric that is neither built in nor a reference to a callable, and for none at all, which is for
    embeddings only: these are held against the reference's."""
    known = BUILT_IN[kind]
    if not names and kind != "embedding":
        raise UsageError(f"task.metrics: is empty; name {', '.join(known)} or module:callable")
    for name in names:
        if name not in known and ":" not in name:
            raise UsageError(f"task.metrics: {name!r} is no metric; use {', '.join(known)}, file.py:name or module:callable")
