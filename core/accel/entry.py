"""What every document of ours is made of: frozen, no unknown keys, no NaN."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Entry(BaseModel):
    """A part of a document. Units are in the names; what is not known is null."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
