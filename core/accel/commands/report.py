"""``accel report``: render a stored report again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from accel.atomic import storage_faults, write
from accel.benchmarks.brief import brief
from accel.benchmarks.github import SUMMARY_BYTES, annotate, command, summary
from accel.benchmarks.renderings import FORMATS, files
from accel.benchmarks.terminal import show
from accel.errors import UsageError
from accel.report import Report, read

_ON_SCREEN: Mapping[str, Callable[[Report], str]] = {"brief": brief, "github": annotate}
"""Renderings that are no file of an output folder, besides ``table``, which depends on the terminal."""


def load(path: Path) -> Report:
    """The report at ``path``, a file or the output folder of a run. UsageError says what is wrong with it."""
    return read(path / "report.json" if path.is_dir() else path)


def run(path: Path, *, form: str, output: Path | None, out: Console, summary_file: Path | None = None) -> int:
    """``form``: one of FORMATS, brief, github or table. ``summary_file``: with github, what the step's summary is added to."""
    if form not in (*FORMATS, *_ON_SCREEN, "table"):
        raise UsageError(f"--format: found {form!r}, allowed are {', '.join((*FORMATS, *_ON_SCREEN))} and table")
    if summary_file is not None and form != "github":
        raise UsageError(f"--summary: goes with --format github, not with {form}")
    report = load(path)
    if form == "table":
        if output is not None:
            raise UsageError("--output: a table is for the terminal; choose md or brief for a file")
        show(report, out)
        return 0
    texts = {form: _ON_SCREEN[form](report)} if form in _ON_SCREEN else _texts(form, report)
    said = "" if summary_file is None else _add_summary(report, summary_file)
    if output is None:
        if len(texts) > 1:
            raise UsageError(f"--format {form}: makes {' and '.join(texts)}; give a folder for them with --output")
        out.file.write(next(iter(texts.values())) + said)
    elif len(texts) > 1 or output.is_dir():
        _write_all(texts, output)
    else:
        write(output, next(iter(texts.values())) + said)
    return 0


def _texts(form: str, report: Report) -> dict[str, str]:
    """The files of ``form`` alone: report.json is there already."""
    return {name: text for name, text in files([form], report) if name in FORMATS[form]}


def _write_all(texts: Mapping[str, str], folder: Path) -> None:
    with storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write(folder / name, text)


def _add_summary(report: Report, file: Path) -> str:
    """Append to a step's summary what fits into it, and return the annotation that says so where nothing did.

    Appended, not replaced: what else the step wrote there stays.
    """
    with storage_faults(file):
        used = file.stat().st_size if file.exists() else 0
        text = summary(report, SUMMARY_BYTES - used - 2)
        if not text:
            return command("warning", "the summary of this step is full: see report.md", title="accel") + "\n"
        with file.open("a", encoding="utf-8") as stream:
            stream.write(("\n\n" if used else "") + text)
    return ""
