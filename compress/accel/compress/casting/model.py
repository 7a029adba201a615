"""Core of ``cast``: measure, decide, write, and compare what was written with what was there.

One own writer for both types. onnxconverter-common (1.16) writes FP16 only; it decides by a list of operators, clips what does
not fit to 10000 without a word of which node, and takes graphs with inner graphs apart by tensor names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from accel import onnx_file
from accel.compress.calibration_data import calibration_samples
from accel.compress.casting.check import compared, emulated, require_valid, rounds
from accel.compress.casting.graph import plain_weights_, written
from accel.compress.casting.plan import Plan, planned, ports_of
from accel.compress.casting.ranges import Range, Trial, measure
from accel.compress.casting.types import LOW_TYPES, LowType, in_an_opset_for
from accel.compress.ignored_scope import resolve
from accel.compress.onnx_writing import load, name_all_nodes_, strip_metadata_, write
from accel.contracts import Job
from accel.errors import DataFault
from accel.model import OnnxModel, Signature

if TYPE_CHECKING:
    from accel.compress.cast import Cast

ROUNDOFFS = 8
"""The default of ``max_relative_error``, in roundoffs."""


def cast(model: OnnxModel, job: Job, settings: Cast) -> OnnxModel:
    """See ``Cast``."""
    if job.task is None or not job.task.has("calibration"):
        raise DataFault("cast: ranges are measured on calibration data, and there is none; set data.calibration")
    low = LOW_TYPES[settings.dtype]
    before = load(model.path)
    notes = plain_weights_(before)
    before, raised = in_an_opset_for(before, low)
    name_all_nodes_(before)
    strip_metadata_(before)
    ignored = resolve(settings.ignored_scope, before.graph)
    samples = calibration_samples(job, model.signature, settings.calibration.num_samples)
    ports = ports_of(before, low)
    rounding = job
    if not rounds(job, low):
        rounding = replace(job, execute=None)
        notes += (f"what runs files here drops casts to {low.name} and back; measured by onnx's own evaluator, which is slow",)

    def measured(tensors: Sequence[str], trials: Sequence[Trial]) -> tuple[dict[str, Range], list[float]]:
        return measure(
            before, low, ports, tensors, trials, samples, rounding, "measuring ranges" if tensors else "looking upstream"
        )

    low_ends = () if settings.keep_io_types else _float_ends(model.signature)
    limit = ROUNDOFFS * low.roundoff if settings.max_relative_error is None else settings.max_relative_error
    plan = planned(before, ports, ignored, low, limit, measured, low_ends)
    if not any(ports[place].makes for place in plan.low):
        return model.noting(f"cast changed nothing: {_nothing(plan, low)}", *_kept(plan))
    after, casts = written(before, plan, low, keep_io=settings.keep_io_types)
    path = job.folder / "model.onnx"
    write(after, path)
    require_valid(path, model.path)
    result = OnnxModel(path=path, signature=model.signature if settings.keep_io_types else onnx_file.signature(after))
    floats = [place for place, each in ports.items() if each.makes]
    count = sum(place in plan.low for place in floats)
    return result.noting(
        f"{count} of {len(floats)} nodes that make floats are in {low.name}, {casts} Cast added",
        *raised,
        *notes,
        *_kept(plan),
        *(f"{name} stays FP32: {_beyond(plan, name)}" for name in low_ends if not plan.fits(name, low)),
        *plan.remarks,
        *compared(model, emulated(before, plan, low), result, samples, job, rounding),
        *samples.notes,
    )


def _float_ends(signature: Signature) -> tuple[str, ...]:
    return tuple(spec.name for spec in (*signature.inputs, *signature.outputs) if spec.dtype == "float32")


def _kept(plan: Plan) -> list[str]:
    return [f"{plan.nodes[place].name} kept FP32: {why}" for place, why in sorted(plan.kept.items())]


def _beyond(plan: Plan, name: str) -> str:
    return f"values up to {plan.ranges[name].largest:.3g}" if name in plan.ranges else "a constant"


def _nothing(plan: Plan, low: LowType) -> str:
    if not plan.kept:
        return f"no node makes FP32 values; is the model in {low.name} already?"
    return f"none of {len(plan.kept)} nodes that make floats can be in {low.name}"
