"""Core of ``quantize/weight_only/onnxruntime``: MatMulNBits, which ONNX Runtime multiplies without unpacking the matrix."""

from __future__ import annotations

from accel.compress.ignored_scope import IgnoredScope, resolve
from accel.compress.onnx_writing import load, name_all_nodes_, raised_opset, write
from accel.compress.product_weights import Tally, constant_products, products_from_gemms_, tables, tables_by_row_
from accel.compress.qdq_onnxruntime import products_in_blocks
from accel.compress.quantized_graph import refuse_symmetric, require_float, sort_nodes_, tidy_
from accel.compress.weight_settings import BlockWeights
from accel.contracts import Job
from accel.errors import PassFault
from accel.model import OnnxModel

_OPERATOR = "MatMulNBits"


def quantize(model: OnnxModel, job: Job, weights: BlockWeights, scope: IgnoredScope) -> OnnxModel:
    """See ``QuantizeWeightOnlyOnnxRuntime``."""
    refuse_symmetric(job, f"approach weight_only writes {_OPERATOR}, an operator of ONNX Runtime's")
    source, converted = raised_opset(load(model.path))
    require_float(source)
    name_all_nodes_(source)
    ignored = resolve(scope, source.graph)
    products_from_gemms_(source)
    tally = Tally()
    products = constant_products(source, ignored, tally)
    found = tables(source, ignored, tally) if weights.embedding_dtype == "int8" else {}
    if not products and not found:
        raise PassFault(
            "quantize changed nothing: there is no product with a constant float32 matrix and no embedding table outside"
            " ignored_scope; for convolutions set approach: static"
        )
    bits = 4 if weights.dtype == "int4" else 8
    quantized = source
    if products:
        quantized = products_in_blocks(source, products, bits, weights.group_size, weights.symmetric)
        _require_all(quantized, products)
    tables_by_row_(quantized, tables(quantized, ignored, Tally()) if found else {})
    sort_nodes_(quantized)
    tidy_(quantized, source)
    zero = "" if weights.symmetric else " and a zero point"
    for name in products:
        tally.put(tally.done, f"products, weights in {bits} bits with a scale{zero} for {weights.group_size} each", name)
    for name in found:
        tally.put(tally.done, "embedding tables in INT8 for each row", name)
    path = job.folder / "model.onnx"
    write(quantized, path)
    return OnnxModel(path=path, signature=model.signature).noting(*converted, *tally.notes())


def _require_all(quantized: object, products: list[str]) -> None:
    """PassFault for a product that the library passed over without a word."""
    made = {node.name for node in quantized.graph.node if node.op_type == _OPERATOR}  # type: ignore[attr-defined]
    if missing := [name for name in products if name not in made]:
        raise PassFault(f"quantize: onnxruntime left {', '.join(missing[:5])} in floating point; add it to ignored_scope.names")
