"""One table, every rendering: the same from the file as from memory, and harmless whatever layers and models are called."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args
from xml.etree import ElementTree

import pytest
from pydantic import BaseModel
from rich.console import Console

from accel.benchmarks import renderings
from accel.benchmarks.brief import brief
from accel.benchmarks.github import annotate, summary
from accel.benchmarks.terminal import show
from accel.recipe.settings import Format
from accel.report import Report, read


def on_terminal(report: Report) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream, width=160, force_terminal=True, color_system=None, legacy_windows=False))
    return stream.getvalue()


def in_a_log(report: Report) -> str:
    stream = io.StringIO()
    show(report, Console(file=stream))
    return stream.getvalue()


RENDERINGS: dict[str, Callable[[Report], str]] = {
    **{name: render for files in renderings.FORMATS.values() for name, render in files.items() if name != "report.json"},
    "brief": brief,
    "github": annotate,
    "summary": lambda report: summary(report, 2**20),
    "table": on_terminal,
    "log": in_a_log,
}


def test_the_table_has_every_format_that_a_recipe_may_name() -> None:
    assert set(renderings.FORMATS) == set(get_args(Format))


def test_files_are_those_asked_for_and_the_report(full_report: Report) -> None:
    assert [name for name, _ in renderings.files([], full_report)] == ["report.json"]
    found = dict(renderings.files(get_args(Format), full_report))
    assert set(found) == {name for files in renderings.FORMATS.values() for name in files}
    assert found["report.json"] == full_report.json_text()


def test_a_format_that_is_none_is_refused(full_report: Report) -> None:
    with pytest.raises(KeyError, match="pdf"):
        dict(renderings.files(["pdf"], full_report))


@pytest.mark.parametrize("name", RENDERINGS)
def test_the_stored_report_gives_the_same_text(full_report: Report, tmp_path: Path, name: str) -> None:  # fault 64
    odd = full_report.model_copy(update={"method": {"nan": float("nan"), "path": Path("a/b"), "pair": (1, 2)}})
    (tmp_path / "report.json").write_text(odd.json_text(), encoding="utf-8")
    stored = read(tmp_path / "report.json")
    assert RENDERINGS[name](stored) == RENDERINGS[name](Report.model_validate_json(odd.json_text()))
    assert list(renderings.files(get_args(Format), stored)) == list(renderings.files(get_args(Format), odd))


HOSTILE = {
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)></details><h1>",
    "attribute": '" onmouseover="alert(1)" x=\'',
    "markdown": "[click](javascript:alert(1)) ![x](http://a.b/c.png) | a | b |\n\n# PASS 9/9 gates\n\n```",
    "mention": "@everyone www.example.com https://example.com #1",
    "command": "x\n::error file=a,line=1::pwned\n##[error]y\r::stop-commands::z",
    "ansi": "\x1b[2J\x1b[31mred\x1b]8;;http://x\x07\x9b31m",
    "long": "x" * 10_000,
    "xml": "]]><a> &lt; &unknown; \x00\x08\x0b\x0c\x1f\ufffe\uffff\x85",
    "comment": "--><!-- accel-report:other -->",
    "reordered": "a\u202egpj.exe\u2066\u200f\u2028b",
    "script end": "</script><script>alert(1)</script>",
    "template": "${{ github.token }} {{ x }} %0A%25",
}


def hostile(value: Any, evil: str) -> Any:
    """``value`` with ``evil`` before every text that its schema leaves open; so names stay apart, and refer as they did."""
    if isinstance(value, BaseModel):
        choices = {name for name, field in type(value).model_fields.items() if "Literal" in str(field.annotation)}
        return value.model_copy(
            update={name: hostile(getattr(value, name), evil) for name in type(value).model_fields if name not in choices}
        )
    if isinstance(value, list):
        return [hostile(item, evil) for item in value]
    if isinstance(value, dict):
        return {evil + name: hostile(item, evil) for name, item in value.items()}
    return evil + value if isinstance(value, str) else value


class Elements(HTMLParser):
    """Counts elements, attributes that run scripts, and addresses that leave the file."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}
        self.dangers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            if name.startswith("on") or (name in ("href", "src") and re.match(r"(?i)\s*(javascript|https?):", value or "")):
                self.dangers.append(f"{tag} {name}")


def is_harmless(name: str, text: str, usual: str) -> None:
    """Checks ``text`` of rendering ``name`` against ``usual``, the same report under names that are none."""
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text)
    if name not in ("report.html", "github") and not name.endswith(".json"):
        prose = re.sub(r"^(`{3,}).*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
        assert "::" not in prose
        assert not re.search(r"##\w*\[", text)
    assert not re.search(r"^\s*(::|##\[)", text, re.MULTILINE) or name == "github"
    if name in ("report.md", "summary", "brief"):
        shown = re.sub(r"^(`{3,}).*?^\1$|<!-- accel-report:[\w.-]+ -->", "", text, flags=re.MULTILINE | re.DOTALL)
        ours = {"details", "summary", "br"}
        assert set(Elements(shown).counts) <= ours
        assert not re.search(r"(?<!\\)!\[(?!CAUTION|WARNING|TIP)|(?<!\\)\]\(|@\w|www\.|https?://", shown)
        assert len(re.findall(r"^# ", shown, re.MULTILINE)) <= 1
        assert len(text) <= 60_000
        for table in re.findall(r"(?:^\|.*\n)+", shown, re.MULTILINE):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table[:500]
    elif name == "report.html":
        found, expected = Elements(text), Elements(usual)
        assert not found.dangers
        for element in ("script", "img", "iframe", "link", "base", "form", "object", "embed", "h1"):
            assert found.counts.get(element, 0) == expected.counts.get(element, 0), element
    elif name == "junit.xml":
        root = ElementTree.fromstring(text.encode())
        assert {element.tag for element in root.iter()} == {element.tag for element in ElementTree.fromstring(usual).iter()}
    elif name.endswith(".json"):
        found_json = json.loads(text, parse_constant=pytest.fail)
        names = list(found_json) if isinstance(found_json, dict) else [entry["name"] for entry in found_json]
        assert names
        assert not re.search(r"[`|<>\n]", "".join(names))
        assert max(map(len, names)) < 1024
    elif name == "github":
        lines = text.splitlines()
        assert len(lines) == len(usual.splitlines())
        for line in lines:
            assert re.fullmatch(r"::(error|warning|notice) [^:]*::[^\r\n]*", line), line
            assert len(line) < 4096


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("name", RENDERINGS)
def test_hostile_text_is_harmless(full_report: Report, name: str, kind: str) -> None:  # fault 31
    bad = full_report.gates[0].model_copy(update={"verdict": "fail", "failed": True})
    gone = full_report.rows[0].model_copy(update={"name": "gone", "status": "failed", "reason": "died"})
    sample = full_report.samples[0].model_copy(update={"thumbnail": "data:image/png;base64,AAAA"})
    rows = [*full_report.rows, gone]
    base = full_report.model_copy(update={"gates": [bad, full_report.gates[1]], "rows": rows, "samples": [sample]})
    calm = Report.model_validate_json(hostile(base, "calm").json_text())
    odd = Report.model_validate_json(hostile(base, HOSTILE[kind]).json_text())
    assert odd.rows[2].name == f"{HOSTILE[kind]}digits-int8"
    is_harmless(name, RENDERINGS[name](odd), RENDERINGS[name](calm))


@pytest.mark.parametrize("name", RENDERINGS)
def test_the_check_of_harmlessness_can_fail(full_report: Report, name: str) -> None:
    """The same check on text that was let through as it came."""
    usual = RENDERINGS[name](full_report)
    evil = HOSTILE["html"] + HOSTILE["ansi"] + HOSTILE["command"]
    spoilt = usual.replace("digits-int8", evil).replace("2.13x faster", evil)
    assert spoilt != usual
    with pytest.raises((AssertionError, ElementTree.ParseError, json.JSONDecodeError)):
        is_harmless(name, spoilt, usual)
