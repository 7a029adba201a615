"""Scenarios and settings beside the main comparison: each a point of its own, rows in turn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from accel.display import Display
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import Point
from accel.rows import Subject
from accel.sessions import Failed, Sessions


def sweep(
    alive: Sequence[Subject],
    sessions: Sessions,
    settings: BenchmarkSettings,
    *,
    seed: int,
    screen: Display,
    lock: Path,
    lost: Failed,
) -> dict[str, list[Point]]:
    """The points of each row by its name; empty where the recipe asks for nothing but the main comparison."""
    return {}
