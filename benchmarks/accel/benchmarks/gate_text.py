"""Gates on the command line: ``latency_p50>+5%`` fails where the median is more than 5 % above the baseline's. Light.

    METRIC > LIMIT [and MARGIN] [or inconclusive] [@TARGET]      or with <

A LIMIT without a sign is a value (``top1<0.87``, ``latency_p50>0.5ms``, ``size>300kB``); with a sign it is a difference to what
is compared with, and has a unit: ``%`` is relative, ``pt`` are percentage points, else the metric's own. ``speedup<2`` and
``compression<3`` are factors. MARGIN is a difference below which nothing fails (``latency_p50>+5% and +0.05ms``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from accel.benchmarks.gate_checks import problems
from accel.benchmarks.gate_limits import form_of
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.quantities import Quantity, quantity, unknown
from accel.errors import UsageError

EXAMPLES = "latency_p50>+5%, top1<-1pt, size>+0%, speedup<2, top1<0.87, latency_p50>0.5ms@openvino"
FACTORS: Mapping[str, str] = {"speedup": "latency_p50_ms", "compression": "size_bytes"}

_LONGEST = 300
_NUMBER = r"(?:[0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})"
_EXPRESSION = re.compile(
    rf"\s*(?P<metric>[^<>\s](?:[^<>]*[^<>\s])?)\s*(?P<way>[<>])\s*(?P<sign>[-+]?)(?P<number>{_NUMBER})\s*(?P<unit>%|[A-Za-z]*)"
    rf"(?:\s+and\s+[-+]?(?P<margin>{_NUMBER})\s*(?P<margin_unit>[A-Za-z]*))?(?P<strict>\s+or\s+inconclusive)?"
    r"(?:\s*@\s*(?P<target>\S(?:.*\S)?))?\s*",
    re.DOTALL,
)
_UNITS: Mapping[str, Mapping[str, Decimal]] = {
    "fraction": {"pt": Decimal("0.01"), "pp": Decimal("0.01"), "points": Decimal("0.01")},
    "ms": {"ms": Decimal(1), "us": Decimal("0.001"), "s": Decimal(1000)},
    "s": {"s": Decimal(1), "ms": Decimal("0.001"), "min": Decimal(60)},
    "per_s": {"": Decimal(1)},
    "bytes": {
        "B": Decimal(1), "bytes": Decimal(1), "kB": Decimal(10**3), "KB": Decimal(10**3), "MB": Decimal(10**6),
        "GB": Decimal(10**9),
    },
    "dB": {"dB": Decimal(1)},
    "": {"": Decimal(1)},
}  # fmt: skip


def parse(
    text: str,
    *,
    metrics: Mapping[str, bool | None],
    vs: str | None = None,
    targets: Sequence[str] | None = None,
) -> GateSettings:
    """The gate that ``text`` says. UsageError with the grammar where it says none, or one that cannot be meant.

    ``metrics``: of the task, to whether higher is better, None where that is not known before it is measured. ``vs``: what a
    difference is to; None: the baseline of the same run. ``targets``: as in gate_checks.
    """
    shown = repr(text if len(text) <= 80 else text[:79] + "…")
    found = _EXPRESSION.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise UsageError(f"gate {shown}: allowed is METRIC>LIMIT or METRIC<LIMIT [@TARGET], which fails; such as {EXAMPLES}")
    try:
        settings = _settings(found, metrics, vs)
    except ValueError as error:
        raise UsageError(f"gate {shown}: {error}") from None
    directions = {name: bool(higher) for name, higher in metrics.items()}
    for _, problem in problems(settings, metrics=directions, targets=targets):
        raise UsageError(f"gate {shown}: {problem}")
    return settings


def _settings(found: re.Match[str], metrics: Mapping[str, bool | None], vs: str | None) -> GateSettings:
    name, sign, unit = found["metric"], found["sign"], found["unit"]
    factor = FACTORS.get(name) if name not in metrics else None
    known = quantity(factor or name, {metric: bool(higher) for metric, higher in metrics.items()})
    if known is None:
        raise ValueError(unknown(name, [*metrics, *FACTORS]))
    value = Decimal(found["number"])
    rest: dict[str, object] = {
        "metric": known.name,
        "target": found["target"],
        "on_inconclusive": "fail" if found["strict"] else "pass",
        "margin_abs": None if found["margin"] is None else _margin(Decimal(found["margin"]), found["margin_unit"], known),
    }
    if factor is not None:
        if sign or unit not in ("", "x") or found["way"] != "<":
            raise ValueError(f"write {name}<2: it fails where it is less than twice")
        return GateSettings(min_improvement=float(value), drop_type="relative", vs=vs, **rest)
    if not sign:
        limit = (
            float(value / 100) if unit == "%" and known.unit == "fraction" else float(value * _scale(unit, known, bare=True))
        )
        return GateSettings(**{"max" if found["way"] == ">" else "min": limit}, **rest)
    if known.metric and metrics[known.name] is None:
        raise ValueError(f"which way {known.name} is good is not known yet; put the gate in the recipe, with max_drop")
    relative = unit == "%"
    scale = Decimal("0.01") if relative else _scale(unit, known, bare=known.unit == "")
    return GateSettings(**_change(found["way"], sign, value * scale, relative, known), vs=vs, **rest)


def _change(way: str, sign: str, size: Decimal, relative: bool, known: Quantity) -> dict[str, object]:
    """``max_drop`` for a difference the bad way, ``min_improvement`` for one the good way."""
    fails_low = known.higher_is_better
    if (way == "<") != fails_low:
        good = f"{known.name} is good where it is {'high' if fails_low else 'low'}"
        raise ValueError(f"{good}, so this fails where it gets better; write it with {'<' if fails_low else '>'}")
    kind = {"drop_type": "relative" if relative else "absolute"}
    if size == 0 or (sign == "-") == fails_low:
        return {"max_drop": float(size), **kind}
    if not relative:
        return {"min_improvement": float(size), **kind}
    if not fails_low and size >= 1:
        raise ValueError("nothing gets smaller by 100 % or more")
    return {"min_improvement": float(1 + size) if fails_low else float(1 / (1 - size)), **kind}


def _margin(value: Decimal, unit: str, known: Quantity) -> float:
    return float(value * _scale(unit, known, bare=known.unit == ""))


def _scale(unit: str, known: Quantity, *, bare: bool) -> Decimal:
    """From ``unit`` to the quantity's own. ``bare``: no unit means that one."""
    units = _UNITS[known.unit]
    if unit in units:
        return units[unit]
    if unit == "" and bare:
        return Decimal(1)
    listed = ", ".join(filter(None, units)) or "a bare number"
    if unit == "":
        raise ValueError(f"a difference of {known.name} has a unit: % (relative) or {listed}")
    raise ValueError(f"{unit!r} is no unit of {known.name}; allowed: % (relative), {listed}")


def expression(settings: GateSettings, known: Quantity) -> str:
    """The text that :func:`parse` reads as ``settings``."""
    end = f" and {_in_unit(settings.margin_abs, known)}" if settings.margin_abs is not None else ""
    end += " or inconclusive" if settings.on_inconclusive == "fail" else ""
    end += f" @{settings.target}" if settings.target is not None else ""
    if settings.max is not None or settings.min is not None:
        value = settings.max if settings.max is not None else settings.min
        return f"{known.name}{'>' if settings.max is not None else '<'}{_plain(value)}{end}"
    way, bad, good = ("<", "-", "+") if known.higher_is_better else (">", "+", "-")
    form = form_of(settings, known)
    if settings.max_drop is not None:
        size = f"{_plain(settings.max_drop, 100)}%" if form == "relative" else _in_unit(settings.max_drop, known)
        return f"{known.name}{way}{bad}{size}{end}"
    assert settings.min_improvement is not None
    if form == "difference":
        return f"{known.name}{way}{good}{_in_unit(settings.min_improvement, known)}{end}"
    short = next((name for name, stands in FACTORS.items() if stands == known.name), None)
    if short is not None:
        return f"{short}<{_plain(settings.min_improvement)}{end}"
    share = settings.min_improvement - 1 if known.higher_is_better else 1 - 1 / settings.min_improvement
    return f"{known.name}{way}{good}{_plain(round(share, 12), 100)}%{end}"


def _in_unit(value: float, known: Quantity) -> str:
    return f"{_plain(value, 100)}pt" if known.unit == "fraction" else f"{_plain(value)}{_unit(known)}"


def _unit(known: Quantity) -> str:
    return {"bytes": "B", "per_s": ""}.get(known.unit, known.unit)


def _plain(value: float | None, times: int = 1) -> str:
    """All digits of ``times * value``, as a decimal number."""
    return format((Decimal(repr(value)) * times).normalize(), "f")
