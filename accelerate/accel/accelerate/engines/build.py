"""An ONNX file to an engine: lint, parse, profiles, types, build; the engine and its manifest are written in one step each."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from accel import atomic, engine_file
from accel.accelerate import lint_tensorrt, nvidia_device
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines import precision as tensorrt_precision
from accel.accelerate.engines import timing_cache as tensorrt_timing
from accel.accelerate.engines.config import configured
from accel.accelerate.engines.library import TensorRtLibrary, chosen, resolved, undisturbed
from accel.accelerate.engines.log import Messages, on_one_line
from accel.accelerate.engines.options import Profile, build_settings, capabilities, profile_records, require_had
from accel.accelerate.engines.parse import ParsedNetwork, parsed_network
from accel.accelerate.engines.precision import TypedNetwork
from accel.accelerate.engines.progress import Phases, monitor
from accel.accelerate.engines.shapes import add_profiles, network_inputs, profiles_for
from accel.accelerate.inputs import batch_axis, fix_axis
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.accelerate.onnx_operators import quantized_operators
from accel.contracts import Finding, Progress, silent
from accel.engine_file import EngineManifest
from accel.errors import BackendFault, MissingBackend
from accel.model import OnnxModel, Signature, Target
from accel.onnx_file import digest, files

_SHOWN = 3
_SAID_BELOW = "int8-on-rtx"  # a rule of the lint that speaks of each node; ``_doubts`` says it once, with their number
# What the builder says when it gives no engine (TensorRT-RTX 1.7.1), to what to do.
_WAYS_OUT: tuple[tuple[str, str], ...] = (
    (r"workspace limit", "raise the option workspace_mb, or leave it out"),
    (r"Turing \(SM75\)", "leave 7.5 out of compute_capabilities, or put `- type: cast, dtype: fp16` into the passes"),
    (
        r"[Oo]ut ?[Oo]f ?[Mm]emory|bad_alloc|MEM_ALLOC|cudaErrorMemoryAllocation",
        "set workspace_mb, or make the greatest shapes smaller",
    ),
    (
        r"CUDA driver version is insufficient",
        "install a newer NVIDIA driver, or name compute_capabilities to build without the GPU",
    ),
    (r"CUDA_SUCCESS|cudaError", "the build needs a GPU that works; look at it with nvidia-smi"),
)


@dataclass(frozen=True)
class Built:
    """``notes``: for the report. ``seconds``: the builder's own, without parsing."""

    notes: tuple[str, ...]
    seconds: float
    manifest: EngineManifest


@dataclass(frozen=True)
class _Plan:
    """Where an engine will run: on GPUs of the ``capabilities`` that the user asked for; else on ``device`` alone."""

    capabilities: tuple[str, ...]
    device: NvidiaDevice | None


def build(file: OnnxModel, target: Target, place: Path, *, cache: Path, progress: Progress = silent) -> Built:
    """Write the engine of ``file`` to ``place`` and its manifest beside it.

    ``cache``: a folder that outlives the run, for the timing cache. Raises UsageError for options and ranges, MissingBackend,
    ModelFault for a file that is not sound ONNX, BackendFault for what TensorRT does not take, and StorageFault.
    """
    library = chosen(resolved(target))
    require_had(library.edition, target)
    linted = _linted(library, file.path)
    with undisturbed():
        return _built(library, linted, file, target, place, cache, progress)


def _built(
    library: TensorRtLibrary,
    notes: tuple[str, ...],
    file: OnnxModel,
    target: Target,
    place: Path,
    cache: Path,
    progress: Progress,
) -> Built:
    plan = _plan(target)
    messages = Messages()
    started = time.perf_counter()
    parsed = parsed_network(library, file.path, messages)
    profiles = profiles_for(network_inputs(parsed.network), file.signature, target)
    typed = tensorrt_precision.typed_network(parsed.network)
    notes += tensorrt_precision.held_against(typed, file.path, target)
    engine, seconds, more = _serialized(library, parsed, profiles, target, plan, messages, cache, progress)
    atomic.write(place, engine)
    facts = (
        _fact(library, plan, seconds, time.perf_counter() - started),
        _sizes(len(engine), sum(part.stat().st_size for part in files(file.path))),
    )
    notes = (*facts, *notes, *more, *_doubts(library, typed, target), *messages.notes())
    manifest = EngineManifest(
        library=library.name,
        library_version=library.version,
        compute_capabilities=list(plan.capabilities),
        gpu=None if plan.device is None else plan.device.name,
        gpu_compute_capability=None if plan.device is None else plan.device.compute_capability,
        driver=None if plan.device is None else plan.device.driver,
        onnx_sha256=digest(file.path),
        settings=build_settings(target)
        | {"library": library.name, "profiles": profile_records(profiles), "timing_cache": _times(library, target)},
        engine_sha256=sha256(engine).hexdigest(),
        engine_bytes=len(engine),
        build_s=seconds,
        signature=_signature(file.signature, target),
        layers=typed.summary(quantized_operators(file.path)),
        notes=list(notes),
    )
    engine_file.write(manifest, place.parent)
    return Built(notes, seconds, manifest)


def _plan(target: Target) -> _Plan:
    """For the GPUs that are named, else for the one at hand."""
    asked = capabilities(target)
    if asked:
        return _Plan(asked, None)
    devices = nvidia_device.found()
    if devices:
        return _Plan((), tensorrt_library.builds_on(devices))
    raise MissingBackend(f"target {target.name}: {tensorrt_library.cannot_build(target)}")


def _linted(library: TensorRtLibrary, path: Path) -> tuple[str, ...]:
    """Warnings as notes, one for each rule. Raises BackendFault with the first errors: the parser says less of them."""
    files(path)
    check = lint_tensorrt.lint_rtx if library.name == "tensorrt-rtx" else lint_tensorrt.lint
    findings = check(path)
    errors = [_said(finding) for finding in findings if finding.severity == "error"]
    if errors:
        more = [f"and {len(errors) - _SHOWN} more; see `accel lint`"] if len(errors) > _SHOWN else []
        raise BackendFault(f"{path.name}: {library.name} cannot take it: " + "\n".join([*errors[:_SHOWN], *more]))
    rules: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.rule != _SAID_BELOW:
            rules.setdefault(finding.rule, []).append(finding)
    return tuple(
        f"lint: {_said(found[0])}" + (f" (and {len(found) - 1} more, see `accel lint`)" if len(found) > 1 else "")
        for found in rules.values()
    )


def _said(finding: Finding) -> str:
    place = f"node {on_one_line(finding.node)}: " if finding.node else ""
    return f"{place}{finding.message}; {finding.way_out}"


def _serialized(
    library: TensorRtLibrary,
    parsed: ParsedNetwork,
    profiles: tuple[Profile, ...],
    target: Target,
    plan: _Plan,
    messages: Messages,
    cache: Path,
    progress: Progress,
) -> tuple[bytes, float, tuple[str, ...]]:
    """The engine, the seconds it took, and notes."""
    config = configured(library, parsed.builder, target, plan.capabilities, on_device=plan.device is not None)
    add_profiles(parsed.builder, config, profiles)
    notes: tuple[str, ...] = ()
    timing = tensorrt_timing.place(cache, library, plan.device) if plan.device is not None and _times(library, target) else None
    if timing is not None:
        notes = tensorrt_timing.attach(config, timing)
    limit_s = target.options.get("build_timeout_s")
    started = time.perf_counter()
    phases = Phases(progress, None if limit_s is None else time.monotonic() + limit_s)
    watching = monitor(library.trt, phases)  # this name keeps it alive: the config does not own it
    config.progress_monitor = watching
    try:
        host = parsed.builder.build_serialized_network(parsed.network, config)
    except (RuntimeError, MemoryError) as error:  # what pybind11 makes of an exception of the library
        raise _no_engine(library, target, str(error) or "out of memory") from error
    if phases.failure is not None:
        raise phases.failure
    if phases.late:
        raise BackendFault(
            f"target {target.name}: the build was not done after {limit_s} s and was ended; raise the option build_timeout_s,"
            " or leave it out"
        )
    if host is None:
        raise _no_engine(library, target, messages.last_error)
    if timing is not None:
        notes += tensorrt_timing.keep(config, timing)
    phases.complete()
    return bytes(host), time.perf_counter() - started, notes


def _times(library: TensorRtLibrary, target: Target) -> bool:
    """Whether what the builder measures is kept."""
    return "timing_cache" not in library.edition.lacks and bool(target.options.get("timing_cache", True))


def _no_engine(library: TensorRtLibrary, target: Target, said: str) -> BackendFault:
    way_out = next((f"; {text}" for pattern, text in _WAYS_OUT if re.search(pattern, said)), "")
    return BackendFault(
        f"target {target.name}: {library.name} {library.version} built no engine: {said or 'no reason given'}{way_out}"
    )


def _signature(signature: Signature, target: Target) -> Signature:
    """With the samples fixed where the engine takes exactly ``target.batch``."""
    axis = None if target.batch is None else batch_axis(signature, target.batch)
    return signature if axis is None or target.batch is None else fix_axis(signature, axis, target.batch)


def _fact(library: TensorRtLibrary, plan: _Plan, seconds: float, total_s: float) -> str:
    if plan.capabilities:
        where = f"for compute capabilities {', '.join(plan.capabilities)}"
    else:
        assert plan.device is not None
        where = f"for {plan.device.name} ({plan.device.compute_capability}), driver {plan.device.driver}"
    return f"{library.name} {library.version} built {where} in {seconds:.1f} s, {total_s:.1f} s with reading the file"


def _sizes(engine: int, onnx: int) -> str:
    ratio = f", {engine / onnx:.1f} times the ONNX file's {_megabytes(onnx)}" if onnx else ""
    return f"the engine has {_megabytes(engine)}{ratio}"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _doubts(library: TensorRtLibrary, typed: TypedNetwork, target: Target) -> tuple[str, ...]:
    """What the types promise and this library may not keep."""
    found = []
    convolutions = sum(each.data == "int8" and each.kind != "MATRIX_MULTIPLY" for each in typed.quantized)
    products = sum(each.data == "int8" and each.kind == "MATRIX_MULTIPLY" for each in typed.quantized)
    if (convolutions or products) and not library.edition.convolutions_int8:
        parts = [(convolutions, "convolution"), (products, "matrix product")]
        what = " and ".join(f"{count} {name}{'s' if count > 1 else ''}" for count, name in parts if count)
        found.append(
            f"NVIDIA lists INT8 in {library.name} for weights of matrix products alone, so the {what} with INT8 data may be"
            " computed in float; whether INT8 pays is known once it is timed on the GPU"
        )
    if target.options.get("tf32"):
        found.append("tf32: products of float32 are rounded to 10 bits of mantissa, so this engine is not FP32")
    return tuple(found)
