"""Layers as settings name them: exact module paths, or regular expressions that match a whole path."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING

from accel.errors import PassFault

if TYPE_CHECKING:
    from torch import nn


def matching(module: nn.Module, names: Iterable[str], where: str) -> dict[str, frozenset[str]]:
    """Each name to the paths of the modules it means, with all below them. ``where`` begins an error: ``prune:
    ignored_layers``.

    Raises PassFault for a name that is no path, and matches none as a regular expression.
    """
    paths = [path for path, _ in module.named_modules() if path]
    found: dict[str, frozenset[str]] = {}
    for name in names:
        hits = [name] if name in paths else _matched(paths, name, where)
        if not hits:
            near = get_close_matches(name, paths, n=1)
            some = ", ".join(paths[:5]) + (", ..." if len(paths) > 5 else "")
            told = f"did you mean {near[0]!r}?" if near else f"there are {some}"
            raise PassFault(f"{where}: {name!r} matches no module (a regular expression must match the whole path); {told}")
        below = tuple(f"{hit}." for hit in hits)
        found[name] = frozenset(path for path in paths if path in hits or path.startswith(below))
    return found


def _matched(paths: Iterable[str], pattern: str, where: str) -> list[str]:
    try:
        return [path for path in paths if re.fullmatch(pattern, path)]
    except re.error as error:
        raise PassFault(f"{where}: {pattern!r} is no module, and no regular expression: {error}") from None
