"""How a figure is written for people: the same in the verdict, the Markdown report and the terminal. No numpy, no markup."""

from __future__ import annotations

import re
from collections.abc import Sequence

from accel.report import Estimate, Fidelity, Gate, Latency, Metric, Precision, Row, Speedup

NONE = "–"
NAMED = 3
"""Gates that a line names before it counts the rest."""


def milliseconds(value: float | None) -> str:
    """Three significant digits below 1000 ms: ``0.412 ms``."""
    return NONE if value is None else f"{_significant(value)} ms"


def seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f} s" if value >= 10 else f"{_significant(value)} s"


def size(value: int | None) -> str:
    """Bytes in powers of 1000: ``314 kB``."""
    if value is None:
        return NONE
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5 or unit == "GB":
            return f"{int(amount)} B" if unit == "B" else f"{_significant(amount)} {unit}"
        amount /= 1000
    raise AssertionError("unreachable")


def _significant(value: float) -> str:
    """Three significant digits, never in powers of ten for what a report holds."""
    if value == 0 or not 1e-6 <= abs(value) < 1e9:
        return f"{value:.3g}"
    digits = 0
    while abs(value) * 10**digits < 99.95 and digits < 9:
        digits += 1
    return f"{value:.{digits}f}"


def label(metric: str) -> str:
    """``top-1`` for ``top1``; other names as they are."""
    return re.sub(r"^top(\d+)$", r"top-\1", metric)


def is_fraction(metric: str) -> bool:
    """Whether it is written in percent: top-k, accuracies, agreement and nearest labels; not the user's own."""
    return re.fullmatch(r"top\d+|accuracy|agreement|nearest_label", metric) is not None


def metric_value(metric: Metric) -> str:
    return f"{100 * metric.value:.2f} %" if is_fraction(metric.name) else f"{metric.value:.4g}"


def metric_difference(metric: Metric) -> str:
    """``-0.40 points (CI -0.70 to -0.10)``, or without the bounds where there are none; empty for the reference itself."""
    return "" if metric.difference is None else difference(metric.name, metric.difference)


def difference(metric: str, found: Estimate) -> str:
    """A difference of ``metric``, with its interval."""
    fraction = is_fraction(metric)

    def number(value: float) -> str:
        text = f"{100 * value:+.2f}" if fraction else f"{value:+.4g}"
        return text.replace("-0.00", "+0.00") if text == "-0.00" else text

    text = f"{number(found.value)} points" if fraction else number(found.value)
    if found.low is not None and found.high is not None:
        text += f" (CI {number(found.low)} to {number(found.high)})"
    return text


def cosine(found: Fidelity | None) -> str:
    """``cosine 0.9934 (CI 0.9931 to 0.9937)`` of embeddings to the reference's; empty where there is none."""
    if found is None or found.cosine is None:
        return ""
    value = found.cosine
    bounds = "" if value.low is None or value.high is None else f" (CI {value.low:.4f} to {value.high:.4f})"
    return f"cosine {value.value:.4f}{bounds}"


def estimate(found: Estimate) -> str:
    """Four significant digits, with the interval: ``1.234 (CI 1.2 to 1.27)``."""
    text = f"{found.value:.4g}"
    if found.low is not None and found.high is not None:
        text += f" (CI {found.low:.4g} to {found.high:.4g})"
    return text


def ratio(found: Estimate) -> str:
    """``2.13x (CI 2.09 to 2.17)``."""
    if found.low is None or found.high is None:
        return f"{found.value:.2f}x (no interval)"
    places = _places(found)
    return f"{found.value:.{places}f}x (CI {found.low:.{places}f} to {found.high:.{places}f})"


def faster(found: Estimate) -> str:
    """``2.13x faster (95 % CI 2.09 to 2.17)``, ``1.20x slower (...)`` or ``not significantly faster (1.01x, ...)``."""
    if found.low is None or found.high is None:
        direction = "faster" if found.value >= 1 else "slower"
        return f"{max(found.value, 1 / found.value):.2f}x {direction} (no interval)"
    if found.low <= 1 <= found.high:
        places = _places(found)
        bounds = f"95 % CI {found.low:.{places}f} to {found.high:.{places}f}"
        return f"not significantly faster ({found.value:.{places}f}x, {bounds})"
    direction = "faster"
    if found.high < 1:
        direction = "slower"
        found = Estimate(value=1 / found.value, low=1 / found.high, high=1 / found.low)
    assert found.low is not None
    assert found.high is not None
    places = _places(found)
    return f"{found.value:.{places}f}x {direction} (95 % CI {found.low:.{places}f} to {found.high:.{places}f})"


def _places(found: Estimate) -> int:
    """Two decimals, three where two would show no interval."""
    assert found.low is not None
    assert found.high is not None
    return 2 if f"{found.low:.2f}" != f"{found.high:.2f}" else 3


def unstable(reason: str) -> str:
    """What stands in the place of a number that is not to be relied on."""
    return f"unstable ({reason})"


def p50(latency: Latency | None) -> str:
    """The median; ``unstable`` with the reason, and no number, where it is not to be relied on."""
    if latency is not None and latency.unstable is not None:
        return unstable(latency.unstable)
    return milliseconds(None if latency is None else latency.p50_ms)


def speed(found: Speedup | None) -> str:
    """:func:`ratio` of a row against another; ``unstable`` with the reason where that is all one may say."""
    if found is None:
        return NONE
    return ratio(found.ratio) if found.unstable is None else unstable(found.unstable)


def per_second(found: Estimate | None) -> str:
    """``1,234/s (CI 1,210 to 1,260)``."""
    if found is None:
        return NONE
    text = f"{_counted(found.value)}/s"
    if found.low is not None and found.high is not None:
        text += f" (CI {_counted(found.low)} to {_counted(found.high)})"
    return text


def _counted(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else _significant(value)


def count(value: float) -> str:
    """``40.6 M``: three significant digits in powers of 1000, for operations."""
    for unit in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.0f}" if not unit else f"{_significant(value)}{unit}"
        value /= 1000
    return f"{_significant(value)} T"


def percent(share: float | None) -> str:
    """``12 %``; one decimal below 10 %."""
    if share is None:
        return NONE
    return f"{100 * share:.0f} %" if abs(share) >= 0.0995 else f"{100 * share:.1f} %"


def p_value(found: float) -> str:
    return "< 0.001" if found < 0.001 else f"{found:.3f}"


def gates_line(gates: Sequence[Gate]) -> str:
    """``PASS 4/4 gates``, ``FAIL 1 of 4 gates (top1 on ort)`` or ``INCONCLUSIVE 1 of 4 gates (...)``; empty without gates.

    The first word is what the run does: an inconclusive gate that fails the run is among the failed ones.
    """
    if not gates:
        return ""
    failed = [gate.name for gate in gates if gate.failed]
    open_ = [gate.name for gate in gates if not gate.failed and gate.verdict == "inconclusive"]
    word, which = ("FAIL", failed) if failed else ("INCONCLUSIVE", open_)
    if not which:
        return f"PASS {len(gates)}/{len(gates)} gates"
    names = listed([*which[:NAMED], *([f"{len(which) - NAMED} more"] if len(which) > NAMED else [])])
    return f"{word} {len(which)} of {len(gates)} gates ({names})"


def smaller(before: int, after: int) -> str:
    """``3.9x smaller`` or ``1.1x larger``; ``the same size`` within 1 %."""
    if not before or not after:
        return "size unknown"
    if abs(before / after - 1) < 0.01:
        return "the same size"
    return f"{before / after:.1f}x smaller" if before > after else f"{_significant(after / before)}x larger"


def precision(found: Precision | None) -> str:
    """What was executed: ``INT8 16/17 operators, else fp32``, or ``fp32``."""
    if found is None:
        return NONE
    if not found.quantized_operators:
        return found.float_precision
    return f"INT8 {found.int8_operators}/{found.quantized_operators} operators, else {found.float_precision}"


def place(row: Row) -> str:
    """``name on backend/device``."""
    return f"{row.name} on {row.backend}/{row.device}"


def trouble(row: Row) -> str | None:
    """``failed: reason`` or ``skipped: reason``; None for a row that is neither."""
    if row.status not in ("failed", "skipped"):
        return None
    return f"{row.status}: {row.reason or 'no reason given'}"


def listed(items: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
