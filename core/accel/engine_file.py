"""TensorRT engines: an ``.engine`` beside ``engine.json``, the manifest that says what it was made from and for.

An engine is opaque: only the library that built it reads it, on a GPU. What is known about it without one is in the manifest,
so nothing here loads a runtime. The format is ours; it is described by ``EngineManifest``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from accel import atomic
from accel.entry import Entry
from accel.errors import ModelFault
from accel.model import Signature

MANIFEST = "engine.json"
FORMAT: Literal[1] = 1
_LIMIT_BYTES = 64 << 20  # with every layer's note it has some kilobytes; a larger file is something else
_AGAIN = "build it again with `accel optimize`"

LibraryName = Literal["tensorrt", "tensorrt-rtx"]


class TypedLayers(Entry):
    """The types of the network the engine was built from. Operators: Conv, ConvTranspose, Gemm and MatMul.

    ``quantized_operators``: how many the ONNX file has with Q/DQ on data and weights; ``int8_typed`` and ``fp8_typed``: how
    many the typed network has in these types; ``float_types``: of the rest, type (``fp32``) to number. ``operators``: each by
    its ONNX node, to its type. What ran is another matter, which only a GPU tells.
    """

    quantized_operators: int = Field(ge=0)
    int8_typed: int = Field(ge=0)
    fp8_typed: int = Field(default=0, ge=0)
    float_types: dict[str, int]
    operators: dict[str, str] = Field(default_factory=dict)


class EngineManifest(Entry):
    """What one engine is, and where it may run.

    ``compute_capabilities``: of the GPUs it was built for, ``"8.6"``; empty: only the GPU it was built on. ``gpu``,
    ``gpu_compute_capability`` and ``driver``: of that GPU, None where the engine was built without one. ``settings``: what
    decided the build besides the ONNX file and the library, every default written out.
    """

    format: Literal[1] = FORMAT
    library: LibraryName
    library_version: str = Field(min_length=1)
    compute_capabilities: list[str]
    gpu: str | None
    gpu_compute_capability: str | None = None
    driver: str | None
    onnx_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    settings: dict[str, Any]
    engine_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    engine_bytes: int = Field(ge=1)
    build_s: float = Field(ge=0)
    signature: Signature
    layers: TypedLayers
    notes: list[str] = Field(default_factory=list)

    @field_validator("settings", mode="before")
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        """As it will be read again: tuples as lists, keys as text. ValueError for what JSON does not have."""
        try:
            return json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, RecursionError) as error:
            raise ValueError(f"settings are not JSON: {error}") from None

    @field_validator("compute_capabilities")
    @classmethod
    def _written_with_a_dot(cls, value: list[str]) -> list[str]:
        for each in value:
            major, _, minor = each.partition(".")
            if not (major.isdecimal() and minor.isdecimal()):
                raise ValueError(f"{each!r} is not a compute capability such as 8.6")
        return value

    @field_validator("signature")
    @classmethod
    def _real(cls, value: Signature) -> Signature:
        if not value.inputs or not value.outputs:
            raise ValueError("an engine has at least one input and one output")
        for spec in (*value.inputs, *value.outputs):
            if not spec.name or any(axis == "" or (isinstance(axis, int) and axis < 0) for axis in spec.shape):
                raise ValueError(f"{spec.name!r} has no name, or an axis without a size or name")
        return value


def write(manifest: EngineManifest, folder: Path) -> Path:
    """Put the manifest beside its engine in ``folder``, in one step. Raises StorageFault."""
    place = folder / MANIFEST
    atomic.write(place, json.dumps(manifest.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")
    return place


def read(engine: Path) -> EngineManifest:
    """The manifest beside ``engine``.

    ModelFault where it is missing, not ours, damaged, or of a newer version of this program. Whether the engine is the one it
    describes is for :func:`require_intact`.
    """
    place = manifest_of(engine)
    try:
        if place.stat().st_size > _LIMIT_BYTES:
            raise ModelFault(f"{place.name}: larger than {_LIMIT_BYTES >> 20} MiB, so not the manifest of an engine; {_AGAIN}")
        record = json.loads(place.read_bytes())
    except OSError as error:
        raise ModelFault(f"{place.name}, beside {engine.name}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):  # ValueError: not JSON, or not UTF-8
        raise ModelFault(f"{place.name}, beside {engine.name}: not JSON, or cut short; {_AGAIN}") from None
    form = record.get("format") if isinstance(record, dict) else None
    if not isinstance(form, int) or isinstance(form, bool) or "engine_sha256" not in record:
        raise ModelFault(f"{place.name}, beside {engine.name}: not a manifest that accel wrote; {_AGAIN}")
    if form > FORMAT:
        raise ModelFault(
            f"{place.name}, beside {engine.name}: format {form}; this version of accel reads up to {FORMAT}."
            f" Upgrade accel-toolkit, or {_AGAIN}"
        )
    try:
        return EngineManifest.model_validate(record)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "manifest"
        raise ModelFault(f"{place.name}, beside {engine.name}: {field}: {first['msg'].lower()}; {_AGAIN}") from None


def manifest_of(engine: Path) -> Path:
    """The ``engine.json`` beside ``engine``; ModelFault if it is not there."""
    place = engine.with_name(MANIFEST)
    if not place.is_file():
        raise ModelFault(
            f"{engine.name}: no {MANIFEST} beside it, which says what it was built for and with; copy it along,"
            f" or make the engine with `accel optimize` (engines of trtexec and others have none)"
        )
    return place


def signature(engine: Path) -> Signature:
    """Inputs and outputs as the manifest has them; ModelFault as :func:`read`, or where the engine has another size."""
    manifest = read(engine)
    require_size(engine, manifest)
    return manifest.signature


def require_size(engine: Path, manifest: EngineManifest) -> None:
    """ModelFault where the engine has not the size that its manifest says. Cheap: reads nothing of it."""
    size = engine.stat().st_size
    if size != manifest.engine_bytes:
        raise ModelFault(
            f"{engine.name}: {size} bytes, and {MANIFEST} beside it is of one with {manifest.engine_bytes};"
            f" it was cut short or replaced: copy both files again, or {_AGAIN}"
        )


def require_intact(engine: Path, manifest: EngineManifest) -> None:
    """ModelFault where the bytes of the engine are not those that its manifest was written for."""
    require_size(engine, manifest)
    found = atomic.sha256_file(engine)
    if found != manifest.engine_sha256:
        raise ModelFault(
            f"{engine.name}: engine_sha256 is {found[:12]}..., and {MANIFEST} beside it says {manifest.engine_sha256[:12]}...;"
            f" it was damaged or replaced: copy both files again, or {_AGAIN}"
        )
