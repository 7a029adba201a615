"""Core of ``quantize/static/nncf``: the one file that imports nncf."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx

from accel import telemetry
from accel.compress.calibration import NncfCalibration
from accel.compress.calibration_data import Samples, calibration_samples
from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.onnx_writing import load, name_all_nodes_, raised_opset, write
from accel.compress.plain_gemm import plain_gemms_
from accel.compress.quantized_graph import release_outputs_, remarks, require_float, require_profile, tidy_
from accel.compress.quiet_library import quiet
from accel.compress.repair_settings import SmoothQuant
from accel.compress.weight_settings import CompressedWeights
from accel.contracts import Job, QuantizationProfile
from accel.errors import AccelError, PassFault
from accel.model import OnnxModel

telemetry.switch_off()  # before the first import

with quiet():
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters
    from nncf.quantization.range_estimator import (
        AggregatorType,
        RangeEstimatorParameters,
        StatisticsCollectorParameters,
        StatisticsType,
    )


def quantize(
    model: OnnxModel,
    job: Job,
    calibration: NncfCalibration,
    scope: IgnoredScope,
    *,
    bias_correction: bool = True,
    smooth_quant: SmoothQuant | None = None,
) -> OnnxModel:
    """See ``QuantizeStaticNncf``."""
    profile = require_profile(job)
    if profile.activation == "int8" or profile.bias == "float" or profile.weight_granularity == "per_tensor":
        raise PassFault(
            "quantize: NNCF writes unsigned activations and per-channel weights only, and this target's profile asks for "
            f"{profile.activation} activations, {profile.bias} bias and {profile.weight_granularity} weights; "
            "set engine: onnxruntime"
        )
    source, converted = raised_opset(load(model.path))
    require_float(source)
    name_all_nodes_(source)
    plain_gemms_(source)
    ignored = resolve(scope, source.graph)
    samples = calibration_samples(job, model.signature, calibration.num_samples)
    try:
        with quiet():
            quantized = nncf.quantize(
                _copy(source),
                nncf.Dataset(samples),
                subset_size=len(samples),
                preset=_preset(profile),
                ignored_scope=nncf.IgnoredScope(
                    names=sorted(ignored), validate=False
                ),  # resolved above, for both engines alike
                fast_bias_correction=True,
                # what its SmoothQuant, and its placement of pairs for attention, are for
                model_type=None if smooth_quant is None else nncf.ModelType.TRANSFORMER,
                advanced_parameters=AdvancedQuantizationParameters(
                    activations_range_estimator_params=_ranges(calibration),
                    disable_bias_correction=not bias_correction,
                    smooth_quant_alphas=AdvancedSmoothQuantParameters(
                        matmul=-1 if smooth_quant is None else smooth_quant.alpha
                    ),
                ),
            )
    except (AccelError, MemoryError, OSError):
        raise
    except Exception as error:  # NNCF raises its own errors, RuntimeError and those of two runtimes
        raise PassFault(f"quantize: NNCF failed: {type(error).__name__}: {error}; try engine: onnxruntime") from error
    release_outputs_(quantized)
    tidy_(quantized, source)
    done = () if bias_correction else ("biases are not corrected, as bias_correction: false says",)
    smoothed = () if smooth_quant is None else (f"smooth_quant: by NNCF, with alpha {smooth_quant.alpha:g}",)
    notes = (*converted, *remarks(quantized, ignored, "nncf"), *samples.notes, *done, *smoothed)
    path = job.folder / "model.onnx"
    write(quantized, path)
    return OnnxModel(path=path, signature=model.signature).noting(*notes)


def compressed(
    model: onnx.ModelProto, weights: CompressedWeights, ignored: Sequence[str], samples: Samples | None
) -> onnx.ModelProto:
    """The same graph with its matrices and tables behind DequantizeLinear. ``samples``: for what looks at activations."""
    kind = nncf.CompressWeightsMode
    modes = {
        ("int8", True): kind.INT8_SYM,
        ("int8", False): kind.INT8_ASYM,
        ("int4", True): kind.INT4_SYM,
        ("int4", False): kind.INT4_ASYM,
    }
    options: dict[str, Any] = {"group_size": weights.group_size} if weights.dtype == "int4" else {}
    if samples is not None:
        options |= {"dataset": nncf.Dataset(samples), "awq": True, "subset_size": len(samples)}
    try:
        with quiet():
            made: onnx.ModelProto = nncf.compress_weights(
                _copy(model),
                mode=modes[weights.dtype, weights.symmetric],
                ignored_scope=nncf.IgnoredScope(names=list(ignored), validate=False),
                **options,
            )
    except (AccelError, MemoryError, OSError):
        raise
    except Exception as error:  # NNCF raises its own errors, RuntimeError and those of two runtimes
        raise PassFault(f"quantize: NNCF failed: {type(error).__name__}: {error}; try engine: onnxruntime") from error
    return made


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _preset(profile: QuantizationProfile) -> nncf.QuantizationPreset:
    """Mixed: asymmetric activations where they help, which was more accurate at the same speed (DESIGN.md, fact 9)."""
    return nncf.QuantizationPreset.PERFORMANCE if profile.activation_symmetric else nncf.QuantizationPreset.MIXED


def _ranges(calibration: NncfCalibration) -> RangeEstimatorParameters:
    """``minmax``: the whole range over all samples (NNCF itself takes the mean of the samples). ``percentile``: taken
    within each sample, as NNCF cannot over all of them, and the widest of these; with their mean, EfficientNet-Lite0 fell from
    88 to 69 % top-1."""
    if calibration.method == "minmax":
        return RangeEstimatorParameters(
            min=StatisticsCollectorParameters(statistics_type=StatisticsType.MIN, aggregator_type=AggregatorType.MIN),
            max=StatisticsCollectorParameters(statistics_type=StatisticsType.MAX, aggregator_type=AggregatorType.MAX),
        )
    outside = (1.0 - calibration.percentile / 100.0) / 2.0
    return RangeEstimatorParameters(
        min=StatisticsCollectorParameters(StatisticsType.QUANTILE, AggregatorType.MIN, quantile_outlier_prob=outside),
        max=StatisticsCollectorParameters(StatisticsType.QUANTILE, AggregatorType.MAX, quantile_outlier_prob=outside),
    )
