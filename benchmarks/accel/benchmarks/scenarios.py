"""MLPerf's scenarios: which settings a recipe asks for, and a Point from what was measured at one of them.

``single_stream``: one query after the other. ``multi_stream``: the same, a query being eight batches (its eight samples).
``offline``: all the samples at once, over several streams. ``server``: queries arrive by themselves, and a 99th percentile is
kept (mlcommons/inference_policies, inference_rules.adoc, "Scenarios"; much shorter here than their ten minutes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from accel.benchmarks import stability
from accel.benchmarks.statistics import Floats, Turns, early_stopping_percentile, ratio, turn_medians
from accel.report import Estimate, Point, Speedup
from accel.scenario import Scenario

MULTI_STREAM_BATCHES = 8
"""Samples of a multi_stream query in MLPerf's rules."""

BOUND_MEDIANS = 10.0
SWEEP_CONFIDENCE = 0.95
"""A sweep makes a number of restarts that is fixed beforehand: nobody looks at its intervals to stop."""


@dataclass(frozen=True)
class Setting:
    """One scenario at one setting. ``streams``: inferences at a time, each with ``threads`` threads."""

    scenario: Scenario
    batch_size: int
    threads: int
    streams: int = 1

    @property
    def batches_per_query(self) -> int:
        return MULTI_STREAM_BATCHES if self.scenario == "multi_stream" else 1

    def __str__(self) -> str:
        parts = [self.scenario, f"batch {self.batch_size}", f"{self.threads} thread{'s' if self.threads > 1 else ''}"]
        if self.scenario in ("offline", "server"):
            parts.append(f"{self.streams} stream{'s' if self.streams > 1 else ''}")
        return ", ".join(parts)


def asked_for(
    scenarios: Sequence[Scenario], batch_sizes: Sequence[int], threads: Sequence[int], streams: Sequence[int]
) -> list[Setting]:
    """All that is to be measured beside the main comparison, which is single_stream at the first batch size and thread count.

    Every combination, each once, in the order of the lists. The main one is among them where single_stream is asked for at more
    than one, so that a table of them is complete.
    """
    found = [
        Setting(scenario, batch_size, count, stream)
        for scenario in scenarios
        for batch_size in batch_sizes
        for count in threads
        for stream in (streams if scenario in ("offline", "server") else (1,))
    ]
    found = list(dict.fromkeys(found))
    single = [setting for setting in found if setting.scenario == "single_stream"]
    main = Setting("single_stream", batch_sizes[0], threads[0])
    return [setting for setting in found if setting not in single] if single == [main] else found


@dataclass(frozen=True)
class Measured:
    """One row at one setting. ``cost_ns``: (restarts, rounds) nanoseconds of a query, or of a sample in ``offline``: what
    rows are compared by."""

    point: Point
    cost_ns: Floats


def failed(setting: Setting, reason: str) -> Point:
    """A point without figures."""
    return Point(
        scenario=setting.scenario,
        batch_size=setting.batch_size,
        threads=setting.threads,
        streams=setting.streams,
        samples_per_query=setting.batch_size * setting.batches_per_query,
        queries=0,
        restarts=0,
        reason=reason,
    )


def one_after_the_other(setting: Setting, turns: Turns, *, pinned: Sequence[int], percentiles: Sequence[int]) -> Measured:
    """A point of ``single_stream`` or ``multi_stream``; ``turns``: nanoseconds of each query."""
    medians = turn_medians(turns)
    samples = np.concatenate([np.asarray(turn, dtype=np.float64) for rounds in turns for turn in rounds]) / 1e6
    p50 = _over_restarts(medians)
    in_ms = Estimate(value=p50.value / 1e6, low=p50.low and p50.low / 1e6, high=p50.high and p50.high / 1e6)
    per_query = setting.batch_size * setting.batches_per_query
    point = _point(setting, pinned, per_query, samples.size, len(turns)).model_copy(
        update={
            **_percentiles(samples, percentiles),
            "throughput_per_s": _per_second(p50, per_query),
            "unstable": stability.of_latency(in_ms, medians / 1e6),
        }
    )
    return Measured(point, medians)


def all_at_once(setting: Setting, turns: Sequence[Sequence[tuple[int, int]]], *, pinned: Sequence[int]) -> Measured:
    """A point of ``offline``; ``turns[restart][round]``: inferences of all streams together, and their nanoseconds."""
    inferences = np.array([[made for made, _ in rounds] for rounds in turns], dtype=np.float64)
    cost = np.array([[taken for _, taken in rounds] for rounds in turns], dtype=np.float64) / (inferences * setting.batch_size)
    found = _over_restarts(cost)
    per_turn = round(float(np.median(inferences)) * setting.batch_size)
    point = _point(setting, pinned, per_turn, inferences.size, len(turns)).model_copy(
        update={"throughput_per_s": _per_second(found, 1), "unstable": _wide(found, "throughput", len(turns))}
    )
    return Measured(point, cost)


def at_random(
    setting: Setting,
    rates_per_s: Sequence[float],
    latencies_ns: Sequence[Sequence[int]],
    *,
    bound_ms: float,
    pinned: Sequence[int],
    percentiles: Sequence[int],
    unfinished: str | None = None,
) -> Measured:
    """A point of ``server``: the highest rate of each restart, and the latencies at it. ``unfinished``: why not higher."""
    cost = 1e9 / np.array(rates_per_s, dtype=np.float64)[:, None]
    found = _over_restarts(cost)
    samples = np.concatenate([np.asarray(each, dtype=np.float64) for each in latencies_ns]) / 1e6
    point = _point(setting, pinned, setting.batch_size, samples.size, len(rates_per_s)).model_copy(
        update={
            **_percentiles(samples, percentiles),
            "rate_per_s": _per_second(found, 1),
            "bound_ms": bound_ms,
            "unstable": unfinished or _wide(found, "rate", len(rates_per_s)),
        }
    )
    return Measured(point, cost)


def compared(row: Measured, others: Mapping[str, Measured]) -> list[Speedup]:
    """How many times faster, or more a second, ``row`` is than each of ``others`` at the same setting: above 1 is more."""
    found = []
    for name, other in others.items():
        value = ratio(other.cost_ns, row.cost_ns, confidence=SWEEP_CONFIDENCE)
        found.append(Speedup(vs=name, ratio=value, unstable=stability.of_ratio(value, len(row.cost_ns))))
    return found


def default_bound_ms(medians_ms: Mapping[str, float], baselines: Sequence[str]) -> float:
    """What a query may take where the recipe does not say: ten times the median of the slowest FP32 baseline, for all rows.

    The same for all, else rates of a fast and a slow row say nothing about one another. Without a baseline: of the slowest row.
    """
    slowest = max([medians_ms[name] for name in baselines if name in medians_ms] or list(medians_ms.values()))
    return float(f"{BOUND_MEDIANS * slowest:.3g}")


def _point(setting: Setting, pinned: Sequence[int], samples_per_query: int, queries: int, restarts: int) -> Point:
    return Point(
        scenario=setting.scenario,
        batch_size=setting.batch_size,
        threads=setting.threads,
        streams=setting.streams,
        pinned=list(pinned),
        samples_per_query=samples_per_query,
        queries=queries,
        restarts=restarts,
    )


def _percentiles(samples_ms: Floats, wanted: Sequence[int]) -> dict[str, float | None]:
    return {f"p{each}_ms": early_stopping_percentile(samples_ms, each / 100) for each in (50, 90, 99) if each in (50, *wanted)}


def _over_restarts(cost_ns: Floats) -> Estimate:
    return ratio(cost_ns, np.ones_like(cost_ns), confidence=SWEEP_CONFIDENCE)


def _per_second(cost_ns: Estimate, samples: int) -> Estimate:
    """From nanoseconds to how many a second, ``samples`` at a time: the ends of the interval change places."""
    low, high = cost_ns.high, cost_ns.low
    return Estimate(
        value=samples * 1e9 / cost_ns.value,
        low=None if low is None else samples * 1e9 / low,
        high=None if high is None else samples * 1e9 / high,
    )


def _wide(cost_ns: Estimate, what: str, restarts: int) -> str | None:
    wide = stability.width(cost_ns)
    if wide is None or wide <= stability.WIDEST_LATENCY:
        return None
    found = _per_second(cost_ns, 1)
    return (
        f"its {what} lies between {found.low:.4g} and {found.high:.4g} a second, {100 * wide:.0f} % apart, over {restarts}"
        " restarts; run it on a machine that does nothing else, or give it more time (min_duration_s)"
    )
