"""``accel schema``: the JSON schemas of what accel reads and writes."""

from __future__ import annotations

import json
from typing import Any

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
        from accel.report import schema as report_schema

        return _json(report_schema())
    if of == "manifest":
        from accel.benchmarks.manifest import schema as manifest_schema

        return _json(manifest_schema())
    raise UsageError(f"schema: found {of!r}, allowed are {', '.join(KINDS)}{suggestion(of, KINDS)}")


def _json(schema: dict[str, Any]) -> str:
    return json.dumps(schema, indent=2) + "\n"
