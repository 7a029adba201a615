from __future__ import annotations

from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accel.benchmarks.html.markup import code, moment, number, short, shown, thumbnail


@given(st.text())
def test_no_text_is_markup(text: str) -> None:
    found = shown(text, 0)
    assert not set(found) & set("<>\"'\n\r")
    assert "::" not in found


def test_text_reads_as_it_was() -> None:
    text = 'a<b> "c" & ::error ##[group] d::::e'
    assert unescape(shown(text)) == text
    assert "::" not in shown(text)
    assert "##[" not in shown(text)


def test_a_short_name_has_no_title() -> None:
    assert short("layer1.0.conv1/Conv") == "layer1.0.conv1/Conv"
    assert short("y" * 400, 10) == f'<span class="cut" title="{"y" * 299}…">{"y" * 9}…</span>'


def test_code_keeps_lines_and_indents() -> None:
    assert code("if a:\n\tprint('<b>')\n\n    b = 1\x1b[0m") == "if a:\n    print(&#x27;&lt;b&gt;&#x27;)\n\n    b = 1\\x1b[0m"


def test_a_moment_is_short_where_it_is_known() -> None:
    assert moment("2026-11-23T12:06:34+00:00") == moment("2026-11-23T12:06:34Z") == "2026-11-23 12:06 UTC"
    assert moment("yesterday") == "yesterday"


@pytest.mark.parametrize(("value", "text"), [(1.0, "1"), (-0.001, "0"), (1.239, "1.24"), (100.0, "100"), (-2.5, "-2.5")])
def test_a_coordinate_is_short(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    "address",
    [
        None,
        "",
        "https://example.org/a.png",
        "javascript:alert(1)",
        "data:text/html;base64,AAAA",
        "data:image/svg+xml;base64,AAAA",
        'data:image/png;base64,AAAA" onerror="alert(1)',
        "data:image/png;base64,AAAA\n",
        "data:image/png;base64,",
        "data:image/png,AAAA",
        " data:image/png;base64,AAAA",
    ],
)
def test_any_other_address_is_no_thumbnail(address: str | None) -> None:
    assert thumbnail(address) is None


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_an_image_inside_the_page_is_a_thumbnail(kind: str) -> None:
    assert thumbnail(f"data:image/{kind};base64,iVBORw0KGgo+/w==") is not None
