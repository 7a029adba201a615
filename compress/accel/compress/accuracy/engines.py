"""Core of ``engine: auto``: quantize with each engine that fits, score and time each file on the target, keep one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from accel import onnx_file
from accel.compress.accuracy.samples import Judged, Selection
from accel.compress.accuracy_control import AccuracyControl
from accel.compress.calibration import NncfCalibration
from accel.compress.onnx_writing import load, write
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.quantized_graph import require_profile
from accel.compress.repair_settings import StaticWeights
from accel.contracts import Job, Probe
from accel.errors import AccelError, MissingBackend, PassFault
from accel.model import OnnxModel

if TYPE_CHECKING:
    from accel.compress.quantize_auto import QuantizeStaticAuto

Step = QuantizeStaticOnnxRuntime | QuantizeStaticNncf

NOISE = 0.02
"""Of a latency: between two that differ by less, the more accurate one is taken."""


@dataclass(frozen=True)
class _Candidate:
    engine: str
    file: OnnxModel


@dataclass(frozen=True)
class Tried:
    """One engine's file, what it is worth and how long it takes on the target."""

    engine: str
    file: OnnxModel
    judged: Judged
    ms: float


def fastest(model: OnnxModel, job: Job, settings: QuantizeStaticAuto) -> OnnxModel:
    """See ``QuantizeStaticAuto``. ``accuracy_control`` is for the winner, which quantizes once more with it: what stays in
    floating point comes out of the network as that engine has prepared it."""
    if job.probe is None:
        raise PassFault(
            "quantize: engine: auto scores and times files on a target, and this job has no probe; run it in a recipe, give "
            "Job.local(..., probe=...), or name an engine"
        )
    metric = None if settings.accuracy_control is None else settings.accuracy_control.metric
    selection = Selection(job, model.signature, metric)
    # Not in job.scratch, which outlives a kill; the next run of the step empties job.folder.
    with tempfile.TemporaryDirectory(dir=job.folder) as place:
        made, left = _made(model, replace(job, folder=Path(place)), settings)
        tried, failed, float_ms = _measured(model, made, job, job.probe, selection)
        left = {**left, **failed}
        winner, why = chosen(tried, selection.metric)
        if settings.accuracy_control is None:
            path = job.folder / "model.onnx"
            write(load(winner.file.path), path)
            result = replace(winner.file, path=path)
        else:
            result = _step(winner.engine, settings, settings.accuracy_control)(model, job)
    notes = [
        _table(tried, selection, float_ms),
        *why,
        *(f"engine auto: {name} left out: {text}" for name, text in left.items()),
    ]
    return result.noting(*notes)


def _made(model: OnnxModel, job: Job, settings: QuantizeStaticAuto) -> tuple[list[_Candidate], dict[str, str]]:
    """A file of each engine that fits, that which the backend prefers first; and why the others do not.

    Raises the first engine's fault where none does.
    """
    made: list[_Candidate] = []
    left: dict[str, str] = {}
    first: AccelError | None = None
    preferred = require_profile(job).engine
    for engine in sorted(("onnxruntime", "nncf"), key=lambda name: name != preferred):
        folder = job.folder / engine
        folder.mkdir()
        try:
            step = _step(engine, settings)
            made.append(_Candidate(engine, step(model, replace(job, folder=folder))))
        except ValidationError as error:
            refused = error.errors()[0]
            left[engine] = f"it does not take calibration.{refused['loc'][0]}: {refused['input']}"
        except (PassFault, MissingBackend) as fault:
            first = first or fault
            left[engine] = str(fault)
    if not made:
        raise first or PassFault("quantize: engine auto: no engine takes these settings; name one")
    return made, left


def _step(engine: str, settings: QuantizeStaticAuto, control: AccuracyControl | None = None) -> Step:
    """Raises ValidationError for calibration, PassFault for other settings that the engine does not take."""
    shared: dict[str, Any] = {
        "ignored_scope": settings.ignored_scope,
        "accuracy_control": control,
        "cross_layer_equalization": settings.cross_layer_equalization,
        "smooth_quant": settings.smooth_quant,
    }
    if settings.bias_correction is not None:
        shared["bias_correction"] = settings.bias_correction
    if engine == "onnxruntime":
        return QuantizeStaticOnnxRuntime(
            calibration=settings.calibration, weights=settings.weights, adaround=settings.adaround, **shared
        )
    if settings.weights != StaticWeights() or settings.adaround is not None:
        raise PassFault(f"it does not take {'weights' if settings.adaround is None else 'adaround'}")
    return QuantizeStaticNncf(calibration=NncfCalibration(**asdict(settings.calibration)), **shared)


def _measured(
    model: OnnxModel, made: Sequence[_Candidate], job: Job, probe: Probe, selection: Selection
) -> tuple[list[Tried], dict[str, str], float]:
    """Each candidate that runs, judged and timed; why others do not; and the milliseconds of the float model."""
    key = {
        "version": 1,
        "probe": dict(probe.identity),
        "model": onnx_file.digest(model.path),
        "split": selection.split,
        "data": None if job.task is None else job.task.digest(selection.split),
        "metric": selection.metric,
    }
    judged: dict[str, Judged] = {}
    failed: dict[str, str] = {}
    with _once(probe) as compiled:
        for number, candidate in enumerate(made):
            job.progress(number, len(made), "engines scored and timed")

            def score(candidate: _Candidate = candidate) -> dict[str, Any]:
                if not selection.labelled and not selection.remembered:
                    with compiled()(model) as predict:
                        selection.remember(predict)
                with compiled()(candidate.file) as predict:
                    found = selection.judge(predict)
                return {
                    "metric": selection.metric,
                    "higher_is_better": selection.higher_is_better,
                    "value": found.value,
                    "samples": None if found.samples is None else found.samples.tolist(),
                }

            digest = onnx_file.digest(candidate.file.path)
            try:
                answer = job.memo({"what": "accuracy of an engine's file", **key, "file": digest}, score)
            except PassFault as fault:
                failed[candidate.engine] = str(fault)
                continue
            selection.metric, selection.higher_is_better = answer["metric"], answer["higher_is_better"]
            samples = answer["samples"]
            judged[candidate.engine] = Judged(answer["value"], None if samples is None else np.asarray(samples, np.float64))
    running = [candidate for candidate in made if candidate.engine in judged]
    if not running:
        raise PassFault(f"quantize: engine auto: no file runs on the target: {'; '.join(failed.values())}")
    files = [model, *(candidate.file for candidate in running)]
    digests = [onnx_file.digest(file.path) for file in files]
    timed = {"what": "latency of the engines' files", **key, "files": digests}
    float_ms, *times = job.memo(timed, lambda: list(probe.latencies_ms(files, "fp32")))  # as they are
    tried = [
        Tried(candidate.engine, candidate.file, judged[candidate.engine], ms)
        for candidate, ms in zip(running, times, strict=True)
    ]
    return tried, failed, float_ms


@contextmanager
def _once(probe: Probe) -> Iterator[Any]:
    """What gives ``probe.compiling()``'s function: its child starts with the first call, and not where all is remembered."""
    with ExitStack() as stack:
        opened: list[Any] = []

        def compiled() -> Any:
            if not opened:
                opened.append(stack.enter_context(probe.compiling()))
            return opened[0]

        yield compiled


def chosen(tried: Sequence[Tried], metric: str) -> tuple[Tried, list[str]]:
    """The one to take, and why: in sentences, the others included."""
    best = max(tried, key=lambda one: one.judged.value)
    worse = [one for one in tried if one.judged.over(best.judged)[2] < 0]
    equal = [one for one in tried if one not in worse]
    least = min(one.ms for one in equal)
    near = [one for one in equal if one.ms <= least * (1 + NOISE)]
    winner = max(near, key=lambda one: one.judged.value)
    if len(tried) == 1:
        return winner, [f"engine auto: {winner.engine} taken: there is no other to choose from"]
    why = "the fastest" if winner.ms == least else f"as fast as any, within {NOISE:.0%}, and more accurate"
    if winner is not best:
        why += f", and in {metric} no worse than {best.engine} ({_apart(winner, best)})"
    elif len(equal) > 1 and winner.ms == least:
        why += f", and none is better in {metric}"
    elif len(equal) == 1:
        why = f"the others are worse in {metric}"
    notes = [f"engine auto: {winner.engine} taken: {why}"]
    for one in tried:
        if one in worse:
            notes.append(f"engine auto: {one.engine} not taken: worse in {metric} than {best.engine} ({_apart(one, best)})")
        elif one is not winner:
            slower = f"{one.ms / winner.ms - 1:.1%} slower" if one.ms > winner.ms else "no faster beyond the noise"
            notes.append(f"engine auto: {one.engine} not taken: {slower}")
    return winner, notes


def _apart(one: Tried, other: Tried) -> str:
    mean, low, high = one.judged.over(other.judged)
    if one.judged.samples is None:
        return f"by {mean:+.4f}"
    return f"by {mean:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"


def _table(tried: Sequence[Tried], selection: Selection, float_ms: float) -> str:
    sign = 1.0 if selection.higher_is_better else -1.0
    parts = [f"{one.engine} {sign * one.judged.value:.4f} in {one.ms:.4g} ms" for one in tried]
    count = next((f"{len(one.judged.samples)} samples" for one in tried if one.judged.samples is not None), "all samples")
    data = f"{selection.metric} on {selection.split} data ({count})"
    return f"engine auto: {data}: {', '.join(parts)}; floating point {float_ms:.4g} ms"
