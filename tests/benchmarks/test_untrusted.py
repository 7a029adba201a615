from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.benchmarks.untrusted import fenced, key, lines, markdown, plain, summary, visible

# fault 31, one case for each kind of injection
HTML = "<img src=x onerror=alert(1)><script>alert(1)</script>"
TABLE = "conv | evil | row"
ANSI = "\x1b[2J\x1b]8;;http://evil\x07click\x1b[31m"
COMMAND = "::error file=a.py,line=1::pwned"
OLD_COMMAND = "##[error]pwned ##vso[task.setvariable]x"
MARKUP = "**bold** [link](http://evil) ![](http://evil/x.png) `code` # head $x$ ~~no~~"
LINES = "one\n\n# two\r\n::error::three\t\u2028four"
MENTION = "@everyone"
REORDERED = "abc\u202egnp.exe"


def test_html_is_shown_not_run() -> None:
    assert "<" not in markdown(HTML)
    assert markdown(HTML).startswith("&lt;img src=x")
    assert markdown("&lt;b&gt;") == "&amp;lt;b&amp;gt;"


def test_table_borders_are_escaped() -> None:
    assert re.findall(r"(?<!\\)\|", markdown(TABLE)) == []


@pytest.mark.parametrize("write", [markdown, plain, visible])
def test_ansi_is_spelled_out(write: object) -> None:
    assert callable(write)
    text = write(ANSI)
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "x1b" in text


@pytest.mark.parametrize("write", [markdown, plain])
@pytest.mark.parametrize("command", [COMMAND, OLD_COMMAND, "a::::b", "x ###[error]y", ":::error::"])
def test_commands_of_ci_runners_are_broken_up(write: object, command: str) -> None:
    assert callable(write)
    text = write(command)
    assert "::" not in text
    assert re.search(r"##\w*\[", text) is None


def test_markup_is_escaped() -> None:
    text = markdown(MARKUP)
    assert re.findall(r"(?<!\\)[*_\[\]`#$~!]", text.replace("&#58;", "")) == []
    assert "://" not in text


@pytest.mark.parametrize("text", ["- item", "+ item", "=====", "1. one", "12) two", "# head", "> quote"])
def test_a_line_does_not_begin_a_list_or_heading(text: str) -> None:
    assert re.match(r"[-+=#>]|\d+[.)]", markdown(text)) is None
    assert markdown("2.13x faster").startswith("2")


@pytest.mark.parametrize("write", [markdown, plain, visible])
def test_many_lines_become_one(write: object) -> None:
    assert callable(write)
    assert len(write(LINES).splitlines()) == 1


def test_mentions_reach_nobody() -> None:
    assert "@everyone" not in markdown(MENTION)


@pytest.mark.parametrize("write", [markdown, plain])
def test_reordering_marks_are_spelled_out(write: object) -> None:
    assert callable(write)
    assert "\u202e" not in write(REORDERED)


def test_long_text_is_cut() -> None:
    assert len(markdown("a" * 10_000)) == 400
    assert visible("abcdef", 4) == "abc…"


def test_ordinary_text_stays_as_it_is() -> None:
    for text in ("layer1.0.conv1/Conv kept: 3 channels", "größer als 50 %", "日本語"):
        assert plain(text) == text
    assert markdown("layer1.0.conv1/Conv kept: 3 channels") == "layer1.0.conv1/Conv kept: 3 channels"


def test_a_message_of_several_lines_keeps_them() -> None:
    message = "recipe.yaml:3:5: modle: no such key\n    modle: {a: ::b}\n    ^"
    assert lines(message) == message
    assert lines("a\x1b[31m\r\n  ::error::b\n##[error]c\td\u202e") == "a\\x1b[31m\\r\n  : :error::b\n# #[error]c    d\\u202e"


def test_code_cannot_end_its_fence() -> None:
    text = fenced("x = '''\n````\n</details>\n'''\n\x1b[31m\n  ::error::x\n##[error]y")
    fence = text.splitlines()[0].removesuffix("python")
    assert set(fence) == {"`"}
    assert len(fence) == 5
    assert text.endswith(fence)
    assert "\x1b" not in text
    assert not any(line.lstrip().startswith("::") for line in text.splitlines())
    assert "##[" not in text


@given(st.text(max_size=200))
def test_nothing_gets_through(text: str) -> None:
    shown = markdown(text)
    assert len(shown.splitlines()) <= 1
    assert "<" not in shown
    assert "::" not in shown
    assert re.findall(r"(?<!\\)(?:\\\\)*\|", shown) == []
    assert re.search(r"##\w*\[", plain(text)) is None
    assert re.search("[\x00-\x1f\x7f-\x9f]", shown + plain(text) + fenced(text).replace("\n", "")) is None
    assert re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f]", lines(text)) is None
    assert not any(line.lstrip().startswith("::") for line in lines(text).split("\n"))
    assert re.search(r"##\w*\[", lines(text)) is None


def test_addresses_without_a_scheme_are_no_links() -> None:
    assert "www." not in markdown("see www.example.com and WWW.example.com").lower()


@pytest.mark.parametrize(
    "text", ["</summary><h1>", "[a](b)", "@me", "**b**", "`x`", "a | b", "::error::x", "##[error]x", "\x1b[1m"]
)
def test_the_line_of_a_fold_holds_neither_html_nor_markdown(text: str) -> None:
    shown = summary(text)
    assert not re.search(r"[<>\[\]*`|@](?!&#8203;)|::|##\w*\[|\x1b", shown)
    assert len(summary("x" * 10_000)) == 120


def test_names_of_series_hold_no_markup() -> None:
    assert key("a`b|c<d>&e\\f") == "a b c d e f"
    assert key("\x00\n`|") != ""
    assert key("`|`") == key("") == "unnamed"
    assert len(key("x" * 10_000)) == 120


def test_characters_that_xml_forbids_are_spelled_out() -> None:
    assert visible("a\x0b\ufffe\uffff") == "a\\x0b\\ufffe\\uffff"


@pytest.mark.parametrize("text", ["@everyone", "x @me", "(@me)", "a-@me", "someone@example.com", "_@me"])
def test_mentions_and_mail_addresses_are_broken_up(text: str) -> None:
    assert "@&#8203;" in markdown(text)
    assert "@&#8203;" in summary(text)


def test_the_name_of_a_gate_is_left_readable() -> None:
    assert markdown("top1@onnxruntime-cpu") == summary("top1@onnxruntime-cpu") == "top1@onnxruntime-cpu"
