"""Which torch model is meant where a setting takes one besides the recipe's own: a teacher, for example. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ModelSource:
    """Exactly one of ``factory`` and ``torchvision``, as in a recipe's ``model``, whose inputs it takes.

    ``factory``: ``file.py:name`` beside the recipe, or ``package.module:name``. ``weights``: a safetensors or state-dict file;
    without one the weights are those that the factory gives. Settings only: ``accel.origin`` builds the module.
    """

    factory: Annotated[str, Field(pattern=r"^[^:]+:[^:]+$")] | None = None
    torchvision: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")] | None = None
    kwargs: Mapping[str, Any] | None = field(default=None, hash=False)  # a mapping has no hash; equality looks at it
    weights: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _require_one_source(self) -> Self:
        given = [name for name in ("factory", "torchvision") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"takes exactly one of factory, torchvision; found {' and '.join(given) or 'none'}")
        if self.torchvision is not None:
            if {"weights", "pretrained"} & set(self.kwargs or ()):
                raise ValueError("nothing is downloaded: give the file as `weights` beside `torchvision`, not in kwargs")
            if self.weights is None:
                raise ValueError(f"torchvision {self.torchvision!r} without `weights` is a net of random numbers; name a file")
        return self
