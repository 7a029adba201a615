"""Q/DQ nodes as ONNX means them: the operator set they need, and that somebody reads them. For every backend."""

from __future__ import annotations

from collections.abc import Iterator

from accel.accelerate.lint.graph import LintGraph, label, made
from accel.accelerate.lint.qdq import Quantizer, quantizers
from accel.accelerate.lint.rules import Problem, Rule

_SINCE = {
    "INT8": 10,
    "UINT8": 10,
    "INT32": 10,
    "FLOAT8E4M3FN": 19,
    "FLOAT8E5M2": 19,
    "INT16": 21,
    "UINT16": 21,
    "INT4": 21,
    "UINT4": 21,
}
_AXIS_SINCE, _BLOCKS_SINCE = 13, 21
"""onnx/docs/Changelog.md: QuantizeLinear-10, -13, -19, -21."""


def qdq_opset(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        needed, what = _needed(each)
        if graph.opset < needed and each.node.domain in ("", "ai.onnx"):
            message = f"{what} came with opset {needed}; the file declares {graph.opset}"
            yield Problem(label(each.node), message, f"convert the model to opset {needed} or later before it is quantized")


def _needed(each: Quantizer) -> tuple[int, str]:
    if each.block:
        return _BLOCKS_SINCE, "scales for blocks"
    if each.many and _SINCE.get(each.stored, 0) < _AXIS_SINCE:
        return _AXIS_SINCE, "a scale for each channel"
    return _SINCE.get(each.stored, 0), f"Q/DQ of {each.stored}"


def dangling(graph: LintGraph) -> Iterator[Problem]:
    for each in quantizers(graph):
        if made(each.node) not in graph.given_out and not graph.readers.get(made(each.node)):
            message = "nothing reads what it makes: a pair that was left behind, or whose other half is lost"
            yield Problem(label(each.node), message, "remove it (a `simplify` pass does)")


READ = (Rule("dangling", "warning", "every QuantizeLinear and DequantizeLinear is read", dangling),)
RULES = (
    Rule("qdq-opset", "error", "Q/DQ are of an operator set that has their types, axes and blocks", qdq_opset),
    *READ,
)
