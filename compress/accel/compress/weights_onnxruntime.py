"""Core of ``quantize/weight_only/onnxruntime``: MatMulNBits, which ONNX Runtime multiplies without unpacking the matrix.

Its own quantizer is not called: on all-MiniLM-L6-v2 (groups of 32, four bits) its rounding to the nearest left a mean cosine of
0.9734 to FP32, ours 0.9757 because ranges are cut; its GPTQ 0.9732, since it finds new grids for what it has rounded, ours
0.993.
"""

from __future__ import annotations

from accel.compress.calibration_data import calibration_samples
from accel.compress.grouped_weights import multiply_in_bits_
from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.onnx_writing import load, name_all_nodes_, raised_opset, write
from accel.compress.product_rounding import rounded
from accel.compress.product_weights import (
    Tally,
    constant_products,
    products_from_gemms_,
    require_any,
    tables,
    tables_by_row_,
)
from accel.compress.quantized_graph import refuse_symmetric, require_float, tidy_
from accel.compress.weight_settings import BlockWeights, WeightCalibration
from accel.contracts import Job
from accel.model import OnnxModel


def quantize(
    model: OnnxModel, job: Job, weights: BlockWeights, calibration: WeightCalibration, scope: IgnoredScope
) -> OnnxModel:
    """See ``QuantizeWeightOnlyOnnxRuntime``."""
    refuse_symmetric(job, "approach weight_only writes MatMulNBits, an operator of ONNX Runtime's")
    graph, converted = raised_opset(load(model.path))
    require_float(graph)
    name_all_nodes_(graph)
    ignored = resolve(scope, graph.graph)
    products_from_gemms_(graph)
    tally = Tally()
    products = constant_products(graph, ignored, tally)
    found = tables(graph, ignored, tally) if weights.embedding_dtype == "int8" else {}
    require_any(products, found)
    bits = 4 if weights.dtype == "int4" else 8
    samples = calibration_samples(job, model.signature, calibration.num_samples) if weights.algorithm == "gptq" else None
    made = dict(
        rounded(graph, products, size=weights.group_size, bits=bits, symmetric=weights.symmetric, samples=samples, job=job)
    )
    multiply_in_bits_(graph, made, bits)
    tables_by_row_(graph, found)
    tidy_(graph, graph)
    grid = f"a scale{'' if weights.symmetric else ' and a zero point'} for {weights.group_size} each"
    for name in products:
        how = f"products, weights in {bits} bits by {made[name].algorithm}, {grid}; activations stay in float32"
        tally.put(tally.done, how, name)
    for name in found:
        tally.put(tally.done, "embedding tables in INT8 for each row", name)
    path = job.folder / "model.onnx"
    write(graph, path)
    notes = (*converted, *tally.notes(), *(samples.notes if samples is not None else ()))
    return OnnxModel(path=path, signature=model.signature).noting(*notes)
