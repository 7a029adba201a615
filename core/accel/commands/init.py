"""``accel init``: write a commented recipe, and the schema that lets an editor complete it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from accel.atomic import write
from accel.errors import UsageError
from accel.recipe.json_schema import json_schema_text
from accel.recipe.template import SCHEMA_FILE, TARGETS, init


def run(
    model: str, output: Path, *, force: bool, out: Console, data: Path | None = None, targets: Sequence[str] = TARGETS
) -> int:
    """Exit code 0, every file that was written on ``out``; UsageError for a recipe that is there already, unless ``force``."""
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already; give another --output, or --force to replace it")
    write(output, init(model, folder=output.absolute().parent, data=data, targets=targets or TARGETS))
    _say(out, f"{output}: written; check it with: accel validate {output}")
    schema = output.parent / SCHEMA_FILE
    if force or not schema.exists():
        write(schema.absolute(), json_schema_text())
        _say(out, f"{schema}: written; editors complete the recipe with it")
    return 0


def _say(out: Console, text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
