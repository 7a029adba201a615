"""Core of ``quantize/static/onnxruntime``: the one file that imports onnxruntime.quantization."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from accel import telemetry
from accel.compress.calibration import Calibration
from accel.compress.calibration_data import Samples, calibration_samples
from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.least_error_range import least_error_range
from accel.compress.onnx_writing import drop_unused_initializers_, load, name_all_nodes_, raised_opset, write
from accel.compress.plain_gemm import plain_gemms_
from accel.compress.quantized_graph import (
    WEIGHTED,
    read_by,
    release_outputs_,
    remarks,
    require_float,
    require_profile,
    sort_nodes_,
    tidy_,
)
from accel.compress.quiet_library import quiet
from accel.contracts import Job, QuantizationProfile
from accel.errors import AccelError, PassFault
from accel.model import OnnxModel

telemetry.switch_off()  # before the first import

from onnxruntime import InferenceSession, SessionOptions  # noqa: E402
from onnxruntime.quantization import (  # noqa: E402
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
    quantize_dynamic,
)
from onnxruntime.quantization.calibrate import HistogramCollector, TensorsData  # noqa: E402
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry  # noqa: E402

HISTOGRAM_BINS = {"entropy": 256, "percentile": 2048, "mse": 2048}
"""Over [-m, m], m the largest magnitude seen. 2048 is the library's own for percentile, ours for mse. For entropy it has 128,
as many as the levels it fits, which leaves one candidate, the whole range: entropy is then minmax. 256 lets it cut up to half
of the range. Finer bins hide the rounding from the divergence, and it cuts too much: ResNet-20 had 88.7 % top-1, 89.0 at 256,
88.0 at 512."""

Finish = Callable[[onnx.ModelProto, onnx.ModelProto, Samples], tuple[str, ...]]


def quantize(
    model: OnnxModel,
    job: Job,
    calibration: Calibration,
    scope: IgnoredScope,
    unrounded: frozenset[str] = frozenset(),
    finish: Finish | None = None,
) -> OnnxModel:
    """See ``QuantizeStaticOnnxRuntime``. ``unrounded``: nodes that read values before they are rounded. ``finish``: what is
    done to the Q/DQ graph in place, beside the float one, before it is written; gives notes."""
    profile = require_profile(job)
    source, converted = raised_opset(load(model.path))
    require_float(source)
    name_all_nodes_(source)
    plain_gemms_(source)
    ignored = resolve(scope, source.graph)
    samples = calibration_samples(job, model.signature, calibration.num_samples)
    types = _types(profile)
    # Not in job.scratch, which outlives a kill for the sake of checkpoints; the next run of the step empties job.folder.
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        inferred = _with_shapes(source)
        # The library writes files beside its input, which may lie in a folder that others read.
        plain = Path(folder) / "model.onnx"
        write(inferred, plain)
        ranges = _guarded("calibration", lambda: _ranges(plain, types, samples, calibration, job))
        inferred = onnx.load(str(plain))
    left = sorted(ignored | unrounded)
    quantized = _guarded("quantization", lambda: _quantized(inferred, ranges, types, profile, left))
    sort_nodes_(quantized)
    release_outputs_(quantized)
    done = finish(quantized, source, samples) if finish is not None else ()
    tidy_(quantized, source)
    notes = (*converted, *remarks(quantized, ignored, "onnxruntime"), *samples.notes, *done)
    path = job.folder / "model.onnx"
    write(quantized, path)
    return OnnxModel(path=path, signature=model.signature).noting(*notes)


def _types(profile: QuantizationProfile) -> list[str]:
    """The operator types that get Q/DQ.

    Symmetric signed (TensorRT): the inputs of weighted operators only, as TensorRT asks for; more Q/DQ breaks its fusions.
    Else everything the library can, so that values stay in INT8 between the convolutions.
    """
    types = {*WEIGHTED} if _weighted_only(profile) else {*QLinearOpsRegistry, *QDQRegistry} - {"Add"}
    return sorted(types | ({"Add"} if profile.quantize_residual_add else set()))


def _weighted_only(profile: QuantizationProfile) -> bool:
    return profile.activation == "int8" and profile.activation_symmetric


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    inferred = onnx.shape_inference.infer_shapes(model) if model.ByteSize() < 1 << 30 else model
    return inferred if len(inferred.graph.node) == len(model.graph.node) else model


class _Reader:
    """A CalibrationDataReader over groups that are made as they are asked for."""

    def __init__(self, groups: Iterator[Any]) -> None:
        self._groups = groups

    def get_next(self) -> Any:
        return next(self._groups, None)


def _ranges(path: Path, types: list[str], samples: Samples, calibration: Calibration, job: Job) -> TensorsData:
    """Lowest and highest value for each activation. Memory: the activations of one sample, and a histogram for each.

    The library's own way keeps every activation of every sample until the end (its issue 10503: over 256 GB), and its
    histograms grow without bound where a later batch is larger. Here a first reading finds the largest magnitudes, and a second
    one fills histograms whose width is known; neither depends on the order of the samples.
    """
    rounds = len(samples) * (1 if calibration.method == "minmax" else 2)
    done = 0

    def counted() -> Iterator[Any]:
        nonlocal done
        for group in samples:
            done += 1
            job.progress(done, rounds, "calibrating")
            yield group

    widest: TensorsData = _calibrated(path, types, CalibrationMethod.MinMax, counted())
    if calibration.method == "minmax":
        return widest
    bins = HISTOGRAM_BINS[calibration.method]
    method = CalibrationMethod.Entropy if calibration.method == "entropy" else CalibrationMethod.Percentile
    collector = HistogramCollector(
        method="entropy" if calibration.method == "entropy" else "percentile",
        symmetric=False,  # the library's symmetric percentile ignores the negative tail; symmetry comes with the scales
        num_bins=bins,
        num_quantized_bins=128,
        percentile=calibration.percentile,
        scenario="same",
    )
    for name, entry in widest.items():
        low, high = (np.asarray(value, dtype=np.float32).reshape(()) for value in entry.range_value)
        width = np.maximum(np.abs(low), np.abs(high))
        edges = np.linspace(-width, width, bins + 1, dtype=np.float32)
        collector.histogram_dict[name] = (np.zeros(bins, dtype=np.int64), edges, low, high, width)
    found: TensorsData = _calibrated(path, types, method, counted(), collector)
    if calibration.method != "mse":
        return found
    symmetric = job.profile is not None and job.profile.activation_symmetric
    chosen = {
        name: tuple(np.asarray(value, np.float32) for value in _least_error(collector.histogram_dict[name], symmetric))
        for name in collector.histogram_dict
    }
    return TensorsData(CalibrationMethod.MinMax, chosen)


def _least_error(histogram: tuple[Any, ...], symmetric: bool) -> tuple[float, float]:
    counts, edges, low, high, _ = histogram
    return least_error_range(np.asarray(counts), np.asarray(edges), float(low), float(high), symmetric)


def _calibrated(
    path: Path, types: list[str], method: CalibrationMethod, groups: Iterator[Any], collector: HistogramCollector | None = None
) -> TensorsData:
    calibrator = create_calibrator(
        path,
        types,
        augmented_model_path=str(path.with_name(f"augmented-{method.name}.onnx")),
        calibrate_method=method,
        providers=["CPUExecutionProvider"],
    )
    if collector is not None:
        calibrator.collector = collector
    for group in groups:
        calibrator.collect_data(_Reader(iter([group])))
    return calibrator.compute_data()


def _quantized(
    model: onnx.ModelProto, ranges: TensorsData, types: list[str], profile: QuantizationProfile, ignored: list[str]
) -> onnx.ModelProto:
    signed = profile.activation == "int8"
    quantizer = QDQQuantizer(
        model,
        profile.weight_granularity == "per_channel",
        False,  # reduce_range: 7-bit weights, for CPUs without VNNI; costs accuracy everywhere else
        QuantType.QInt8,
        QuantType.QInt8 if signed else QuantType.QUInt8,
        ranges,
        [],
        ignored,
        types,
        {
            "ActivationSymmetric": profile.activation_symmetric,
            "WeightSymmetric": True,
            "QuantizeBias": profile.bias == "int32",
            "OpTypesToExcludeOutputQuantization": types if _weighted_only(profile) else [],
        },
    )
    quantizer.quantize_model()
    return quantizer.model.model


def integer_products(model: onnx.ModelProto, folder: Path, names: Sequence[str]) -> onnx.ModelProto:
    """The MatMul nodes in ``names`` on integers: weights signed with one scale for each output, activations unsigned with the
    range that each inference has. ``folder``: for the library's files."""
    path = folder / "dynamic.onnx"

    def work() -> onnx.ModelProto:
        quantize_dynamic(
            _with_shapes(model),
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=list(names),
        )
        return onnx.load(str(path))

    made: onnx.ModelProto = _guarded("dynamic quantization", work)
    return made


def input_products(
    model: onnx.ModelProto, values: Sequence[str], samples: Samples, folder: Path, job: Job
) -> dict[str, NDArray[np.float64]]:
    """For each of ``values`` of the graph, (..., width), the sum of x xT (width, width) over all its rows in all samples.

    Memory: what the graph computes for one sample, and the sums. ``folder``: for the file that is run.
    """
    sums: dict[str, NDArray[np.float64]] = {}
    for done, arrays in enumerate(activations(model, values, samples, folder), 1):
        for value, found in zip(values, arrays, strict=True):
            rows = np.asarray(found, np.float32).reshape(-1, found.shape[-1])
            sums[value] = sums.get(value, 0.0) + (rows.T @ rows).astype(np.float64)
        job.progress(done, len(samples), "calibrating")
    return sums


def activations(
    model: onnx.ModelProto, values: Sequence[str], groups: Iterable[Mapping[str, NDArray[Any]]], folder: Path
) -> Iterator[list[NDArray[Any]]]:
    """``values`` of the graph, inputs among them, for each of ``groups`` of samples; only what they depend on is run.

    ``folder``: for the file that is run.
    """
    folder.mkdir(exist_ok=True)
    given = {entry.name for entry in model.graph.input}
    made = [value for value in values if value not in given]
    session = _guarded("calibration", lambda: _session(_up_to(model, made), folder / "watched.onnx")) if made else None
    for group in groups:
        found = dict(group)
        if session is not None:
            needed = {entry.name: group[entry.name] for entry in session.get_inputs()}
            outputs = _guarded("calibration", partial(session.run, made, needed))
            found |= zip(made, outputs, strict=True)
        yield [found[value] for value in values]


def _session(model: onnx.ModelProto, path: Path) -> InferenceSession:
    write(model, path)
    options = SessionOptions()
    options.log_severity_level = 3
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _up_to(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy that gives ``values`` and has nothing that they do not depend on."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    wanted = set(values)
    kept = []
    for node in reversed(model.graph.node):  # they are in topological order
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(read_by(node))
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(reversed(kept))
    part.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    inputs = [entry for entry in model.graph.input if entry.name in wanted]
    del part.graph.input[:]
    part.graph.input.extend(inputs)
    drop_unused_initializers_(part)
    return part


def _guarded(what: str, work: Any) -> Any:
    try:
        with quiet():
            return work()
    except (AccelError, MemoryError, OSError):
        raise
    except AssertionError as error:
        raise PassFault(
            f"quantize: onnxruntime's {what} found a scale that is not a number ({error}); a weight or activation holds NaN, "
            "Inf or values beyond float32: check the weights with `accel inspect` and the calibration data"
        ) from error
    except Exception as error:  # the library raises ValueError, RuntimeError, its own Fail and InvalidArgument
        raise PassFault(f"quantize: onnxruntime's {what} failed: {type(error).__name__}: {error}") from error
