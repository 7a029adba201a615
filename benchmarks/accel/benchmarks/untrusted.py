"""Text that others chose (names of layers, models, rows; notes; errors), made harmless for the place it is shown in."""

from __future__ import annotations

import re
from html import escape

# Controls (ANSI escapes among them), the marks that reorder text, line separators, halves of surrogate pairs, and the two
# characters below the end of the plane that XML forbids.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069\ufeff\ufffe\uffff\ud800-\udfff]")
_MARKDOWN = re.compile(r"[\\`*_\[\]{}|~#$^!]")
_MENTION = re.compile(r"(?<![A-Za-z0-9])@|@(?=[\w.-]*\.\w)")  # @somebody and a mail address, not top1@target
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
    return _unlinked(text)


def summary(text: str, limit: int = 120) -> str:
    """For HTML inside GitHub's Markdown, such as the line of a fold: no element, markup, mention or link survives."""
    text = re.sub(r"[\\`*_\[\]{}|~$^!]", lambda found: f"&#{ord(found.group())};", escape(visible(text, limit)))
    return _unlinked(text)


def _unlinked(text: str) -> str:
    """``text`` in which GitHub finds no command, address or mention; it may hold entities."""
    text = _MENTION.sub("@&#8203;", text)
    text = text.replace("::", ":&#58;").replace("://", "&#58;//")
    text = re.sub(r"(www)\.", r"\1&#46;", text, flags=re.IGNORECASE)
    return re.sub(r"##(?=\w*\[)", "#&#35;", text)


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


def key(text: str, limit: int = 120) -> str:
    """For the name of a series on a dashboard, which shows it in a Markdown table or HTML of its own: no markup at all."""
    return re.sub(r"[`|<>&\\]+", " ", plain(text, limit)).strip() or "unnamed"
