"""Core of ``quantize/dynamic/onnxruntime``: weights in INT8, activations rounded as they come, by ONNX Runtime's own call."""

from __future__ import annotations

import tempfile
from pathlib import Path

from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.onnx_writing import load, name_all_nodes_, raised_opset, write
from accel.compress.product_weights import (
    Tally,
    constant_products,
    products_from_gemms_,
    require_any,
    tables,
    tables_by_row_,
)
from accel.compress.qdq_onnxruntime import integer_products
from accel.compress.quantized_graph import refuse_symmetric, require_float, sort_nodes_, tidy_
from accel.contracts import Job
from accel.model import OnnxModel

_SUFFIX = "_quant"  # of what the library calls its integer products


def quantize(model: OnnxModel, job: Job, scope: IgnoredScope) -> OnnxModel:
    """See ``QuantizeDynamic``."""
    refuse_symmetric(job, "approach dynamic writes integer products that ONNX Runtime and OpenVINO run")
    source, converted = raised_opset(load(model.path))
    require_float(source)
    name_all_nodes_(source)
    ignored = resolve(scope, source.graph)
    products_from_gemms_(source)
    tally = Tally()
    products = constant_products(source, ignored, tally)
    found = tables(source, ignored, tally)
    require_any(products, found)
    if products:
        with tempfile.TemporaryDirectory(dir=job.folder) as folder:
            quantized = integer_products(source, Path(folder), products)
        for node in quantized.graph.node:
            if node.op_type == "MatMulInteger":
                node.name = node.name.removesuffix(_SUFFIX)
    else:
        quantized = source
    tables_by_row_(quantized, tables(quantized, ignored, Tally()))
    sort_nodes_(quantized)
    tidy_(quantized, source)
    for name in products:
        tally.put(tally.done, "products, weights in INT8 for each output, activations as they come", name)
    for name in found:
        tally.put(tally.done, "embedding tables in INT8 for each row", name)
    path = job.folder / "model.onnx"
    write(quantized, path)
    return OnnxModel(path=path, signature=model.signature).noting(*converted, *tally.notes(), *_elsewhere(job))


def _elsewhere(job: Job) -> tuple[str, ...]:
    """OpenVINO 2026.4 runs all-MiniLM-L6-v2 in this form slower than in FP32."""
    if job.target is None or job.target.backend != "openvino":
        return ()
    return ("warning: OpenVINO has no fast kernels for products with dynamic ranges; set approach: weight_only for it",)
