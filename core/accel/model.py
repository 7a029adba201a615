"""What flows through the pipeline: a model, its signature, and where it goes. What was done is in the report's steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. An ``int`` in ``shape`` is fixed; a ``str`` names an axis that may vary, e.g. ``"batch"``.

    ``dtype`` is numpy's name: ``float32``, ``uint8``, ``int64``.
    """

    name: str
    shape: tuple[int | str, ...]
    dtype: str

    def concrete(self, **sizes: int) -> tuple[int, ...]:
        """The shape with every named axis replaced by ``sizes[name]``, or 1."""
        return tuple(axis if isinstance(axis, int) else sizes.get(axis, 1) for axis in self.shape)


@dataclass(frozen=True)
class Signature:
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class Origin:
    """How the untouched module is built again: ``factory(**kwargs)``, then its weights.

    ``factory`` is ``/absolute/file.py:name`` or ``package.module:name``; ``weights`` a safetensors or state-dict file.
    ``digest`` covers the weights' bytes, the kwargs and the code that the factory can reach.
    """

    factory: str
    kwargs: Mapping[str, Any]
    weights: Path | None
    digest: str


@dataclass(frozen=True, kw_only=True)
class TorchModel:
    """A module in evaluation mode. ``origin`` is None for a module made in Python, which then cannot be saved."""

    module: nn.Module
    signature: Signature
    origin: Origin | None = None
    notes: tuple[str, ...] = ()

    def noting(self, *notes: str) -> TorchModel:
        """The same model with remarks for the report: ``"layer1.0.conv1 kept: 3 channels"``."""
        return replace(self, notes=self.notes + notes)


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX file (or, as what OpenVINO deploys, an IR ``.xml`` beside its ``.bin``)."""

    path: Path
    signature: Signature
    notes: tuple[str, ...] = ()

    def noting(self, *notes: str) -> OnnxModel:
        """The same model with remarks for the report."""
        return replace(self, notes=self.notes + notes)


Model = TorchModel | OnnxModel


@dataclass(frozen=True)
class Target:
    """Where the result will run. ``options`` are the backend's own; ``threads`` bounds its CPU threads.

    ``batch``: compiled for exactly this many samples, which some runtimes need to be fast; None takes any number.
    """

    name: str
    backend: str
    device: str = "cpu"
    precision: str = "fp32"
    optional: bool = False
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
