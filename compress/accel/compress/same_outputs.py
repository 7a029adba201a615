"""Does a file still compute the same: inputs to try, a run, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.contracts import Job
from accel.errors import PassFault
from accel.feeding import in_float16
from accel.model import Signature

Array = NDArray[Any]
OTHER_AXIS = 32
"""Size of a named axis that is not the batch, where no data shows one: image sides are commonly a multiple of it."""


def batch_axis(signature: Signature) -> str | None:
    """The name of the first input's first axis if it may vary."""
    first = signature.inputs[0].shape[:1] if signature.inputs else ()
    return first[0] if first and isinstance(first[0], str) else None


def batch_sizes(signature: Signature) -> tuple[int, ...]:
    """The sizes at which to compare; neither is the one that an export is traced with (2)."""
    return (1, 3) if batch_axis(signature) is not None else (0,)


def example_inputs(signature: Signature, job: Job, batch: int) -> dict[str, Array]:
    """Inputs of the signature's shape, ``batch`` samples where the batch may vary: calibration data if the task has any that
    fits, else seeded noise (zeros and ones for integers). For comparisons only; nothing is calibrated on them."""
    real = _calibration(signature, job)
    axis = batch_axis(signature)
    noise = np.random.default_rng(job.seed)
    inputs: dict[str, Array] = {}
    for spec in signature.inputs:
        sizes = {name: batch if name == axis else OTHER_AXIS for name in spec.shape if isinstance(name, str)}
        shape = spec.concrete(**sizes)
        if spec.name in real:
            sample = real[spec.name]
            inputs[spec.name] = np.resize(sample, (*shape[:1], *sample.shape[1:]))
        else:
            kind = np.dtype(spec.dtype)
            drawn = noise.standard_normal(shape) if kind.kind == "f" else noise.integers(0, 2, shape)
            inputs[spec.name] = drawn.astype(kind)
    return inputs


def _calibration(signature: Signature, job: Job) -> Mapping[str, Array]:
    if job.task is None or not job.task.has("calibration"):
        return {}
    batch = next(iter(job.task.calibration()), None)
    if batch is None:
        return {}
    given = {spec.name: np.asarray(batch.inputs[spec.name]) for spec in signature.inputs if spec.name in batch.inputs}
    found = in_float16(given, signature.inputs)
    for spec in signature.inputs:
        array = found.get(spec.name)
        if array is None or array.ndim != len(spec.shape) or not len(array) or array.dtype != np.dtype(spec.dtype):
            return {}
        if any(isinstance(want, int) and want != got for want, got in zip(spec.shape[1:], array.shape[1:], strict=True)):
            return {}
    return found


def run(path: Path, inputs: Mapping[str, Array], job: Job) -> list[Array]:
    """The file's outputs in their order, by whatever the job runs files with, else by onnx's own reference evaluator."""
    if job.execute is not None:
        return [np.asarray(output) for output in job.execute(path, inputs)]
    from onnx.reference import ReferenceEvaluator

    return [np.asarray(output) for output in ReferenceEvaluator(str(path)).run(None, dict(inputs))]


def require_same(
    names: Sequence[str],
    reference: Sequence[Array],
    found: Sequence[Array],
    *,
    rtol: float,
    atol: float,
    what: str,
    way_out: str,
) -> None:
    """Raise PassFault naming the output, the largest difference and the tolerance.

    Equal: no value differs by more than ``atol + rtol * max |reference|``; NaN equals NaN; shapes equal.
    """
    if len(reference) != len(found):
        raise PassFault(f"{what}: {len(found)} outputs instead of {len(reference)}; {way_out}")
    for name, wanted, got in zip(names, reference, found, strict=True):
        if wanted.shape != got.shape:
            raise PassFault(f"{what}: output {name!r} has shape {got.shape} instead of {wanted.shape}; {way_out}")
        if wanted.size == 0:
            continue
        if wanted.dtype.kind not in "fc":
            if not np.array_equal(wanted, got):
                raise PassFault(f"{what}: output {name!r} differs in {int((wanted != got).sum())} values; {way_out}")
            continue
        finite = np.isfinite(wanted)
        if not np.array_equal(np.isnan(wanted), np.isnan(got)):
            raise PassFault(f"{what}: output {name!r} has NaN at other places; {way_out}")
        if not np.array_equal(wanted[~finite], got[~finite], equal_nan=True):
            raise PassFault(f"{what}: output {name!r} differs where it is infinite; {way_out}")
        if not finite.any():
            continue
        exact = wanted[finite].astype(np.float64)
        difference = float(np.abs(exact - got[finite].astype(np.float64)).max())
        allowed = atol + rtol * float(np.abs(exact).max())
        if not difference <= allowed:
            raise PassFault(
                f"{what}: output {name!r} differs by up to {difference:.3g}, more than the tolerance {allowed:.3g}; {way_out}"
            )
