"""What a gate's settings ask of a quantity: bounds, and the words for them. Light: no numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.quantities import IDENTICAL_DB, Quantity, Unit
from accel.report import Estimate

Form = Literal["value", "difference", "relative", "better"]
LIMITS = ("max", "min", "max_drop", "min_improvement")
BASELINE = "baseline"

_SCALE: Mapping[Unit, tuple[float, str]] = {
    "fraction": (100.0, "%"),
    "ms": (1.0, "ms"),
    "s": (1.0, "s"),
    "per_s": (1.0, "per s"),
    "bytes": (1.0, "bytes"),
    "dB": (1.0, "dB"),
    "": (1.0, ""),
}


@dataclass(frozen=True)
class Limit:
    """``form``: of what; it must be ``upper`` (at most) or not (at least) ``bound``."""

    form: Form
    upper: bool
    bound: float


def form_of(settings: GateSettings, quantity: Quantity) -> Form:
    """A value, or one of the three ways to say how it stands to another."""
    if settings.max is not None or settings.min is not None:
        return "value"
    drop_type = settings.drop_type or ("relative" if quantity.relative else "absolute")
    if drop_type == "absolute":
        return "difference"
    return "relative" if settings.max_drop is not None else "better"


def limit_of(settings: GateSettings, quantity: Quantity) -> Limit:
    """Exactly one of the four limits must be set (gate_checks tells where it is not): ValueError."""
    form = form_of(settings, quantity)
    higher = quantity.higher_is_better
    if settings.max is not None:
        return Limit(form, True, settings.max)
    if settings.min is not None:
        return Limit(form, False, settings.min)
    if settings.max_drop is not None:
        return Limit(form, not higher, -settings.max_drop if higher else settings.max_drop)
    if settings.min_improvement is None:
        raise ValueError("a gate needs one of max, min, max_drop and min_improvement")
    if form == "better":
        return Limit(form, False, settings.min_improvement)
    return Limit(form, not higher, settings.min_improvement if higher else -settings.min_improvement)


def vs_of(settings: GateSettings) -> str | None:
    """What it is held against: null for a limit on the value itself."""
    return None if settings.max is not None or settings.min is not None else settings.vs or BASELINE


def shown_unit(form: Form, quantity: Quantity) -> tuple[float, str]:
    """Factor and word of the unit that people read: percent, points, times as good, or the quantity's own."""
    if form == "better":
        return 1.0, "x"
    if form == "relative":
        return 100.0, "%"
    scale, word = _SCALE[quantity.unit]
    return (scale, "points") if form == "difference" and quantity.unit == "fraction" else (scale, word)


def number(value: float, form: Form, quantity: Quantity) -> str:
    """``+7.1 %``, ``-0.40 points``, ``0.412 ms``, ``1.93x``: signed where it is a difference."""
    if form == "value" and quantity.name == "sqnr_db" and value >= IDENTICAL_DB:
        return "no difference at all"
    scale, word = shown_unit(form, quantity)
    return _with_unit(_digits(value * scale, form, quantity), word)


def estimate(found: Estimate, form: Form, quantity: Quantity) -> str:
    """The value, and its interval in brackets where there is one."""
    text = number(found.value, form, quantity)
    if found.low is None and found.high is None:
        return text
    scale, _ = shown_unit(form, quantity)
    low, high = (None if end is None else _digits(end * scale, form, quantity) for end in (found.low, found.high))
    if low == high:
        return text
    return f"{text} (95 % CI {low or 'unknown'} to {high or 'unknown'})"


def words(limit: Limit, quantity: Quantity, settings: GateSettings) -> str:
    """``at most +5 %``, ``at least -1 points``, ``at least 2x as good``."""
    scale, word = shown_unit(limit.form, quantity)
    sign = "+" if limit.form in ("difference", "relative") else ""
    bound = limit.bound * scale
    digits = format(round(bound), f"{sign},d") if word == "bytes" else f"{bound:{sign}.6g}"
    text = f"{'at most' if limit.upper else 'at least'} {_with_unit(_not_minus_zero(digits), word)}"
    if limit.form == "better":
        text += " as good"
    if settings.margin_abs:
        scale, word = shown_unit("difference", quantity)
        text += f", or within {_with_unit(f'{settings.margin_abs * scale:.4g}', word)} of that" if limit.form == "value" else ""
        if limit.form != "value":
            text += f", differences up to {_with_unit(f'{settings.margin_abs * scale:.4g}', word)} pass"
    return text


def _digits(value: float, form: Form, quantity: Quantity) -> str:
    sign = "+" if form in ("difference", "relative") else ""
    if quantity.unit == "bytes" and form in ("value", "difference"):
        return format(round(value), f"{sign},d")
    if quantity.unit == "fraction" and form in ("value", "difference"):
        return _not_minus_zero(f"{value:{sign}.2f}")
    if form == "relative":
        return _not_minus_zero(f"{value:{sign}.2f}" if abs(value) < 10 else f"{value:{sign}.1f}")
    return _not_minus_zero(f"{value:{sign}.4g}")


def _not_minus_zero(text: str) -> str:
    return "+" + text[1:] if text.startswith("-") and not text.strip("-0.") else text


def _with_unit(text: str, word: str) -> str:
    return f"{text}{word}" if word == "x" else f"{text} {word}".rstrip()
