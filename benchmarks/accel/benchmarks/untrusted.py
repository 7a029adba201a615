"""Text that others chose (names of layers, models, rows; notes; errors), made harmless for the place it is shown in."""

from __future__ import annotations

import re

# Controls (ANSI escapes among them), the marks that reorder text, line separators, and halves of surrogate pairs.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*_\[\]{}|~#$^!]")
_LEADING = re.compile(r"^([-+=](?=[-=\s]|$)|\d{1,9}(?=[.)](\s|$)))")


def visible(text: str, limit: int = 0) -> str:
    """One line with controls spelled out (``\\x1b``), cut to ``limit`` characters where it is above 0."""
    if limit and len(text) > limit:
        text = text[: limit - 1] + "…"
    text = re.sub(r"\s*[\r\n\t]+\s*", " ", text.strip())
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def markdown(text: str, limit: int = 400) -> str:
    """For a paragraph, a list item or a table cell of GitHub's Markdown: no HTML, markup, border, mention or link survives.

    ``::`` is broken up too: a CI log that the report is printed to would obey ``::error::`` and ``##[error]``.
    """
    text = visible(text, limit)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MARKDOWN.sub(lambda found: "\\" + found.group(), text)
    text = _LEADING.sub(lambda found: found.group() + "\\" if found.group().isdigit() else "\\" + found.group(), text)
    text = text.replace("::", ":&#58;").replace("://", "&#58;//")
    return text.replace("@", "@&#8203;")


def fenced(code: str, language: str = "python") -> str:
    """A fenced block that its content cannot end early."""
    lines = [_CONTROL.sub(lambda found: ascii(found.group())[1:-1], line.replace("\t", "    ")) for line in code.splitlines()]
    lines = [re.sub(r"^(\s*):(?=:)", "\\1:\u200b", line) for line in lines]
    lines = [re.sub(r"##(?=\w*\[)", "#\u200b#", line) for line in lines]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}{language}", *lines, fence])


def lines(text: str) -> str:
    """For a terminal or a log, line breaks and indents kept: controls spelled out, and nothing that a CI runner would obey."""
    shown = (_CONTROL.sub(lambda found: ascii(found.group())[1:-1], line.replace("\t", "    ")) for line in text.split("\n"))
    return "\n".join(re.sub(r"##(?=\w*\[)", "# #", re.sub(r"^(\s*):(?=:)", r"\1: ", line)) for line in shown)


def plain(text: str, limit: int = 0) -> str:
    """For a terminal or a log: controls spelled out, and no ``::`` or ``##[`` that a CI runner would obey."""
    text = visible(text, limit)
    while "::" in text:
        text = text.replace("::", ": :")
    return re.sub(r"##(?=\w*\[)", "# #", text)
