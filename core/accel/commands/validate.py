"""``accel validate``: read a recipe, and say what was made of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from accel.recipe.reader import read


def run(path: Path, overrides: Sequence[str], *, out: Console) -> int:
    """Exit code 0; RecipeError has every problem."""
    recipe = read(path, overrides)
    for note in recipe.notes:
        _say(out, f"note: {note}")
    passes = ", ".join(entry.type for entry in recipe.passes) or "no passes"
    targets = ", ".join(target.name for target in recipe.targets)
    _say(out, f"{path}: valid ({passes}; for {targets})")
    return 0


def _say(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
