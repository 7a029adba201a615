"""What may be asked of ``prune``: settings shared by its methods. Imports no torch."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

Importance = Literal["magnitude", "taylor", "bn_scale", "fpgm", "lamp", "hessian", "random"]
Ratio = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
OwnRatio = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
LayerName = Annotated[str, Field(min_length=1)]


def _percentage(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,2}(\.[0-9]+)?\s*%", text) or not float(text.rstrip("% ")) > 0:
        raise ValueError(f'{text!r} is not a part that remains, such as "40%" (more than 0%, less than 100%), nor a number')
    return text


Remaining = Annotated[float, Field(gt=0, allow_inf_nan=False)] | Annotated[str, AfterValidator(_percentage)]
"""``"40%"``: of what the model costs before this pass. A number: in the constraint's own unit."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Constraint:
    """What may remain: one of ``macs`` (multiply-adds for one sample), ``params``, ``latency_ms``.

    ``target``: name of the target that latency is measured on, each target of the recipe where it is not given. ``precision``:
    of what is timed, INT8 by default if a later pass quantizes.
    """

    macs: Remaining | None = None
    params: Remaining | None = None
    latency_ms: Remaining | None = None
    target: LayerName | None = None
    precision: Literal["int8", "fp32"] | None = None

    @model_validator(mode="after")
    def _require_one(self) -> Self:
        given = [name for name in ("macs", "params", "latency_ms") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of macs, params and latency_ms{', not ' + ' and '.join(given) if given else ''}")
        if self.latency_ms is None and (self.target is not None or self.precision is not None):
            raise ValueError(f"target and precision are for latency_ms; {given[0]} does not depend on them")
        return self

    @property
    def unit(self) -> Literal["macs", "params", "latency_ms"]:
        return "macs" if self.macs is not None else "params" if self.params is not None else "latency_ms"

    def remaining(self, whole: float) -> float:
        """What may remain of ``whole``, in its unit."""
        asked = getattr(self, self.unit)
        return whole * float(asked.rstrip("% ")) / 100 if isinstance(asked, str) else float(asked)
