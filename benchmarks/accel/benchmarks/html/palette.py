"""Colours, for light and dark: text reads at 4.5:1 or more, marks at 3:1, and marks stay apart for the colour-blind (tested).

The series begin with Okabe and Ito's blue and vermilion (Color Universal Design, 2008); the others were picked to stay apart
without red or green cones too. Colour never stands alone: a verdict has a word and a sign, a role has a shape.
"""

from __future__ import annotations

LIGHT = {
    "page": "#f6f6f3",
    "panel": "#ffffff",
    "ink": "#1b1e23",
    "muted": "#545b66",
    "line": "#d8dadd",
    "accent": "#0b5cad",
    "good": "#14633a",
    "good-panel": "#e2f3e8",
    "warn": "#734600",
    "warn-panel": "#fcefd3",
    "bad": "#a01f1a",
    "bad-panel": "#fce6e3",
}

DARK = {
    "page": "#14171b",
    "panel": "#1c2026",
    "ink": "#e7e9ec",
    "muted": "#a9afb9",
    "line": "#373d46",
    "accent": "#7ab8ff",
    "good": "#86d8a6",
    "good-panel": "#17342a",
    "warn": "#f2c472",
    "warn-panel": "#382c14",
    "bad": "#ffa198",
    "bad-panel": "#43211f",
}

SERIES_LIGHT = ("#0072b2", "#bb4c00", "#46a08c", "#6d1a36", "#1a2150", "#948d55")
SERIES_DARK = ("#56b4e9", "#ff9350", "#c2f0dc", "#7f74e8", "#b8526a", "#fff08a")


def variables() -> str:
    """The CSS that sets them: dark where the system is, unless the page's own switch says otherwise. Print is light."""
    light = _block(LIGHT, SERIES_LIGHT, "light")
    dark = _block(DARK, SERIES_DARK, "dark")
    return (
        f":root{{{light}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f"@media screen{{:root:has(#theme-light:checked){{{light}}}:root:has(#theme-dark:checked){{{dark}}}}}\n"
    )


def _block(colours: dict[str, str], series: tuple[str, ...], scheme: str) -> str:
    named = colours | {f"series-{index}": colour for index, colour in enumerate(series)}
    return f"color-scheme:{scheme};" + "".join(f"--{name}:{colour};" for name, colour in named.items())
