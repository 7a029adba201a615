"""``manifest.json``: what a deployment needs to know of the files it lies beside, and how they were made.

Two runs of one recipe give the same manifest but for ``created``: timings are in the report, not here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from accel.entry import Entry
from accel.errors import UsageError
from accel.model import Signature, TensorSpec
from accel.report import File, Metric, Precision, Report, Row

SCHEMA_VERSION = 2
"""Version 1 had metrics without bootstrap and McNemar's test."""


class Tensor(Entry):
    """One input or output; a name in ``shape`` is an axis that may vary."""

    name: str
    shape: list[int | str]
    dtype: str


class Made(Entry):
    """One step that led to the files. ``key`` names it in the store."""

    name: str
    settings: dict[str, Any]
    key: str
    notes: list[str] = Field(default_factory=list)


class Manifest(Entry):
    """``main_file`` is the one to load; ``files`` (relative paths) are all that ship beside this document.

    ``status``: ``failed`` where they were made but could not be measured. ``preprocessing``: from an image file to the input,
    null where the input is taken as it is. ``metrics``: over the validation split, on the runner that was measured, with the
    paired difference to the untouched model.
    """

    schema_version: Literal[2] = 2
    accel_version: str
    recipe: str
    recipe_sha256: str
    target: str
    name: str
    version: str | None = None
    author: str | None = None
    description: str | None = None
    created: str
    status: Literal["measured", "built", "failed"]
    backend: str
    device: str
    main_file: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    preprocessing: dict[str, Any] | None = None
    classes: list[str] | None = None
    metrics: list[Metric] = Field(default_factory=list)
    precision: Precision | None = None
    files: list[File]
    libraries: dict[str, str]
    seed: int
    steps: list[Made] = Field(default_factory=list)

    def json_text(self) -> str:
        """UTF-8, two spaces, keys in the order above, a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"


def manifest(
    report: Report,
    row: Row,
    *,
    main_file: str,
    signature: Signature,
    version: str | None = None,
    author: str | None = None,
    description: str | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
) -> Manifest:
    """The manifest of ``row``'s target. ``main_file``: relative to the target's folder, and one of the row's files."""
    if main_file not in {file.path for file in row.files}:
        raise ValueError(f"{main_file} is not among the files of row {row.name}")
    target = row.target or row.name
    return Manifest(
        accel_version=report.accel_version,
        recipe=report.name,
        recipe_sha256=report.recipe_sha256,
        target=target,
        name=f"{report.name}-{target}",
        version=version,
        author=author,
        description=description,
        created=report.created,
        status="failed" if row.status in ("failed", "skipped") else row.status,
        backend=row.backend,
        device=row.device,
        main_file=main_file,
        inputs=[_tensor(spec) for spec in signature.inputs],
        outputs=[_tensor(spec) for spec in signature.outputs],
        preprocessing=None if preprocessing is None else dict(preprocessing),
        classes=None if classes is None else list(classes),
        metrics=row.metrics,
        precision=row.precision,
        files=row.files,
        libraries=report.environment.libraries,
        seed=report.seed,
        steps=[
            Made(name=step.name, settings=step.settings, key=step.key, notes=step.notes)
            for step in report.steps
            if step.target == target
        ],
    )


def _tensor(spec: TensorSpec) -> Tensor:
    return Tensor(name=spec.name, shape=list(spec.shape), dtype=spec.dtype)


def read(path: Path) -> Manifest:
    """A manifest that was written before. UsageError where it is not one, or of a version this accel does not know."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: no readable manifest ({type(error).__name__}); make it again with `accel optimize`"
        ) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version == 1:
        document["schema_version"] = SCHEMA_VERSION  # all that came after it has a default
    elif version != SCHEMA_VERSION:
        newer = "; upgrade accel" if isinstance(version, int) and version > SCHEMA_VERSION else ""
        raise UsageError(f"{path}: schema_version is {version!r}; this accel reads versions 1 to {SCHEMA_VERSION}{newer}")
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: not a manifest: {place}: {first['msg']}; make it again with `accel optimize`") from error


def schema() -> dict[str, Any]:
    """The JSON schema of ``manifest.json``, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"accel manifest, version {SCHEMA_VERSION}",
        **{key: value for key, value in Manifest.model_json_schema(mode="serialization").items() if key != "title"},
    }
