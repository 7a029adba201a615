"""``accel report``: every format, to the screen and to files, from a report of this version and of the first."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

from accel.benchmarks.renderings import FORMATS
from accel.commands.report import run
from accel.errors import StorageFault, UsageError
from accel.report import read

VERSION_1 = Path(__file__).with_name("report_version_1.json")
"""Written by the version before gates; its measurements are real."""

MEGABYTE = 1024 * 1024


def said(path: Path, form: str, **options: Path | None) -> str:
    stream = io.StringIO()
    assert (
        run(path, form=form, output=options.get("output"), out=Console(file=stream), summary_file=options.get("summary")) == 0
    )
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The output folder of a run, with a report of this version."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text(read(VERSION_1).json_text(), encoding="utf-8")
    return tmp_path / "out"


def test_the_first_version_is_read_as_one_without_gates() -> None:
    assert json.loads(VERSION_1.read_text())["schema_version"] == 1
    found = read(VERSION_1)
    assert (found.schema_version, found.gates, found.conditions) == (2, [], None)
    assert sum(row.latency is not None for row in found.rows) == 5


@pytest.mark.parametrize("form", [*(form for form in FORMATS if form != "github-action-benchmark"), "brief", "github", "table"])
def test_every_format_of_both_versions_is_the_same(folder: Path, form: str) -> None:  # fault 64
    assert said(VERSION_1, form) == said(folder, form) != ""


@pytest.mark.parametrize("form", FORMATS)
def test_files_are_what_a_run_would_have_published(folder: Path, tmp_path: Path, form: str) -> None:
    said(folder, form, output=tmp_path / "a folder" if len(FORMATS[form]) > 1 else tmp_path)
    place = tmp_path / "a folder" if len(FORMATS[form]) > 1 else tmp_path
    for name, render in FORMATS[form].items():
        assert (place / name).read_text(encoding="utf-8") == render(read(folder / "report.json"))


def test_a_file_of_any_name(folder: Path, tmp_path: Path) -> None:
    said(folder, "junit", output=tmp_path / "gates.xml")
    assert ElementTree.parse(tmp_path / "gates.xml").getroot().tag == "testsuites"


def test_a_format_of_two_files_needs_a_folder(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"smaller-is-better\.json and .*--output"):
        said(folder, "github-action-benchmark")


@pytest.mark.parametrize("form", ["pdf", "", "markdown"])
def test_what_is_no_format_is_refused_with_those_that_are(folder: Path, form: str) -> None:
    with pytest.raises(UsageError, match=r"allowed are json, md, html, junit, .*brief, github and table"):
        said(folder, form)


def test_a_table_is_for_the_terminal(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="for the terminal"):
        said(folder, "table", output=tmp_path / "table.txt")


def test_a_summary_goes_with_annotations_only(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="goes with --format github"):
        said(folder, "md", summary=tmp_path / "summary.md")


def test_the_summary_is_appended(folder: Path, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    assert said(folder, "github", summary=summary).startswith("::")
    assert summary.read_text(encoding="utf-8") == said(folder, "md")
    summary.write_text("what another command wrote", encoding="utf-8")
    said(folder, "github", summary=summary)
    assert summary.read_text(encoding="utf-8") == "what another command wrote\n\n" + said(folder, "md")


@pytest.mark.parametrize("left", [40_000, 3_000, 400])
def test_the_summary_never_grows_over_the_limit_of_a_step(folder: Path, tmp_path: Path, left: int) -> None:  # fault 62
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"x" * (MEGABYTE - left))
    text = said(folder, "github", summary=summary)
    assert MEGABYTE - left < summary.stat().st_size <= MEGABYTE
    assert "full" not in text


@pytest.mark.parametrize("left", [0, 1, 2, 3, 50])
def test_a_full_summary_is_left_alone_and_said(folder: Path, tmp_path: Path, left: int) -> None:
    summary = tmp_path / "summary.md"
    summary.write_bytes(b"x" * (MEGABYTE - left))
    assert "::warning title=accel::the summary of this step is full" in said(folder, "github", summary=summary)
    assert summary.stat().st_size == MEGABYTE - left


def test_a_summary_that_cannot_be_written_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageFault, match=r"absent.*folder is not there"):
        said(folder, "github", summary=tmp_path / "absent" / "summary.md")


@pytest.fixture
def light() -> Iterator[None]:
    before = {name for name in ("numpy", "torch", "onnx") if name in sys.modules}
    yield
    assert {name for name in ("numpy", "torch", "onnx") if name in sys.modules} == before


@pytest.mark.usefixtures("light")
def test_rendering_again_imports_no_numpy(folder: Path) -> None:
    for form in ("md", "html", "junit", "bencher", "github"):
        said(folder, form)
