"""ONNX Runtime's quantizer between what makes a network easier to round and what rounds its weights anew."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from accel.compress.accuracy_control import AccuracyControl, controlled
from accel.compress.calibration import Calibration
from accel.compress.calibration_data import Samples
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.onnx_writing import load, write
from accel.compress.qdq_onnxruntime import quantize as quantize_plainly
from accel.compress.repair.float_network import prepared
from accel.compress.repair.int4 import store_in_int4_
from accel.compress.repair.layer_by_layer import rewrite_
from accel.compress.repair.smoothing import read_unrounded_
from accel.compress.repair_settings import Repairs
from accel.contracts import Job
from accel.model import OnnxModel


def quantize(
    model: OnnxModel,
    job: Job,
    calibration: Calibration,
    scope: IgnoredScope,
    repairs: Repairs,
    control: AccuracyControl | None = None,
) -> OnnxModel:
    """See ``QuantizeStaticOnnxRuntime``."""
    with prepared(model, job, repairs, scope, calibration.num_samples) as network:

        def finish(quantized: onnx.ModelProto, source: onnx.ModelProto, samples: Samples) -> tuple[str, ...]:
            read_unrounded_(quantized, network.unrounded)
            if not (repairs.rewrites_weights or repairs.bias_correction):
                return ()
            with TemporaryDirectory(dir=job.folder) as folder:
                return rewrite_(quantized, source, repairs, samples, model.signature, job, Path(folder))

        result = quantize_plainly(network.model, job, calibration, scope, network.unrounded, finish)
        result = controlled(network.model, result, job, control).noting(*network.notes)
    if repairs.weights.dtype == "int4":  # last: the file's answers stay as they were, and layers are put back from INT8
        graph = load(result.path)
        store_in_int4_(graph)
        write(graph, result.path)
    return result
