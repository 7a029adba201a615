"""The float network as a static engine gets it: computing the same as the given one, and easier to round."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx.numpy_helper import from_array

from accel.compress.calibration_data import Samples, calibration_samples
from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.onnx_writing import INT4_OPSET, load, name_all_nodes_, raised_opset, unique, write
from accel.compress.plain_gemm import plain_gemms_
from accel.compress.qdq_onnxruntime import activations
from accel.compress.quantized_graph import require_float, require_profile, sort_nodes_
from accel.compress.repair.equalization import equalize_, pairs_of
from accel.compress.repair.smoothing import readers_of, smooth_
from accel.compress.repair.weighted_layers import Floats
from accel.compress.repair_settings import Repairs
from accel.contracts import Job
from accel.errors import PassFault
from accel.model import OnnxModel


@dataclass(frozen=True)
class Prepared:
    """``model``: the file to quantize. ``unrounded``: nodes that must read values before they are rounded."""

    model: OnnxModel
    unrounded: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()


@contextmanager
def prepared(model: OnnxModel, job: Job, repairs: Repairs, scope: IgnoredScope, num_samples: int) -> Iterator[Prepared]:
    """``model`` equalized and smoothed as ``repairs`` says, in a file that lasts as long as the block; ``model`` itself where
    nothing is to be done.

    Raises PassFault where the target's dialect has no such weights, DataFault for calibration data that is missing or does not
    fit.
    """
    if not repairs.changes_float_network:
        yield Prepared(model)
        return
    _require_dialect(job, repairs)
    source = load(model.path)
    in_int4 = repairs.weights.dtype == "int4"
    graph, converted = raised_opset(source, INT4_OPSET, INT4_OPSET, "Q/DQ of INT4") if in_int4 else raised_opset(source)
    require_float(graph)
    name_all_nodes_(graph)
    plain_gemms_(graph)
    ignored = resolve(scope, graph.graph)
    notes = list(converted)
    unrounded: frozenset[str] = frozenset()
    if repairs.adaround is not None or repairs.bias_correction:
        own_biases_(graph.graph)
    with tempfile.TemporaryDirectory(dir=job.folder) as name:
        folder = Path(name)

        def samples() -> Samples:
            return calibration_samples(job, model.signature, num_samples)

        if repairs.cross_layer_equalization:
            pairs = pairs_of(graph.graph, ignored)
            bounded = [pair.output for pair in pairs if pair.bound is not None]
            linear = {pair.output for pair in pairs if pair.first.convolution is None}
            highest = _largest(
                graph, bounded, samples, folder, lambda value, found: _by_channel(found, last=value in linear).max(axis=0)
            )
            notes += equalize_(graph.graph, pairs, highest)
        if repairs.smooth_quant is not None:
            readers = readers_of(graph.graph, ignored)
            magnitudes = _largest(
                graph, list(readers), samples, folder, lambda _, found: np.abs(_by_channel(found, last=True)).max(axis=0)
            )
            unrounded, told = smooth_(graph.graph, readers, magnitudes, repairs.smooth_quant.alpha)
            notes += told
            sort_nodes_(graph)
        path = folder / "model.onnx"
        write(graph, path)
        yield Prepared(OnnxModel(path=path, signature=model.signature), unrounded, tuple(notes))


def _require_dialect(job: Job, repairs: Repairs) -> None:
    profile = require_profile(job)
    if not repairs.rewrites_weights:
        return
    if profile.weight_granularity == "per_tensor":
        raise PassFault(
            "quantize: this target's weights have one scale for a whole layer; adaround and weights of few bits need one for"
            " each output: leave both out"
        )
    if repairs.weights.dtype == "int4" and profile.activation == "int8" and profile.activation_symmetric:
        raise PassFault(
            "quantize: this target reads Q/DQ with signed symmetric activations (TensorRT), which has no INT4 weights with a"
            " scale for each output; set weights.dtype: int8"
        )


def own_biases_(graph: onnx.GraphProto) -> None:
    """Each Conv and Gemm with a stored weight gets a bias of its own, of zeros where it had none, in place."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | set(stored)
    seen: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 2 or node.input[1] not in stored:
            continue
        bias = node.input[2] if len(node.input) > 2 else ""
        if bias and bias not in stored:
            continue
        if not bias:
            value = np.zeros(_outputs(node, stored[node.input[1]]), np.float32)
            name = unique(f"{node.input[1]}_bias", taken)
            graph.initializer.append(from_array(value, name))
            del node.input[2:]
            node.input.append(name)
        elif bias in seen:
            name = unique(f"{bias}_of_{node.name}", taken)
            copy = graph.initializer.add()
            copy.CopyFrom(stored[bias])
            copy.name = node.input[2] = name
        else:
            name = bias
        seen.add(name)
        taken.add(name)


def _outputs(node: onnx.NodeProto, weight: onnx.TensorProto) -> int:
    upright = node.op_type == "Conv" or any(each.name == "transB" and each.i for each in node.attribute)
    return int(weight.dims[0 if upright else 1])


def _largest(
    model: onnx.ModelProto,
    values: Sequence[str],
    samples: Callable[[], Samples],
    folder: Path,
    reduce: Callable[[str, Floats], Floats],
) -> dict[str, Floats]:
    """Each of ``values`` to the largest that ``reduce`` gives for any sample; it gets the value's name and array."""
    found: dict[str, Floats] = {}
    for arrays in activations(model, values, samples(), folder) if values else ():
        for value, array in zip(values, arrays, strict=True):
            highest = reduce(value, np.asarray(array, np.float32))
            found[value] = np.maximum(found[value], highest) if value in found else highest
    return found


def _by_channel(found: Floats, *, last: bool) -> Floats:
    """(rows, channels): channels are the ``last`` axis of what a linear layer gives or reads, and a convolution's second."""
    channels = found if last else np.moveaxis(found, 1, -1)
    return channels.reshape(-1, channels.shape[-1])
