"""``accel validate``: read a recipe, and say what was made of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from accel.errors import RecipeError
from accel.recipe.reader import read


def run(path: Path, overrides: Sequence[str], *, out: Console, as_json: bool = False) -> int:
    """Exit code 0; RecipeError has every problem. As JSON, problems are printed instead and the exit code is 2.

    JSON: ``{"valid": true, "notes": [...]}`` or ``{"valid": false, "problems": [{"line", "column", "message"}...]}``, in the
    order of the file; lines and columns count from 1, 0 where the place is not in the file (an override, a missing file).
    """
    try:
        recipe = read(path, overrides)
    except RecipeError as error:
        if not as_json:
            raise
        problems = [{"line": one.line, "column": one.column, "message": one.message} for one in error.problems]
        _write(out, {"valid": False, "problems": problems})
        return RecipeError.exit_code
    if as_json:
        _write(out, {"valid": True, "notes": recipe.notes})
        return 0
    for note in recipe.notes:
        _say(out, f"note: {note}")
    passes = ", ".join(entry.type for entry in recipe.passes) or "no passes"
    targets = ", ".join(target.name for target in recipe.targets)
    _say(out, f"{path}: valid ({passes}; for {targets})")
    return 0


def _write(out: Console, document: dict[str, Any]) -> None:
    out.file.write(json.dumps(document, indent=2) + "\n")


def _say(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
