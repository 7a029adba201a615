"""YAML text to a tree with places: what is refused, where it is said to be, and that hostile text ends quickly."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from accel.errors import RecipeError
from accel.recipe.document import MAX_BYTES, parse
from accel.recipe.reader import read
from accel.recipe.tree import MAX_DEPTH, from_plain, locate, plain


def data(text: str) -> object:
    document = parse(text.encode(), "recipe.yaml")
    document.check()
    return plain(document.root)


def refusal(raw: bytes | str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse(raw.encode() if isinstance(raw, str) else raw, "recipe.yaml").check()
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("no", "no"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("012", 12),
        ("0x10", 16),
        ("0o17", 15),
        ("-3", -3),
        (".5", 0.5),
        ("true", True),
        ("~", None),
        ("", None),
        ("'12'", "12"),
        ('"1e-3"', "1e-3"),
        ("|\n  12", "12"),
        ("1" * 60, float("1" * 60)),
    ],
)
def test_plain_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    found = data(f"key: {text}")
    assert found == {"key": value}
    assert isinstance(found, dict)
    assert type(found["key"]) is type(value)


def test_the_word_on_is_a_key_like_any_other() -> None:
    assert data("on: no") == {"on": "no"}


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: 1\nb: : 2\n", 2, 4, "not YAML"),
        ("a:\n\tb: 1\n", 2, 1, "indent with spaces, not tabs"),
        ("a: [1, 2\nb: 3\n", 2, 2, "is a bracket left open"),
        ("a: {x: 1\nb: 3\n", 2, 2, "starts in line 1"),
        ("a: 'x\n", 2, 1, "quoted scalar"),
        ("a: @x\n", 1, 4, "not YAML"),
        ("a: *x\n", 1, 4, "no anchor &x above"),
        ("a: &x [*x]\n", 1, 8, "&x holds itself"),
        ("? [a]\n: 1\n", 1, 3, "a key must be one word"),
        ("a: 1\n---\nb: 2\n", 2, 1, "a second document"),
        ("a: .inf\n", 1, 4, "not a finite number"),
        ("a: .nan\n", 1, 4, "not a finite number"),
        ("a: 1e999\n", 1, 4, "not a finite number"),
        ('a: "\\ud800"\n', 1, 4, "not Unicode text"),
        ("<<: 3\n", 1, 1, "<< takes a mapping"),
    ],
)
def test_a_syntax_error_is_shown_with_line_column_and_caret(text: str, line: int, column: int, says: str) -> None:
    error = refusal(text)
    assert len(error.problems) == 1
    problem = error.problems[0]
    assert (problem.line, problem.column) == (line, column)
    assert says in problem.message
    shown = str(error).splitlines()
    assert shown[0].startswith(f"recipe.yaml:{line}:{column}: ")
    if len(shown) > 1:
        assert shown[2].index("^") == 4 + column - 1


def test_each_duplicate_key_is_named_with_both_lines() -> None:
    error = refusal("a: 1\nb: 2\na: 3\nc:\n  d: 1\n  d: 2\n")
    assert [(problem.line, problem.column) for problem in error.problems] == [(3, 1), (6, 3)]
    assert "'a' is given twice, first in line 1" in error.problems[0].message
    assert "'d' is given twice, first in line 5" in error.problems[1].message


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system ['touch {canary}']", "!foo 1", "!!int '1'", "!<x> a"])
def test_a_tag_is_refused_and_nothing_is_executed(tag: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    error = refusal(f"a: {tag.format(canary=canary)}\n")
    assert "is not taken" in error.problems[0].message
    assert (error.problems[0].line, error.problems[0].column) == (1, 4)
    assert not canary.exists()


@pytest.mark.parametrize("raw", [b"", b"# only\n# comments\n", b"---\n", b"\xef\xbb\xbf"])
def test_nothing_is_said_to_be_nothing(raw: bytes, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(raw)
    with pytest.raises(RecipeError, match="the recipe is empty"):
        read(path)


@pytest.mark.parametrize("text", ["- version: 1\n", "just text\n", "3\n"])
def test_a_recipe_is_a_mapping(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="a recipe is a mapping"):
        read(path)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"a: \x00", "recipe.yaml:1:4: a NUL character"),
        ("a: 1".encode("utf-16"), "UTF-16"),
        ("a: 1".encode("utf-16-le"), "NUL"),
        ("a: 1".encode("utf-32"), "UTF-16 or UTF-32"),
        (b"a: 1\nb: \xff\n", "recipe.yaml:2:4: byte 0xff is not UTF-8"),
        (b"a: \x07", "not YAML"),
    ],
)
def test_what_is_not_utf8_text_is_refused_clearly(raw: bytes, says: str) -> None:
    assert says in str(refusal(raw))


def test_bom_and_crlf_are_accepted_and_do_not_shift_places() -> None:
    document = parse(b"\xef\xbb\xbfa: 1\r\nb:\r\n  c: x\r\n", "recipe.yaml")
    assert plain(document.root) == {"a": 1, "b": {"c": "x"}}
    place = locate(document.root, ("b", "c"))
    assert (place.line, place.column) == (3, 6)


def test_merged_keys_keep_the_place_they_have_at_the_anchor() -> None:
    text = "x: &x\n  a: 1\n  b: 2\ny:\n  <<: *x\n  b: 3\nz:\n  <<: [{a: 5}, *x]\n"
    document = parse(text.encode(), "recipe.yaml")
    assert plain(document.root) == {"x": {"a": 1, "b": 2}, "y": {"a": 1, "b": 3}, "z": {"a": 5, "b": 2}}
    assert locate(document.root, ("y", "a")).line == 2
    assert locate(document.root, ("y", "b")).line == 6


def alias_bomb() -> bytes:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]
    return "\n".join(lines).encode()


def merge_bomb() -> bytes:
    lines = ["a0: &a0 {k: [1, 2, 3]}"]
    lines += [f"a{n}: &a{n} {{x{n}: *a{n - 1}, y{n}: *a{n - 1}, <<: *a{n - 1}}}" for n in range(1, 40)]
    return "\n".join(lines).encode()


@pytest.mark.parametrize(
    "hostile",
    [
        alias_bomb,
        merge_bomb,
        lambda: b"[" * 20_000,
        lambda: b"[\n" * 20_000,
        lambda: b"- " * 20_000,
        lambda: b"{a: " * 20_000,
        lambda: b"{a:\n" * 20_000,
        lambda: b"? " * 20_000,
        lambda: b"x" * 50_000_000,
        lambda: b"a: 1\n" * 10_000_000,
        lambda: b"!" + b"a" * 200_000,
        lambda: b"- a\n" * (MAX_BYTES // 4),
        lambda: b"---\n" * (MAX_BYTES // 4),
    ],
    ids=[
        "alias bomb",
        "merge bomb",
        "20k brackets",
        "20k bracket lines",
        "20k dashes",
        "20k braces",
        "20k brace lines",
        "20k question marks",
        "50 MB line",
        "50 MB lines",
        "long tag",
        "many items",
        "many documents",
    ],
)
def test_hostile_text_is_refused_within_a_second(hostile: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(hostile())

    def taken_s() -> float:
        began = time.process_time()
        with pytest.raises(RecipeError):
            read(path)
        return time.process_time() - began

    # The second is what it takes where nobody else works; cores of a busy host take twice as long for a while.
    assert any(taken_s() < 1.0 for _ in range(5))


def test_a_large_file_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    with path.open("wb") as stream:
        stream.truncate(50_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(RecipeError, match="50,000,000 bytes"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_BYTES
    finally:
        tracemalloc.stop()


def test_the_limits_leave_room_for_what_is_meant() -> None:
    deep = "".join(f"{'  ' * level}k:\n" for level in range(MAX_DEPTH - 1)) + "  " * (MAX_DEPTH - 1) + "k: 1\n"
    assert data(deep)
    assert data("classes: [" + ",\n".join(f"class {index}" for index in range(10_000)) + "]")


def test_brackets_in_text_are_no_nesting() -> None:
    assert data("a: '" + "[" * 200 + "'") == {"a": "[" * 200}
    assert data("a: [" + "[1], " * 1000 + "]")


def test_plain_data_that_json_cannot_hold_is_refused() -> None:
    for value in ({1: 2}, {"a": {1, 2}}, {"a": float("nan")}, {"a": "\ud800"}, {"a": object()}):
        with pytest.raises(ValueError, match=r"cannot hold|not a finite|not text|not Unicode"):
            from_plain(value)
