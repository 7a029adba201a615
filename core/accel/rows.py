"""One row of the report, from what the sessions of one subject found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from accel.benchmarks import accuracy, classes, differing, fidelity, statistics
from accel.benchmarks.environment import without_int8
from accel.benchmarks.size import files as shipped_files
from accel.benchmarks.size import totals
from accel.contracts import Score
from accel.errors import AccelError, DataFault
from accel.model import Target
from accel.onnx_file import files as model_files
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import File, Latency, Precision, Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SAME_MODEL_DB = 50.0
"""FP32 runtimes agree with one another to 100 dB and more; a rewrite of the model seldom reaches 50."""

CHANCE = 1.3
"""Times what guessing would get: below it a model knows nothing about its classes."""

Turns = list[list[list[int]]]
"""[restart][round][query] in nanoseconds."""


@dataclass(frozen=True)
class Subject:
    """One row to measure. ``model``: as serving.open_session takes it; ``folder``: the files that ship, None for eager.

    ``main``: only this file of the folder and what it refers to ships; None for all of them. ``notes``: what making the files
    had to say, in ``build_s`` seconds. ``not_run``: why it is not run here; None for what is.
    """

    name: str
    role: Literal["reference", "baseline", "result"]
    target_name: str | None
    target: Target
    model: Mapping[str, Any]
    folder: Path | None
    main: Path | None = None
    notes: tuple[str, ...] = ()
    build_s: float | None = None
    not_run: str | None = None


@dataclass
class Found:
    """What is known of one row so far: the answers of its session, or the ``reason`` it failed."""

    subject: Subject
    reason: str | None = None
    compiled: Mapping[str, Any] | None = None
    precision: Mapping[str, Any] | None = None
    score: Mapping[str, Any] | None = None
    on_device: Mapping[str, Any] | None = None
    layers: Mapping[str, Any] | None = None


def row(
    found: Found,
    reference: Found | None,
    alive: Sequence[Subject],
    times: Mapping[str, Turns],
    settings: BenchmarkSettings,
    samples: int = 0,
) -> Row:
    """``reference``: what accuracy and outputs are compared with; ``alive``, ``times``: the rows that were timed beside it.

    ``samples``: how many of those on which a result differs most are named.
    """
    subject = found.subject
    entries = built(subject) | {"status": "failed" if found.reason else "measured", "reason": found.reason}
    entries |= {key: value for key, value in (found.compiled or {}).items() if key != "inputs"}
    if found.precision is not None:
        entries["notes"] = [*subject.notes, *found.precision["notes"]]
        entries["precision"] = Precision(**{key: value for key, value in found.precision.items() if key != "notes"})
    if found.on_device is not None:
        entries["device_p50_ms"] = found.on_device["p50_ms"]
        how = f"p50 {found.on_device['p50_ms']:.4g} ms on the device alone, of {found.on_device['queries']} inferences in a row"
        entries["notes"] += [f"{how}, without copies from and to the host", *found.on_device["notes"]]
    if found.score is not None:
        try:
            entries |= _judged(found, None if reference is found else reference, samples)
        except AccelError as error:  # one odd row costs itself, not the run
            entries |= {"status": "failed", "reason": str(error)}
    mine = times.get(subject.name)
    if mine and found.reason is None:
        entries["latency"] = _latency(mine, settings)
        entries["speedups"] = [
            statistics.speedup(mine, other.name, times[other.name])
            for other in alive
            if other.role != "result" and other.name != subject.name and other.name in times
        ]
    return Row(**entries)


def built(subject: Subject) -> dict[str, Any]:
    """The fields of a row that need no measuring."""
    files = _shipped(subject)
    size, gzipped = totals(files)
    return {
        "name": subject.name,
        "role": subject.role,
        "target": subject.target_name,
        "backend": subject.target.backend,
        "device": subject.target.device,
        "status": "built",
        "reason": subject.not_run,
        "notes": list(subject.notes),
        "compile_s": None if subject.not_run is None else subject.build_s,
        "files": files,
        "size_bytes": size if files else None,
        "gzip_bytes": gzipped if files else None,
    }


def unlike(found: Row) -> str | None:
    """A warning where an FP32 baseline is not the model it should be: every difference after it would be meaningless."""
    outputs = found.fidelity
    if found.role != "baseline" or outputs is None or found.precision is None or found.precision.float_precision != "fp32":
        return None
    alike = outputs.sqnr_db is None or outputs.sqnr_db >= SAME_MODEL_DB
    if found.precision.quantized_operators or (alike and not outputs.nonfinite_values):
        return None
    return (
        f"{found.name}: its outputs differ from those of {outputs.vs} (SQNR {outputs.sqnr_db or 0:.1f} dB, largest difference"
        f" {outputs.max_abs_difference:.3g}): the export or the runtime changed the model, or the two are not the same model"
    )


def slow_int8(rows: Sequence[Row]) -> str | None:
    """A warning where rows ran INT8 on a CPU that has no instructions for it: how fast they are holds for no other CPU."""
    ran = [row.name for row in rows if row.device == "cpu" and row.precision is not None and row.precision.int8_operators]
    if not ran or not without_int8():
        return None
    return (
        f"{', '.join(ran)}: this CPU has no instructions for INT8 (VNNI, AMX or ARM's dot product): INT8 may be no faster than"
        " FP32 here, and how it compares says nothing about a CPU that has them; measure where it will run"
    )


def guessing(found: Row, classes: int) -> str | None:
    """A warning where the untouched model is no better than chance: then the labels or the preprocessing are wrong."""
    top1 = next((metric for metric in found.metrics if metric.name == "top1"), None)
    if found.role == "result" or top1 is None or classes < 2 or top1.value > CHANCE / classes:
        return None
    return (
        f"{found.name}: top-1 of the untouched model is {100 * top1.value:.1f} % of {classes} classes, no better than guessing;"
        " check labels, the order of the classes, and task.preprocess"
    )


def _judged(found: Found, reference: Found | None, samples: int) -> dict[str, Any]:
    """What the outputs over validation say. DataFault where the reference saw other samples: nothing can be paired then."""
    score, other = found.score or {}, None if reference is None else reference.score
    labels = _same_labels(score, other)
    entries: dict[str, Any] = {"metrics": accuracy.metrics(_scores(score), other and _scores(other), score["samples"])}
    if reference is not None and other is not None:
        outputs, theirs = (list(map(Path, answer["outputs"])) for answer in (score, other))
        embeddings = score.get("answers") == "embeddings"
        entries["fidelity"] = fidelity.compare(outputs, theirs, vs=reference.subject.name, embeddings=embeddings)
        if labels is not None and not embeddings:
            entries["classes"] = classes.drops(outputs[0], theirs[0], labels)
        if found.subject.role == "result" and not embeddings:
            entries["differing"] = differing.differing(outputs[0], theirs[0], samples)
    return entries


def _same_labels(score: Mapping[str, Any], other: Mapping[str, Any] | None) -> NDArray[np.int64] | None:
    """Of the validation samples; None where they have none."""
    import numpy as np

    if other is None or score["labels"] is None or other["labels"] is None:
        return None
    labels, theirs = (np.load(answer["labels"], allow_pickle=False) for answer in (score, other))
    if not np.array_equal(labels, theirs):
        raise DataFault("data.validation: its labels were others when the reference was scored; seed the data's random numbers")
    return np.asarray(labels, dtype=np.int64)


def _scores(answer: Mapping[str, Any]) -> dict[str, Score]:
    """The scores that a session left in files."""
    import numpy as np

    return {
        name: Score(
            value=record["value"],
            per_sample=None if record["per_sample"] is None else np.load(record["per_sample"], allow_pickle=False),
            higher_is_better=record["higher_is_better"],
        )
        for name, record in answer["metrics"].items()
    }


def _latency(turns: Turns, settings: BenchmarkSettings) -> Latency:
    """With the percentiles that the recipe asks for."""
    found = statistics.latency(turns, batch_size=settings.batch_sizes[0], threads=settings.threads[0])
    return found.model_copy(update={f"p{each}_ms": None for each in (90, 99) if each not in settings.percentiles})


def _shipped(subject: Subject) -> list[File]:
    if subject.folder is None:
        return []
    return shipped_files(subject.folder, only=None if subject.main is None else model_files(subject.main))
