"""Core of ``quantize/weight_only/nncf``: weights behind DequantizeLinear, as OpenVINO keeps them compressed."""

from __future__ import annotations

import onnx

from accel.compress.calibration_data import calibration_samples
from accel.compress.grouped_weights import refill_blocks_
from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.onnx_writing import BLOCK_OPSET, load, name_all_nodes_, raised_opset, write
from accel.compress.product_rounding import rounded
from accel.compress.product_weights import Tally, constant_products, products_from_gemms_, require_any, tables
from accel.compress.qdq_nncf import compressed
from accel.compress.quantized_graph import require_float, tidy_
from accel.compress.weight_settings import CompressedWeights, WeightCalibration
from accel.contracts import Job
from accel.model import OnnxModel


def quantize(
    model: OnnxModel, job: Job, weights: CompressedWeights, calibration: WeightCalibration, scope: IgnoredScope
) -> OnnxModel:
    """See ``QuantizeWeightOnlyNncf``."""
    source, converted = raised_opset(load(model.path), BLOCK_OPSET, BLOCK_OPSET, "DequantizeLinear in blocks")
    require_float(source)
    name_all_nodes_(source)
    ignored = set(resolve(scope, source.graph))
    convolutions = {node.name for node in source.graph.node if node.op_type in ("Conv", "ConvTranspose")}
    products_from_gemms_(source)
    tally = Tally()
    products = constant_products(source, ignored, tally)
    found = tables(source, ignored, tally)
    if weights.embedding_dtype == "float32":
        ignored |= {node.name for gathers in found.values() for node in gathers}
        found = {}
    require_any(products, found)
    samples = calibration_samples(job, model.signature, calibration.num_samples) if weights.algorithm != "rtn" else None
    quantized = compressed(source, weights, sorted(ignored | convolutions), samples if weights.algorithm == "awq" else None)
    algorithms: dict[str, str] = {}
    if weights.algorithm == "gptq":
        names = [name for name, kind in _stored(quantized, set(products)).items() if "int4" in kind]
        made = dict(
            rounded(source, names, size=weights.group_size, bits=4, symmetric=weights.symmetric, samples=samples, job=job)
        )
        algorithms = {name: made[name].algorithm for name in refill_blocks_(quantized, made)}
    elif weights.algorithm == "awq":
        algorithms = dict.fromkeys((name for name, kind in _stored(quantized, set(products)).items() if "int4" in kind), "awq")
    tidy_(quantized, source)
    for name, kind in _stored(quantized, {*products, *(node.name for gathers in found.values() for node in gathers)}).items():
        if kind:
            tally.put(tally.done, f"weights in {kind} by {algorithms.get(name, 'rtn')}", name)
        else:
            tally.put(tally.left, "left by nncf", name)
    path = job.folder / "model.onnx"
    write(quantized, path)
    notes = (*converted, *tally.notes(), *(samples.notes if samples is not None else ()))
    return OnnxModel(path=path, signature=model.signature).noting(*notes)


def _stored(model: onnx.ModelProto, names: set[str]) -> dict[str, str]:
    """Each of the nodes in ``names`` to the element type that its weights are stored in; empty where that is float."""
    kinds = {weight.name: onnx.TensorProto.DataType.Name(weight.data_type).lower() for weight in model.graph.initializer}
    made = {
        node.output[0]: kinds[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in kinds
    }
    return {
        node.name: next((made[name] for name in node.input if name in made), "")
        for node in model.graph.node
        if node.name in names
    }
