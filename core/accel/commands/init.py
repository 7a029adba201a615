"""``accel init``: write a commented recipe, and the schema that lets an editor complete it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from accel.atomic import write
from accel.errors import UsageError
from accel.recipe.json_schema import json_schema_text
from accel.recipe.template import SCHEMA_FILE, init


def run(model: str, output: Path, *, force: bool, out: Console, data: Path | None = None) -> int:
    """Exit code 0; UsageError for a file that is there already, unless ``force``."""
    if output.exists() and not force:
        raise UsageError(f"{output}: is there already; give another --output, or --force to replace it")
    write(output, init(model, folder=output.absolute().parent, data=data))
    schema = output.absolute().parent / SCHEMA_FILE
    if force or not schema.exists():
        write(schema, json_schema_text())
    out.print(f"{output}: written; check it with: accel validate {output}", markup=False, highlight=False, soft_wrap=True)
    return 0
