"""A row's mark in every chart: its shape tells the role, its colour the backend and device."""

from __future__ import annotations

from collections.abc import Sequence

from accel.benchmarks.html.markup import number, shown
from accel.benchmarks.html.palette import SERIES_LIGHT
from accel.report import Row

ROLES = {"result": "result of the recipe", "baseline": "untouched model, same runtime", "reference": "reference"}


def colours(rows: Sequence[Row]) -> dict[tuple[str, str], str]:
    """A CSS class for each backend and device, in the order they appear; from the seventh on they begin again."""
    places = dict.fromkeys((row.backend, row.device) for row in rows)
    return {place: f"s{index % len(SERIES_LIGHT)}" for index, place in enumerate(places)}


def shape(role: str, x: float, y: float, size: float = 6) -> str:
    """A disc for a result, a square for a baseline, a diamond for the reference."""
    if role == "result":
        return f'<circle cx="{number(x)}" cy="{number(y)}" r="{number(size)}"/>'
    half = size * 0.9 if role == "baseline" else size * 1.3
    if role == "baseline":
        return f'<rect x="{number(x - half)}" y="{number(y - half)}" width="{number(2 * half)}" height="{number(2 * half)}"/>'
    corners = ((x, y - half), (x + half, y), (x, y + half), (x - half, y))
    return f'<polygon points="{" ".join(f"{number(a)},{number(b)}" for a, b in corners)}"/>'


def legend(rows: Sequence[Row], kinds: dict[tuple[str, str], str], also: str = "") -> str:
    """What the shapes and colours of ``rows`` mean; ``kinds``: of :func:`colours`; ``also``: further entries, as markup."""
    shapes = [
        f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">{shape(role, 8, 8, 5)}</svg>{words}</li>'
        for role, words in ROLES.items()
        if any(row.role == role for row in rows)
    ]
    swatches = [
        f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true"><rect class="{kind}" x="2" y="2" width="12" height="12" '
        f'rx="3"/></svg>{shown(backend, 40)}/{shown(device, 20)}</li>'
        for (backend, device), kind in kinds.items()
        if any((row.backend, row.device) == (backend, device) for row in rows)
    ]
    return f'<ul class="legend">{"".join(shapes + swatches)}{also}</ul>'
