"""What an earlier run left in the output folder: whether it is ours to replace, and what it measured."""

from __future__ import annotations

import json
from pathlib import Path

from accel.errors import UsageError
from accel.publishing import read_resolved
from accel.recipe.settings import Recipe
from accel.report import Report, read

_MEASURED = "measured in the run of"
_MEASUREMENTS = ("rows", "verdict", "environment", "noise", "method", "conditions", "peaks", "samples", "classes")
"""Fields of a report that measuring fills."""


def require_ours(final: Path, name: str) -> None:
    """Refuse an output folder that holds something else. Ours are told by a manifest or report of the same recipe name."""
    if final.is_symlink() or (final.exists() and not final.is_dir()):
        raise UsageError(f"{final}: is not a folder; choose another --output")
    if not final.exists() or not any(final.iterdir()):
        return
    found = next(filter(None, map(_recipe_of, [final / "report.json", *sorted(final.glob("targets/*/manifest.json"))])), None)
    if found is None:
        raise UsageError(
            f"{final}: is not empty and holds no report of ours; it is left as it is. Choose another --output or another name"
        )
    if found != name:
        raise UsageError(f"{final}: holds the output of recipe {found!r}, not of {name!r}; choose another --output")


def _recipe_of(file: Path) -> str | None:
    """The recipe's name in a report or manifest of ours, of whatever version; None for any other file."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "accel_version" not in found:
        return None
    manifest = "recipe" in found and "rows" not in found  # a report's own "recipe" is the file it was read from
    return str(found.get("recipe" if manifest else "name"))


def keeping_measurements(report: Report, recipe: Recipe, final: Path) -> Report:
    """``report``, with the measurements of the one in ``final`` where it measured these files by this recipe on this data.

    A run without measuring does not throw away what an earlier one measured. Gates are no part of what is measured.
    """
    try:
        before = read(final / "report.json")
        resolved = read_resolved(final / "recipe.resolved.yaml")
    except UsageError:
        return report

    def files(found: Report) -> list[tuple[str, bool, list[str]]]:
        return [(row.name, row.status == "skipped", [file.sha256 for file in row.files]) for row in found.rows]

    same = (files(before), before.data) == (files(report), report.data)
    same = same and {**resolved, "gates": []} == {**recipe.document(), "gates": []}
    if not same or any(row.status not in ("measured", "skipped") for row in before.rows):
        return report
    said = next((note for note in before.notes if note.startswith(_MEASURED)), None)
    note = said or f"{_MEASURED} {before.created}; this one built the same files and measured nothing"
    kept = {name: getattr(before, name) for name in _MEASUREMENTS}
    return report.model_copy(update={**kept, "notes": [*report.notes, note]})
