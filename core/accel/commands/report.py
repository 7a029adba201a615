"""``accel report``: render a stored report again."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from accel.atomic import write
from accel.benchmarks.markdown import render
from accel.benchmarks.terminal import show
from accel.errors import UsageError
from accel.report import SCHEMA_VERSION, Report


def load(path: Path) -> Report:
    """The report at ``path``, a file or the output folder of a run. UsageError says what is wrong with it."""
    file = path / "report.json" if path.is_dir() else path
    try:
        return Report.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise UsageError(f"{file}: there is no such report; a run writes it into its output folder") from None
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "document"
        raise UsageError(f"{file}: is no report of schema version {SCHEMA_VERSION}: {place}: {first['msg']}") from None


def run(path: Path, *, form: str, output: Path | None, out: Console) -> int:
    """``form``: md, json or table."""
    report = load(path)
    if form == "table":
        show(report, out)
        return 0
    if form not in ("md", "json"):
        raise UsageError(f"--format: found {form!r}, allowed are md, json and table")
    text = render(report) if form == "md" else report.json_text()
    if output is None:
        out.file.write(text)
    else:
        write(output, text)
    return 0
