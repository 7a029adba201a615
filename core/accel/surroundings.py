"""What a command gets from where it runs: a console, and the user's cache folder. Nothing below the command line looks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from accel.errors import EnvironmentFault


def console(*, error: bool) -> Any:
    """On standard output, or with ``error`` on standard error. Nothing is coloured by what it says."""
    from rich.console import Console

    return Console(stderr=error, highlight=False)


def cache_folder(chosen: Path | None, recipe_choice: Path | None = None) -> Path:
    """``--cache-dir``, the recipe's, or the user's cache folder by the XDG convention."""
    if chosen is not None:
        return chosen.absolute()
    if recipe_choice is not None:
        return recipe_choice
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "accel"
    try:
        return Path.home() / ".cache" / "accel"
    except RuntimeError:
        raise EnvironmentFault("no home folder is known, so there is no place for the cache; give --cache-dir") from None
