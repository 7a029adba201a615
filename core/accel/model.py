"""What flows through the pipeline: a model, its signature, what was done to its structure, and where it goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
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


def signature_record(signature: Signature) -> dict[str, Any]:
    """JSON-ready; read back by :func:`signature_from`."""
    return asdict(signature)


def signature_from(record: Mapping[str, Any]) -> Signature:
    """The signature that :func:`signature_record` wrote."""

    def spec(entry: Mapping[str, Any]) -> TensorSpec:
        return TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"])

    return Signature(tuple(map(spec, record["inputs"])), tuple(map(spec, record["outputs"])))


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


@dataclass(frozen=True)
class KeepChannels:
    """Channels that stay, in ascending order of their old indices, for each tensor dimension that shrank.

    ``kept``: parameter or buffer name to dimension to indices: ``{"layer1.0.conv1.weight": {0: (0, 2, 5)}}``.
    ``attributes``: integer attributes that follow, by module path: ``{"layer1.0.conv1": {"out_channels": 3}}``.
    """

    kept: Mapping[str, Mapping[int, tuple[int, ...]]]
    attributes: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class RemoveBlock:
    """The module at ``path`` became an ``nn.Identity``."""

    path: str


@dataclass(frozen=True)
class Masks:
    """The zeros in these parameters are a mask: training and export keep them. ``pattern``: ``unstructured`` or ``2:4``."""

    pattern: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class QuantizeAware:
    """The module was prepared for quantization-aware training in the dialect ``profile``, by these versions."""

    profile: Mapping[str, Any]
    torch: str
    torchao: str


@dataclass(frozen=True)
class NeuralCompressed:
    """The module was quantized by neural-compressor's PT2E flow with ``settings``, by these versions."""

    settings: Mapping[str, Any]
    torch: str
    torchao: str
    neural_compressor: str


@dataclass(frozen=True)
class GroupedWeights:
    """The linear layers at ``layers`` hold integers of ``bits`` in groups of ``group_size``; those in ``scaled`` multiply their
    input with a scale for each channel first."""

    bits: int
    group_size: int
    layers: tuple[str, ...]
    scaled: tuple[str, ...] = ()


Edit = KeepChannels | RemoveBlock | Masks | QuantizeAware | NeuralCompressed | GroupedWeights
"""What was done to a module's structure: JSON-able, and replayed in order on what the factory builds."""

EDITS = "accel_edits"
"""The attribute of a module that holds its edits: they travel with the module, through copies and training code alike."""


@dataclass(frozen=True, kw_only=True)
class TorchModel:
    """A module in evaluation mode. ``origin`` is None for a module made in Python, which then cannot be saved."""

    module: nn.Module
    signature: Signature
    origin: Origin | None = None
    notes: tuple[str, ...] = ()

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What was done to the structure of ``module`` since its factory built it, in order."""
        return getattr(self.module, EDITS, ())

    def noting(self, *notes: str) -> TorchModel:
        """The same model with remarks for the report: ``"layer1.0.conv1 kept: 3 channels"``."""
        return replace(self, notes=self.notes + notes)


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX file; or what a backend deploys in its place: OpenVINO an IR ``.xml`` beside its ``.bin``, TensorRT an
    ``.engine`` beside its ``engine.json``. ``accuracy``: what the ``accuracy_control`` of the step that made the file found, as
    the report has it."""

    path: Path
    signature: Signature
    notes: tuple[str, ...] = ()
    accuracy: Mapping[str, Any] | None = None

    def noting(self, *notes: str) -> OnnxModel:
        """The same model with remarks for the report."""
        return replace(self, notes=self.notes + notes)


Model = TorchModel | OnnxModel


@dataclass(frozen=True)
class Target:
    """Where the result will run. ``options`` are the backend's own; ``threads`` bounds its CPU threads.

    ``batch``: compiled for exactly this many samples, which some runtimes need to be fast; None takes any number.
    ``ranges``: axis that varies to its least, usual and greatest size; only backends that build for a range get any.
    """

    name: str
    backend: str
    device: str = "cpu"
    precision: str = "fp32"
    optional: bool = False
    threads: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
