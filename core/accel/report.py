"""What comes out of a run: ``report.json`` is this model, and every rendering is made from it.

Units are in the names. Numbers are numbers, never strings; what could not be measured is null, never NaN.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from accel.errors import UsageError

SCHEMA_VERSION = 1


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Estimate(_Entry):
    """A value with its 95 % confidence interval; the bounds are null where no interval can be given."""

    value: float
    low: float | None = None
    high: float | None = None


class Metric(_Entry):
    """One metric of one row. ``difference``: this row minus the reference, paired by sample."""

    name: str
    value: float
    n: int
    higher_is_better: bool = True
    difference: Estimate | None = None


class Latency(_Entry):
    """Single-stream latency. A percentile is null where MLPerf's early-stopping count does not allow it."""

    batch_size: int
    threads: int
    queries: int
    restarts: int
    rounds: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float


class Speedup(_Entry):
    """How many times faster than row ``vs``: the ratio of interleaved runs, not of two medians."""

    vs: str
    ratio: Estimate


class Precision(_Entry):
    """What was executed, from the runtime's own graph."""

    float_precision: str
    quantized_operators: int
    int8_operators: int
    operators: dict[str, int]


class Fidelity(_Entry):
    """How close the outputs stay to the reference row's, over the validation split.

    ``sqnr_db`` is null where the outputs are identical. ``nonfinite_values``: how many values are NaN or infinite in either.
    """

    vs: str
    top1_agreement: float | None
    sqnr_db: float | None
    max_abs_difference: float
    nonfinite_values: int = 0


class File(_Entry):
    """One file that ships. ``path`` is relative to the target's folder."""

    path: str
    bytes: int
    gzip_bytes: int
    sha256: str


class Row(_Entry):
    """One measured thing.

    ``role``: ``reference`` (PyTorch eager, or the untouched ONNX file), ``baseline`` (the untouched model in FP32 on a target's
    backend), ``result`` (what the recipe made). ``status``: ``measured``; ``built`` (made, not benchmarked); ``skipped`` (an
    optional target that is not here) and ``failed``, both with a ``reason``; so has a ``built`` one that cannot run here.
    ``latency`` is what a caller waits, copies to an accelerator included; ``device_p50_ms`` is without them, by the device's
    own clock, and not interleaved with other rows.
    """

    name: str
    role: Literal["reference", "baseline", "result"]
    target: str | None = None
    backend: str
    device: str = "cpu"
    status: Literal["measured", "built", "skipped", "failed"] = "measured"
    reason: str | None = None
    precision: Precision | None = None
    metrics: list[Metric] = Field(default_factory=list)
    latency: Latency | None = None
    speedups: list[Speedup] = Field(default_factory=list)
    fidelity: Fidelity | None = None
    files: list[File] = Field(default_factory=list)
    size_bytes: int | None = None
    gzip_bytes: int | None = None
    compile_s: float | None = None
    first_inference_ms: float | None = None
    device_p50_ms: float | None = None
    peak_memory_bytes: int | None = None
    notes: list[str] = Field(default_factory=list)


class StepRecord(_Entry):
    """One step of one target. ``key`` names it in the store; ``cached`` says that it was not run again."""

    target: str
    name: str
    settings: dict[str, Any]
    key: str
    seconds: float
    cached: bool
    notes: list[str] = Field(default_factory=list)


class Noise(_Entry):
    """An A/A pair: the same model in two processes, timed like any other pair. Its interval should hold 1."""

    row: str
    ratio: Estimate
    verdict: Literal["quiet", "noisy"]


class DataUse(_Entry):
    """Which samples served for what."""

    split: str
    source: str
    samples: int
    digest: str


class GpuState(_Entry):
    """What a GPU does at one moment; null where its driver does not tell. ``throttled``: why it is slower than it could be."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttled: list[str] = Field(default_factory=list)


class Gpu(_Entry):
    """One GPU of the machine. ``before`` the run it mostly idles; ``after``: right after the last measurement, still warm."""

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_bytes: int
    before: GpuState | None = None
    after: GpuState | None = None


class Environment(_Entry):
    """The machine and the versions that the figures hold for. No host or user name.

    ``cores`` and ``memory_bytes`` are what the process may use. ``load_average``: over the minute before the run; ``governor``:
    of the clock frequency. Both are null where the system does not tell. ``gpus``: NVIDIA's, as the driver counts them.
    """

    platform: str
    python: str
    cpu: str
    isa_flags: list[str]
    cores: int
    memory_bytes: int
    libraries: dict[str, str]
    governor: str | None = None
    load_average: float | None = None
    gpus: list[Gpu] = Field(default_factory=list)


class Verdict(_Entry):
    """The best result in one line, and the figures it stands on."""

    text: str
    row: str | None = None


class Report(_Entry):
    """One run. ``rows`` are in the order of the table."""

    schema_version: Literal[1] = 1
    accel_version: str
    name: str
    created: str
    seed: int
    recipe_sha256: str | None
    verdict: Verdict
    environment: Environment
    data: list[DataUse] = Field(default_factory=list)
    rows: list[Row]
    noise: Noise | None = None
    steps: list[StepRecord] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    method: dict[str, Any] = Field(default_factory=dict)
    deployment: dict[str, str] = Field(default_factory=dict)

    def json_text(self) -> str:
        """The one document: UTF-8, two spaces, keys in the order above, a newline at the end."""
        return self.model_dump_json(indent=2) + "\n"


def schema() -> dict[str, Any]:
    """The JSON schema of ``report.json``, draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"accel report, version {SCHEMA_VERSION}",
        **{key: value for key, value in Report.model_json_schema(mode="serialization").items() if key != "title"},
    }


def _no_constant(literal: str) -> float:
    """NaN and Infinity are no JSON, and never ours."""
    raise ValueError(f"{literal} is not JSON")


def read(path: Path) -> Report:
    """A report that was written before. UsageError where it is not one, or of a version this accel does not know."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such report; run `accel optimize` first, or name its report.json") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not a report: {type(error).__name__}; name the report.json of a run") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        known = f"this accel reads version {SCHEMA_VERSION}"
        newer = "; upgrade accel" if isinstance(version, int) and version > SCHEMA_VERSION else ""
        raise UsageError(f"{path}: schema_version is {version!r}; {known}{newer}")
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: not a report: {place}: {first['msg']}; make it again with `accel optimize`") from error
