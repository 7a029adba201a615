"""Gates: limits on what was measured, judged from intervals, never from a point that has one. Light: no numpy.

A gate fails only where the whole interval is beyond its limit, and passes only where the whole interval is within; else it is
inconclusive. What is exact (sizes, counts of operators, a metric without values per sample) is its own interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from accel.benchmarks.changes import Change, against
from accel.benchmarks.gate_limits import BASELINE, Form, Limit, estimate, limit_of, shown_unit, vs_of, words
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.intervals import scaled
from accel.benchmarks.quantities import Quantity, metrics_of, quantity
from accel.benchmarks.stored_changes import samples, since
from accel.errors import UsageError
from accel.report import Estimate, Gate, GateKind, Report, Row

EXIT_CODES: Mapping[GateKind, int] = {"accuracy": 11, "latency": 12, "size": 13, "fidelity": 14}
SEVERAL_KINDS = 1

Word = Literal["pass", "fail", "inconclusive"]
_ROUNDING = 1e-9


@dataclass(frozen=True)
class _Judged:
    """``refused``: inconclusive, and the run fails: to pass it over would be wrong."""

    word: Word
    said: str
    found: Estimate | None = None
    vs: str | None = None
    refused: bool = False


def judge(
    settings: Sequence[GateSettings],
    report: Report,
    *,
    stored: Mapping[str, Report],
    places: Sequence[tuple[int, int]] = (),
    across_machines: bool = False,
) -> list[Gate]:
    """Every gate on every row that it is for, in the order of ``settings``.

    ``report``: its gates are not looked at. ``stored``: reports by what ``vs`` calls them; a missing one is a UsageError.
    ``places``: line and column of each in the recipe. ``across_machines``: ratios of latencies that other machines measured
    count too. A metric that no row has is inconclusive: whether there can be one, gate_checks tells before anything runs.
    """
    metrics = metrics_of(report.rows)
    gates = []
    for index, one in enumerate(settings):
        line, column = places[index] if index < len(places) else (0, 0)
        found = quantity(one.metric, metrics) or quantity(one.metric, {one.metric: True})
        assert found is not None
        rows = judged_rows(one, report.rows)
        if not rows:
            missing = "no row is a result" if one.target is None else f"there is no target {one.target}"
            gates.append(_gate(one, found, None, _Judged("fail", missing), line, column))
        for row in rows:
            judged = _judge(one, found, row, report, stored, across_machines)
            gates.append(_gate(one, found, row, judged, line, column))
    return gates


def judged_rows(settings: GateSettings, rows: Sequence[Row]) -> list[Row]:
    """The results; of one target where it is named. All rows where none is of a recipe: files measured beside one another."""
    results = [row for row in rows if row.role == "result"]
    if not results and all(row.target is None for row in rows):
        results = list(rows)
    if settings.target is None:
        return results
    return [row for row in results if settings.target in (row.target or row.backend, row.name)]


def exit_code(gates: Sequence[Gate]) -> int:
    """0 where none failed, the kind's own where all that failed are of one kind, else 1."""
    kinds = {gate.kind for gate in gates if gate.failed}
    if not kinds:
        return 0
    return EXIT_CODES[kinds.pop()] if len(kinds) == 1 else SEVERAL_KINDS


def stops(settings: Sequence[GateSettings]) -> list[GateSettings]:
    """The gates that more timing could decide: those on the median, against this run's baseline or on the value itself."""
    found = [one for one in settings if one.max is None and one.min is None and (one.vs or BASELINE) == BASELINE]
    return [one for one in found if (known := quantity(one.metric, {})) is not None and known.name == "latency_p50_ms"]


def conclusive(settings: Sequence[GateSettings], rows: Sequence[Row]) -> bool:
    """Whether every gate of :func:`stops` is decided by what ``rows`` have so far; False where there is none."""
    wanted = stops(settings)
    judged = [
        _judge_change(one, found, against(found, row, rows, 0))
        for one in wanted
        if (found := quantity(one.metric, {})) is not None
        for row in judged_rows(one, rows)
        if row.latency is not None
    ]
    return bool(judged) and all(each.word != "inconclusive" for each in judged)


def _judge(
    settings: GateSettings,
    found: Quantity,
    row: Row,
    report: Report,
    stored: Mapping[str, Report],
    across_machines: bool,
) -> _Judged:
    if row.status == "failed":
        return _Judged("fail", f"the row failed: {row.reason or 'no reason given'}")
    if row.status == "skipped":
        return _Judged("inconclusive", f"the target was skipped: {row.reason or 'no reason given'}")
    vs = vs_of(settings)
    if vs is None:
        return _judge_value(settings, found, row, samples(report))
    if vs == BASELINE:
        return _judge_change(settings, found, against(found, row, report.rows, samples(report)))
    if vs not in stored:
        raise UsageError(f"gate on {settings.metric}: the report {vs} was not read")
    return _judge_change(settings, found, since(found, row, report, stored[vs], vs, across_machines=across_machines))


def _judge_value(settings: GateSettings, quantity: Quantity, row: Row, count: int) -> _Judged:
    figure = quantity.read(row, count)
    if figure.broken is not None:
        return _Judged("fail", figure.broken)
    if figure.estimate is None:
        return _Judged("inconclusive", _absent(row, figure.reason))
    limit = limit_of(settings, quantity)
    word = _both(_excess(figure.estimate, limit, figure.exact), _margin(settings, figure.estimate, limit, figure.exact))
    said = estimate(figure.estimate, "value", quantity)
    word, said = _wary(word, said, figure.unstable, _excess(figure.estimate, limit, figure.exact))
    return _Judged(word, said, figure.estimate)


def _judge_change(settings: GateSettings, quantity: Quantity, change: Change) -> _Judged:
    limit = limit_of(settings, quantity)
    if change.broken is not None:
        return _Judged("fail", change.broken, vs=change.vs)
    if change.difference is None:
        return _Judged("inconclusive", change.reason, vs=change.vs, refused=change.refused)
    found = {"difference": change.difference, "relative": change.relative, "better": change.better}[limit.form]
    if found is None and limit.form == "relative":
        # Against 0, nothing is relative: any loss at all is beyond every limit, and none is within.
        zero = Limit("difference", limit.upper, 0.0)
        word = _both(_excess(change.difference, zero, change.exact), _margin(settings, change.difference, zero, change.exact))
        against_zero = f"{estimate(change.difference, 'difference', quantity)} against {change.vs}, which is 0"
        return _Judged(word, f"{against_zero}: no loss is a share of that, so any is too much", vs=change.vs)
    if found is None:
        why = f"{change.vs} or the row is 0 or negative, and nothing is a multiple of that"
        return _Judged("inconclusive", f"{why}; set drop_type: absolute", vs=change.vs, refused=True)
    word = _both(_excess(found, limit, change.exact), _margin_of_change(settings, quantity, found, change))
    said = f"{estimate(found, limit.form, quantity)} against {change.vs}"
    word, said = _wary(word, said, change.unstable, _excess(found, limit, change.exact))
    return _Judged(word, said, found, change.vs)


def _wary(word: Word, said: str, unstable: str | None, excess: Interval) -> tuple[Word, str]:
    """What is unstable passes where its whole, wide interval is within, and fails only where that is beyond the limit by more
    than it is wide: three times slower is slower on the busiest machine, and nothing near the limit is ever a false alarm."""
    if unstable is None:
        return word, said
    low, high = excess
    near = word == "fail" and not low > high - low
    return "inconclusive" if near else word, f"{said}, unstable: {unstable}"


def _absent(row: Row, reason: str) -> str:
    if row.status == "built":
        return row.reason or "nothing was measured, only built"
    return reason


Interval = tuple[float, float]
"""Of how far beyond a limit something is: above 0 is beyond."""


def _excess(found: Estimate, limit: Limit, exact: bool) -> Interval:
    low, high = bounds(found, exact)
    slack = _ROUNDING * max(abs(limit.bound), abs(found.value))  # 0.1 + 0.2 is not beyond 0.3
    if limit.upper:
        return low - limit.bound - slack, high - limit.bound - slack
    return limit.bound - high - slack, limit.bound - low - slack


def bounds(found: Estimate, exact: bool) -> Interval:
    """The whole interval: a bound that is unknown is as far away as can be."""
    if exact:
        return found.value, found.value
    return (
        -math.inf if found.low is None else found.low,
        math.inf if found.high is None else found.high,
    )


def _margin(settings: GateSettings, found: Estimate, limit: Limit, exact: bool) -> Interval | None:
    """How far the excess itself is above ``margin_abs``; None where none is set."""
    if not settings.margin_abs:
        return None
    low, high = _excess(found, limit, exact)
    return low - settings.margin_abs, high - settings.margin_abs


def _margin_of_change(settings: GateSettings, quantity: Quantity, found: Estimate, change: Change) -> Interval | None:
    """How far the loss is above ``margin_abs``; for an improvement, how far what is missing of it is."""
    margin = settings.margin_abs
    if not margin:
        return None
    assert change.difference is not None
    loss = scaled(change.difference, -1.0 if quantity.higher_is_better else 1.0)
    if settings.min_improvement is not None:
        limit = limit_of(settings, quantity)
        if limit.form == "difference":
            return _margin(settings, found, limit, change.exact)
        # The row would have to be vs times, or vs over, the bound: what it lacks of that, in the quantity's own unit.
        wanted = change.vs_value * limit.bound if quantity.higher_is_better else change.vs_value / limit.bound
        loss = scaled(loss, 1.0, abs(wanted - change.vs_value))
    return _excess(loss, Limit("difference", True, margin), change.exact)


def _both(excess: Interval, margin: Interval | None) -> Word:
    """A failure needs both."""
    words_ = [_word(excess), *([] if margin is None else [_word(margin)])]
    if "pass" in words_:
        return "pass"
    return "fail" if all(word == "fail" for word in words_) else "inconclusive"


def _word(excess: Interval) -> Word:
    low, high = excess
    if low > 0:
        return "fail"
    return "pass" if high <= 0 else "inconclusive"


def _gate(settings: GateSettings, quantity: Quantity, row: Row | None, judged: _Judged, line: int, column: int) -> Gate:
    limit = limit_of(settings, quantity)
    where = row.target or row.name if row is not None else settings.target
    allowed = words(limit, quantity, settings)
    failed = judged.word == "fail" or (judged.word == "inconclusive" and (judged.refused or settings.on_inconclusive == "fail"))
    return Gate(
        name=f"{settings.metric}@{where}" if where else settings.metric,
        metric=quantity.name,
        kind=quantity.kind,
        target=None if row is None else row.target,
        row=None if row is None else row.name,
        vs=judged.vs or vs_of(settings),
        limit=allowed,
        found=None if judged.found is None else _in_unit(judged.found, limit.form, quantity),
        verdict=judged.word,
        failed=failed,
        text=f"{quantity.name} of {where or 'the run'}: {judged.said}; the limit is {allowed}",
        line=line,
        column=column,
    )


def _in_unit(found: Estimate, form: Form, quantity: Quantity) -> Estimate:
    """In the unit that the limit is written in: percent, points."""
    return scaled(found, shown_unit(form, quantity)[0])
