"""How a recipe says what is measured. Light: pydantic only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from accel.scenario import Scenario
from accel.tasks.settings import PositiveInt


def _as_tuple(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return (value,) if isinstance(value, int | str) and not isinstance(value, bool) else value


Numbers = Annotated[
    tuple[PositiveInt, ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple, json_schema_input_type=PositiveInt | Annotated[tuple[PositiveInt, ...], Field(min_length=1)]),
]
Scenarios = Annotated[
    tuple[Scenario, ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple, json_schema_input_type=Scenario | Annotated[tuple[Scenario, ...], Field(min_length=1)]),
]


class BenchmarkSettings(BaseModel):
    """How latency and throughput are measured.

    The main comparison is ``single_stream`` at the first of ``batch_sizes`` and ``threads``. Every other scenario, and every
    other combination of ``batch_sizes``, ``threads`` and ``streams``, is a point of its own beside it: all rows in turn, in
    five restarts, ``min_duration_s`` seconds per row and point.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    scenario: Annotated[
        Scenarios,
        Field(
            description="One or several, in MLPerf's words. Whatever is asked for, rows are compared in single_stream too, and"
            " every ratio in the verdict and the gates is that comparison's"
        ),
    ] = ("single_stream",)
    warmup: Annotated[int, Field(ge=0, description="Inferences before any is timed")] = 10
    min_duration_s: Annotated[float, Field(gt=0, description="Timed seconds per row, at least")] = 3.0
    min_iterations: Annotated[int, Field(gt=0, description="Timed inferences per row, at least")] = 100
    max_interval: Annotated[
        float, Field(gt=0, description="Restarts are added until no ratio's interval is wider (0.03: 3 %), or the time is up")
    ] = 0.03
    max_duration_s: Annotated[
        float, Field(gt=0, description="Seconds per row, starting included, after which none is added")
    ] = 10.0
    percentiles: Annotated[
        tuple[Literal[50, 90, 99], ...], Field(description="Of latency; no others are reported, nor from too few inferences")
    ] = (50, 90, 99)
    batch_sizes: Numbers = (1,)
    threads: Annotated[
        Numbers, Field(description="Of each inference; a row is not measured with more of them than there are cores")
    ] = (1,)
    streams: Annotated[Numbers, Field(description="offline, server: inferences at a time, with threads each")] = (1,)
    pinning: Annotated[
        bool,
        Field(
            description="CPU rows are kept on as many cores as they have threads, all on the same ones, while they are timed"
        ),
    ] = True
    server_bound_ms: Annotated[
        float | None,
        Field(
            gt=0,
            description="server: what the 99th percentile may take, the same for all rows; by default ten times the"
            " median of the slowest FP32 baseline, at a first look. The search for the highest rate takes at most"
            " max_duration_s in each restart",
        ),
    ] = None
    restarts: Annotated[int, Field(ge=5, description="Fresh processes per row, at least: what intervals are computed from")] = 5
    compile_timeout_s: Annotated[float, Field(gt=0)] = 600.0
