"""What a gate says, in a recipe or on the command line. Light: pydantic only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

OnInconclusive = Literal["pass", "fail"]


class GateSettings(BaseModel):
    """One limit: ``max``, ``min``, ``max_drop`` or ``min_improvement``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    metric: Annotated[str, Field(min_length=1, description="A metric of the task (top1), or one that every run has: see docs")]
    target: Annotated[str | None, Field(description="Name of a target; by default every one, each by itself")] = None
    max: Annotated[float | None, Field(description="The value is at most this")] = None
    min: Annotated[float | None, Field(description="The value is at least this")] = None
    max_drop: Annotated[float | None, Field(ge=0, description="How much worse than vs it may be")] = None
    drop_type: Annotated[
        Literal["absolute", "relative"] | None,
        Field(description="By default absolute for metrics, relative for the rest"),
    ] = None
    min_improvement: Annotated[
        float | None, Field(description="How much better than vs it must be; relative: 2.0 is twice as good")
    ] = None
    vs: Annotated[str | None, Field(description="baseline, measured in the same run, or a stored report.json")] = None
    margin_abs: Annotated[
        float | None, Field(ge=0, description="A difference below this, in the metric's own unit, is never a failure")
    ] = None
    on_inconclusive: Annotated[OnInconclusive, Field(description="What the run does where the interval holds the limit")] = (
        "pass"
    )
