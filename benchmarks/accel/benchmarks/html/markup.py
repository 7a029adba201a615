"""Text into HTML: everything that is not markup of ours passes through here."""

from __future__ import annotations

import re
from html import escape

from accel.benchmarks.untrusted import visible

TITLE_LIMIT = 300
"""Characters of a cut name that its tooltip still holds."""


def shown(value: object, limit: int = 400) -> str:
    """For text and quoted attributes: one line, controls spelled out, at most ``limit`` characters, no markup.

    ``::`` and ``##[`` are broken up: a CI log that the page is printed to would obey ``::error::`` and ``##[error]``.
    """
    return _quiet(escape(visible(str(value), limit), quote=True))


def short(value: object, limit: int = 48) -> str:
    """A name, cut where it is long; then its first 300 characters are in a tooltip."""
    text = visible(str(value), TITLE_LIMIT)
    if len(text) <= limit:
        return shown(text, 0)
    return f'<span class="cut" title="{shown(text, TITLE_LIMIT)}">{shown(text, limit)}</span>'


def code(text: str, limit: int = 40_000) -> str:
    """For a ``<pre>``: line breaks and indents kept."""
    lines = (line.expandtabs(4) for line in text[:limit].splitlines())
    kept = (" " * (len(line) - len(line.lstrip(" "))) + shown(line.lstrip(" "), 0) for line in lines)
    return "\n".join(kept)


def number(value: float) -> str:
    """A coordinate: two decimals at most, no trailing zeros, never ``-0``."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def moment(text: str) -> str:
    """``2026-01-02 03:04 UTC``, where ``text`` is the ISO 8601 that accel writes; as it is otherwise."""
    for ending in ("+00:00", "Z"):
        if len(text) == 19 + len(ending) and text.endswith(ending) and text[10] == "T":
            return f"{text[:10]} {text[11:16]} UTC"
    return text


def thumbnail(address: str | None) -> str | None:
    """The address of an image that is inside the page, or None for any other address."""
    if address is not None and re.fullmatch(r"data:image/(png|jpeg|webp);base64,[A-Za-z0-9+/]+={0,2}", address):
        return address
    return None


def _quiet(text: str) -> str:
    return re.sub(r"##(?=\w*\[)", "#&#35;", text.replace("::", ":&#58;"))
