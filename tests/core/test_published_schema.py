"""The schema that is published for readers of ``report.json`` is the one that reports follow."""

from __future__ import annotations

import io
import json
from pathlib import Path

import jsonschema
from rich.console import Console

from accel.commands.schema import run
from accel.report import read

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "docs" / "report.schema.json"


def printed() -> str:
    stream = io.StringIO()
    assert run("report", out=Console(file=stream)) == 0
    return stream.getvalue()


def test_it_is_what_accel_schema_report_prints() -> None:
    """After a change of report.py: ``accel schema report > docs/report.schema.json``."""
    assert PUBLISHED.read_text(encoding="utf-8") == printed()


def test_a_report_of_the_first_version_follows_it_once_it_was_read() -> None:
    validator = jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text(encoding="utf-8")))
    sample = Path(__file__).with_name("report_version_1.json")
    assert not validator.is_valid(json.loads(sample.read_text(encoding="utf-8")))
    assert validator.is_valid(json.loads(read(sample).json_text()))
