"""``accel report``: render a stored report again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from accel.atomic import write
from accel.benchmarks.brief import brief
from accel.benchmarks.markdown import render
from accel.benchmarks.terminal import show
from accel.errors import UsageError
from accel.report import Report, read

_RENDERINGS: Mapping[str, Callable[[Report], str]] = {"md": render, "brief": brief, "json": Report.json_text}


def load(path: Path) -> Report:
    """The report at ``path``, a file or the output folder of a run. UsageError says what is wrong with it."""
    return read(path / "report.json" if path.is_dir() else path)


def run(path: Path, *, form: str, output: Path | None, out: Console) -> int:
    """``form``: md, brief, json or table."""
    report = load(path)
    if form == "table":
        show(report, out)
        return 0
    if form not in _RENDERINGS:
        raise UsageError(f"--format: found {form!r}, allowed are {', '.join(_RENDERINGS)} and table")
    text = _RENDERINGS[form](report)
    if output is None:
        out.file.write(text)
    else:
        write(output, text)
    return 0
