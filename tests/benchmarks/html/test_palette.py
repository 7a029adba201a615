"""Contrast by WCAG 2.2 (relative luminance), and colours as people without red or green cones see them (Viénot 1999)."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from accel.benchmarks.html.palette import DARK, LIGHT, SERIES_DARK, SERIES_LIGHT, variables

SCHEMES = [(LIGHT, SERIES_LIGHT), (DARK, SERIES_DARK)]


def linear(colour: str) -> list[float]:
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]


def luminance(colour: str) -> float:
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_measured_right() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_reads_on_what_it_stands_on(scheme: dict[str, str]) -> None:
    pairs = [(text, ground) for text in ("ink", "muted", "accent", "good", "warn", "bad") for ground in ("page", "panel")]
    pairs += [
        ("good", "good-panel"),
        ("warn", "warn-panel"),
        ("bad", "bad-panel"),
        ("ink", "warn-panel"),
        ("muted", "warn-panel"),
    ]
    pairs += [("panel", "accent"), ("panel", "ink"), ("accent", "warn-panel"), ("bad", "warn-panel")]
    low = {pair: found for pair in pairs if (found := contrast(scheme[pair[0]], scheme[pair[1]])) < 4.5}
    assert low == {}


@pytest.mark.parametrize(("scheme", "series"), SCHEMES, ids=["light", "dark"])
def test_marks_stand_out(scheme: dict[str, str], series: tuple[str, ...]) -> None:
    assert {colour: found for colour in series if (found := contrast(colour, scheme["panel"])) < 3} == {}


# From linear RGB to linear RGB, for no red cones and for no green ones.
PROTAN = ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0))
DEUTAN = ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0))
NORMAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def lab(colour: str, eye: tuple[tuple[float, ...], ...]) -> tuple[float, float, float]:
    red, green, blue = (
        max(0.0, sum(weight * value for weight, value in zip(line, linear(colour), strict=True))) for line in eye
    )
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089
    a, b, c = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * b - 16, 500 * (a - b), 200 * (b - c)


@pytest.mark.parametrize("eye", [NORMAL, PROTAN, DEUTAN], ids=["normal", "protan", "deutan"])
@pytest.mark.parametrize("series", [SERIES_LIGHT, SERIES_DARK], ids=["light", "dark"])
def test_series_stay_apart_for_the_colour_blind(series: tuple[str, ...], eye: tuple[tuple[float, ...], ...]) -> None:
    def apart(one: str, other: str) -> float:
        return math.dist(lab(one, eye), lab(other, eye))

    assert min(apart(*pair) for pair in combinations(series, 2)) > 20


def test_the_switch_beats_the_system_and_print_is_light() -> None:
    text = variables()
    assert text.index(":root{color-scheme:light") < text.index("prefers-color-scheme:dark") < text.index("#theme-light")
    assert text.count("@media screen") == 2
