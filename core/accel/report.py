"""What comes out of a run: ``report.json`` is this model, and every rendering is made from it.

Units are in the names. Numbers are numbers, never strings; what could not be measured is null, never NaN.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from accel.accuracy_outcome import AccuracyOutcome
from accel.entry import Entry
from accel.errors import UsageError
from accel.machine import Conditions, Environment, Peaks
from accel.scenario import Scenario

SCHEMA_VERSION = 2
"""Version 1 had no gates, scenarios, roofline, layers, classes and conditions; it is read as a report without them."""

GateKind = Literal["accuracy", "latency", "size", "fidelity"]


class Estimate(Entry):
    """A value with its 95 % confidence interval; the bounds are null where no interval can be given."""

    value: float
    low: float | None = None
    high: float | None = None


class McNemar(Entry):
    """Samples that only this row has right (``gained``) and only the reference (``lost``); ``p_value``: exact, two-sided."""

    gained: int
    lost: int
    p_value: float


class Metric(Entry):
    """One metric of one row. ``difference``: this row minus the reference, paired by sample.

    ``bootstrap``: the same difference with the interval of a paired bootstrap over samples. ``mcnemar``: for metrics that are
    right or wrong. All are null for the reference itself.
    """

    name: str
    value: float
    n: int
    higher_is_better: bool = True
    difference: Estimate | None = None
    bootstrap: Estimate | None = None
    mcnemar: McNemar | None = None


class ClassDrop(Entry):
    """Top-1 of one class, here and in the reference row. ``n``: its samples in the validation split.

    ``significant``: by McNemar's exact test at 5 %, corrected (Holm) for the number of classes.
    """

    label: int
    n: int
    value: float
    reference: float
    significant: bool = False


class Differing(Entry):
    """A sample on which a row and its reference differ. ``sample``: its index in the validation split, as in Report.samples.

    ``distance``: half the sum of the absolute differences of the two softmax outputs, in [0, 1].
    """

    sample: int
    predicted: int
    reference: int
    distance: float


class Sample(Entry):
    """A validation sample that some row is shown on. ``thumbnail``: a ``data:image/...;base64`` address; null for no image."""

    index: int
    label: int | None
    thumbnail: str | None = None


class Latency(Entry):
    """Single-stream latency. A percentile is null where MLPerf's early-stopping count does not allow it.

    ``p50_low_ms``, ``p50_high_ms``: the 95 % interval of the median over restarts. ``restart_p50_ms``: the median of each
    restart, in the order they ran. ``quantiles_ms``: the sample's own quantiles at 0, 1, ... 100 %, for a picture of the
    distribution, not to be judged by. ``unstable``: why these figures are not to be relied on; null where they are.
    """

    batch_size: int
    threads: int
    queries: int
    restarts: int
    rounds: int
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    min_ms: float
    p50_low_ms: float | None = None
    p50_high_ms: float | None = None
    restart_p50_ms: list[float] = Field(default_factory=list)
    quantiles_ms: list[float] = Field(default_factory=list)
    unstable: str | None = None


class Speedup(Entry):
    """How many times faster than row ``vs``: the ratio of interleaved runs, not of two medians.

    ``unstable``: why the ratio is not to be relied on; null where it is.
    """

    vs: str
    ratio: Estimate
    unstable: str | None = None


class Point(Entry):
    """One row in one scenario (MLPerf's words) at one setting, each figure from ``queries`` queries of ``restarts`` processes.

    ``samples_per_query``: what one query holds (``single_stream``: the batch; ``multi_stream``: 8 batches; ``offline``: all
    of a turn). ``p50_ms`` ...: of a query, from its arrival to its last answer; null in ``offline``. ``throughput_per_s``:
    samples. ``rate_per_s``: ``server`` only: the highest rate of Poisson arrivals at which the 99th percentile stayed within
    ``bound_ms``. ``speedups``: against the baselines and references at the same setting. ``pinned``: to which cores; empty: to
    none. ``reason``: why there are no figures; ``unstable``: why they are not to be relied on.
    """

    scenario: Scenario
    batch_size: int
    threads: int
    streams: int = 1
    pinned: list[int] = Field(default_factory=list)
    samples_per_query: int
    queries: int
    restarts: int
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    throughput_per_s: Estimate | None = None
    rate_per_s: Estimate | None = None
    bound_ms: float | None = None
    speedups: list[Speedup] = Field(default_factory=list)
    reason: str | None = None
    unstable: str | None = None


class Roofline(Entry):
    """How far a row is from what the machine can do at best (Williams, Waterman and Patterson 2009), kernel by kernel.

    ``macs``, ``bytes``: multiply-adds, and the fewest bytes that must move (weights, inputs and outputs of each operator,
    elementwise ones joined to what they follow), of one inference. ``bound_ms``: the sum over kernels of the longer of
    operations over peak and bytes over bandwidth, each at the precision it ran in; what fits in the last-level cache is taken
    to be there. ``share``: ``bound_ms`` over the measured median, in [0, 1] but for the errors of both. ``compute_share``: the
    part of ``bound_ms`` where computing, not memory, is the limit. ``uncounted``: operator types that are left out.
    """

    macs: int
    bytes: int
    bound_ms: float
    share: float
    compute_share: float
    uncounted: list[str] = Field(default_factory=list)


class Layer(Entry):
    """One layer as the runtime runs it. ``nodes``: the ONNX nodes it was made from; ``ms``: mean of one inference."""

    name: str
    kind: str
    nodes: list[str]
    precision: str
    ms: float | None = None


class Precision(Entry):
    """What was executed, from the runtime's own graph."""

    float_precision: str
    quantized_operators: int
    int8_operators: int
    operators: dict[str, int]


class Fidelity(Entry):
    """How close the outputs stay to the reference row's, over the validation split.

    ``sqnr_db`` is null where the outputs are identical. ``nonfinite_values``: how many values are NaN or infinite in either.
    Of embeddings alone, in place of ``top1_agreement``: ``cosine``, the mean cosine similarity of a sample's two vectors, and
    ``nearest_agreement``, the share of samples whose nearest other sample is the same one.
    """

    vs: str
    top1_agreement: float | None
    sqnr_db: float | None
    max_abs_difference: float
    nonfinite_values: int = 0
    cosine: Estimate | None = None
    nearest_agreement: float | None = None


class File(Entry):
    """One file that ships. ``path`` is relative to the target's folder."""

    path: str
    bytes: int
    gzip_bytes: int
    sha256: str


class Row(Entry):
    """One measured thing.

    ``role``: ``reference`` (PyTorch eager, or the untouched ONNX file), ``baseline`` (the untouched model in FP32 on a target's
    backend), ``result`` (what the recipe made). ``status``: ``measured``; ``built`` (made, not benchmarked); ``skipped`` (an
    optional target that is not here) and ``failed``, both with a ``reason``; so has a ``built`` one that cannot run here.
    ``latency`` is what a caller waits, copies to an accelerator included; ``device_p50_ms`` is without them, by the device's
    own clock, and not interleaved with other rows. ``points``: the other scenarios and settings that were asked for.
    ``layers``: timed in a run of its own, with the runtime's profiler on. ``classes``: those that lost most first;
    ``differing``: the samples on which this row differs most from the reference.
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
    points: list[Point] = Field(default_factory=list)
    roofline: Roofline | None = None
    layers: list[Layer] = Field(default_factory=list)
    classes: list[ClassDrop] = Field(default_factory=list)
    differing: list[Differing] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)


class StepRecord(Entry):
    """One step of one target. ``key`` names it in the store; ``cached`` says that it was not run again.

    ``accuracy``: what ``accuracy_control`` found, for a step that has it.
    """

    target: str
    name: str
    settings: dict[str, Any]
    key: str
    seconds: float
    cached: bool
    notes: list[str] = Field(default_factory=list)
    accuracy: AccuracyOutcome | None = None


class Noise(Entry):
    """An A/A pair: the same model in two processes, timed like any other pair. Its interval should hold 1."""

    row: str
    ratio: Estimate
    verdict: Literal["quiet", "noisy"]


class Gate(Entry):
    """One limit, and what became of it.

    ``name``: metric and target, as the recipe has them. ``row``: what was judged, null where there is no such row. ``vs``: a
    row of this run, or a stored report's; null for a limit on the value itself. ``limit``: in words. ``found``: what the limit
    was held against, with its interval, in the unit of ``limit``; null where it could not be measured. ``text``: one sentence
    with fact and limit. ``verdict`` is taken from the interval; ``failed``: the run fails, ``verdict`` and ``on_inconclusive``
    considered. ``line``, ``column``: in the recipe, 0 where it did not come from there.
    """

    name: str
    metric: str
    kind: GateKind
    target: str | None = None
    row: str | None = None
    vs: str | None = None
    limit: str
    found: Estimate | None = None
    verdict: Literal["pass", "fail", "inconclusive"]
    failed: bool
    text: str
    line: int = 0
    column: int = 0


class Source(Entry):
    """The version of the user's own files: the commit of the recipe's folder, and whether anything there was changed since."""

    commit: str
    dirty: bool


class DataUse(Entry):
    """Which samples served for what."""

    split: str
    source: str
    samples: int
    digest: str


class Verdict(Entry):
    """The best result in one line, and the figures it stands on."""

    text: str
    row: str | None = None


class Report(Entry):
    """One run. ``rows`` are in the order of the table; ``classes``: names by label; ``samples``: what rows refer to.

    ``recipe``: its file as it was given, for annotations; null without one.
    """

    schema_version: Literal[2] = 2
    accel_version: str
    name: str
    created: str
    seed: int
    recipe_sha256: str | None
    verdict: Verdict
    environment: Environment
    data: list[DataUse] = Field(default_factory=list)
    rows: list[Row]
    gates: list[Gate] = Field(default_factory=list)
    noise: Noise | None = None
    conditions: Conditions | None = None
    peaks: Peaks | None = None
    samples: list[Sample] = Field(default_factory=list)
    classes: list[str] = Field(default_factory=list)
    recipe: str | None = None
    source: Source | None = None
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
    if type(version) is int and version == 1:  # true is no version
        document["schema_version"] = SCHEMA_VERSION  # all that came after it has a default
    elif type(version) is not int or version != SCHEMA_VERSION:
        known = f"this accel reads versions 1 to {SCHEMA_VERSION}"
        newer = "; upgrade accel" if isinstance(version, int) and version > SCHEMA_VERSION else ""
        raise UsageError(f"{path}: schema_version is {version!r}; {known}{newer}")
    try:
        return Report.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{path}: not a report: {place}: {first['msg']}; make it again with `accel optimize`") from error
