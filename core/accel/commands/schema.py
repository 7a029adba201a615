"""``accel schema``: the JSON schemas of what accel reads and writes."""

from __future__ import annotations

import json

from rich.console import Console

from accel.errors import UsageError
from accel.recipe.fields import suggestion

KINDS = ("recipe", "report", "manifest")


def run(of: str, *, out: Console) -> int:
    """``of``: recipe, report or manifest."""
    out.file.write(_text(of))
    return 0


def _text(of: str) -> str:
    if of == "recipe":
        from accel.recipe.json_schema import json_schema_text

        return json_schema_text()
    if of == "report":
        from accel.report import Report

        return json.dumps(Report.model_json_schema(), indent=2) + "\n"
    if of == "manifest":
        from accel.benchmarks.manifest import Manifest

        return json.dumps(Manifest.model_json_schema(), indent=2) + "\n"
    raise UsageError(f"schema: found {of!r}, allowed are {', '.join(KINDS)}{suggestion(of, KINDS)}")
