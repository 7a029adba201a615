"""What is wrong with a gate before anything is measured: told with the recipe, or with the command line. Light: no numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

from accel.benchmarks.gate_limits import BASELINE, LIMITS, form_of
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.quantities import FROM_SCENARIO, Quantity, quantity, unknown

ABSURD_DROP = 2.0
"""Relative: three times as slow or as large. Who writes this means per cent."""

Problem = tuple[str | None, str]
"""The key it is about, None for the whole gate, and a sentence."""


def problems(
    settings: GateSettings,
    *,
    metrics: Mapping[str, bool],
    targets: Sequence[str] | None = None,
    scenarios: Sequence[str] | None = None,
    percentiles: Sequence[int] | None = None,
    judged: bool = True,
) -> Iterator[Problem]:
    """Every problem of one gate.

    ``metrics``: of the task, to whether higher is better (whichever is taken where that is not known yet). ``targets``,
    ``scenarios``, ``percentiles``: what will be measured; None where that is not known. ``judged``: there is validation data.
    """
    given = [name for name in LIMITS if getattr(settings, name) is not None]
    if len(given) != 1:
        yield None, f"takes exactly one of {', '.join(LIMITS)}; found {' and '.join(given) or 'none'}"
    if settings.target is not None and targets is not None and settings.target not in targets:
        listed = f"{', '.join(targets)}{_near(settings.target, targets)}"
        yield "target", f"there is no target {settings.target[:60]!r}; allowed: {listed}"
    found = quantity(settings.metric, metrics)
    if found is None:
        yield "metric", unknown(settings.metric, list(metrics))
        return
    if len(given) == 1:
        yield from _limit(settings, found)
    yield from _measured(found, scenarios, percentiles, judged)


def _limit(settings: GateSettings, found: Quantity) -> Iterator[Problem]:
    fraction = found.unit == "fraction"
    if settings.max is not None or settings.min is not None:
        key = "max" if settings.max is not None else "min"
        value = settings.max if settings.max is not None else settings.min
        assert value is not None
        if settings.vs is not None:
            yield "vs", f"does not go with {key}, a limit on the value itself; use max_drop or min_improvement"
        if settings.drop_type is not None:
            yield "drop_type", f"does not go with {key}; it says how max_drop or min_improvement is meant"
        if fraction and not 0 <= value <= 1:
            yield key, f"found {value:g}; {found.name} is a fraction, allowed: 0 to 1 (0.87 is 87 %)"
        return
    form = form_of(settings, found)
    if found.kind == "fidelity" and (settings.vs or BASELINE) == BASELINE:
        yield "metric", f"{found.name} already compares with the reference row; use max or min, or vs: a stored report"
    if fraction and form == "difference":
        value = settings.max_drop if settings.max_drop is not None else settings.min_improvement
        key = "max_drop" if settings.max_drop is not None else "min_improvement"
        if value is not None and value >= 1:
            yield key, f"found {value:g}; {found.name} is a fraction: 0.01 is one percentage point"
    if found.unit in ("fraction", "per_s") and form == "relative" and (settings.max_drop or 0) >= 1:
        yield "max_drop", f"found {settings.max_drop:g}; relative, 0.01 is 1 %, and {found.name} cannot lose more than 100 %"
    elif form == "relative" and settings.max_drop is not None and settings.max_drop >= ABSURD_DROP:
        meant = f"0.05 is 5 %, and this allows {settings.max_drop + 1:g} times as much; where that is meant, use max"
        yield "max_drop", f"found {settings.max_drop:g}; relative, {meant}"
    if settings.min_improvement is not None and form == "better" and settings.min_improvement < 1:
        meant = "2.0 is twice as good and 1.1 is 10 % better: allowed are 1 and more"
        yield "min_improvement", f"found {settings.min_improvement:g}; relative, {meant}"
    if settings.min_improvement is not None and form == "difference" and settings.min_improvement < 0:
        yield "min_improvement", f"found {settings.min_improvement:g}, allowed: 0 and more; to allow a loss use max_drop"
    vs = settings.vs
    if vs is not None and vs != BASELINE and not vs.endswith(".json"):
        yield "vs", f"found {vs[:60]!r}, allowed: {BASELINE}, or the path of a report.json{_near(vs, [BASELINE])}"


def _measured(
    found: Quantity, scenarios: Sequence[str] | None, percentiles: Sequence[int] | None, judged: bool
) -> Iterator[Problem]:
    scenario = FROM_SCENARIO.get(found.name)
    if scenario is not None and scenarios is not None and scenario not in scenarios:
        yield "metric", f"{found.name} is measured in the scenario {scenario}; add it to benchmark.scenario"
    for percent in (90, 99):
        if found.name == f"latency_p{percent}_ms" and percentiles is not None and percent not in percentiles:
            yield "metric", f"{found.name} is not reported; add {percent} to benchmark.percentiles"
    if not judged and (found.metric or (found.kind == "fidelity" and found.name != "int8_share")):
        yield "metric", f"{found.name} needs validation data; add data.validation"


def _near(word: str, words: Sequence[str]) -> str:
    close = get_close_matches(word[:60], words, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
