"""Operators that TensorRT's parser does not have, or has under conditions.

Every error here was tried on the parser of TensorRT-RTX 1.7.1, which refuses the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from accel.accelerate.lint import tensorrt_supported as tensorrt_operators
from accel.accelerate.lint.graph import STANDARD, LintGraph, label
from accel.accelerate.lint.rules import Problem, Rule

_RUNTIME = ("com.microsoft", "com.microsoft.nchwc", "com.ms.internal.nhwc")
_INTEGER_FORMS = frozenset({"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"})
_QDQ = (
    "quantize to Q/DQ instead: for a target with `backend: tensorrt` (onnxruntime.quantization: quant_format=QDQ,"
    " static, symmetric)"
)
_NOT_OPTIMIZED = "export it again, and do not save it from ONNX Runtime after its optimizations"
_INSTEAD: Mapping[str, str] = {
    "Compress": "pick by constant indices with Gather, or mask with Where",
    "Unique": "do it outside of the model",
    "BitShift": "multiply or divide by a power of two",
    "BitwiseAnd": "for masks use And on BOOL",
    "BitwiseOr": "for masks use Or on BOOL",
    "BitwiseNot": "for masks use Not on BOOL",
    "BitwiseXor": "for masks use Xor on BOOL",
    "AffineGrid": "compute the grid outside of the model, or from MatMul; GridSample is there",
    "CenterCropPad": "use Slice and Pad",
    "Col2Im": "use ConvTranspose with constant weights",
    "DFT": "multiply with a constant Fourier matrix (MatMul); STFT is there",
    "Bernoulli": "compare RandomUniformLike with the probability",
    "Multinomial": "draw outside of the model",
    "MaxUnpool": "use Resize, or ScatterElements with the indices",
    "MaxRoiPool": "use RoiAlign",
    "DeformConv": "use GridSample and Conv",
    "SwiGLU": "write it as Mul and Sigmoid (an older opset does)",
    "CumProd": "with positive values: Exp of CumSum of Log",
}


def unsupported_operator(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.domain in STANDARD and node.op_type not in tensorrt_operators.STANDARD | _INTEGER_FORMS:
            kind = "sequences" if "Sequence" in node.op_type else "text" if "String" in node.op_type else ""
            way = _INSTEAD.get(node.op_type, "rewrite it in the network with operators that are there, and export again")
            if kind:
                way = f"TensorRT has no {kind}: do this part outside of the model"
            yield Problem(label(node), f"the parser has no operator {node.op_type}", way)


def integer_operator(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.domain in STANDARD and node.op_type in _INTEGER_FORMS:
            message = f"{node.op_type} computes on integers; the parser has only the float operator between Q/DQ pairs"
            yield Problem(label(node), message, _QDQ)


def contrib_operator(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        known = node.op_type in tensorrt_operators.STANDARD | tensorrt_operators.CONTRIB
        if node.domain in _RUNTIME and not known:
            way = _QDQ if node.op_type.startswith(("Q", "MatMulInteger", "DynamicQuantize")) else _NOT_OPTIMIZED
            yield Problem(label(node), f"{node.op_type} is ONNX Runtime's own ({node.domain}); the parser has none", way)


def contrib_namesake(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.domain in _RUNTIME and node.op_type in tensorrt_operators.STANDARD:
            message = (
                f"{node.op_type} is of ONNX Runtime's domain ({node.domain}); the parser takes ONNX's operator of that name"
            )
            yield Problem(label(node), message, "compare the engine's outputs, or export it in the standard domain")


def plugin(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.domain not in (*STANDARD, *_RUNTIME):
            message = f"{node.op_type} of domain {node.domain!r} is none of ONNX's: the parser needs a plugin of that name"
            yield Problem(label(node), message, "rewrite it with operators of ONNX; accel registers no plugins")


def non_zero(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op_type == "NonZero":
            message = "NonZero is a plugin in TensorRT-RTX, and 1.7.1 does not bring it"
            yield Problem(label(node), message, "mask with Where instead of picking the indices")


def needs_gpu(graph: LintGraph) -> Iterator[Problem]:
    reasons = {
        "RoiAlign": "its plugin starts CUDA while the file is read",
        "NonMaxSuppression": "the builder of TensorRT-RTX 1.7.1 finds no implementation of it",
    }
    for node in graph.nodes:
        if node.domain in STANDARD and node.op_type in reasons:
            message = f"{node.op_type} cannot be built without a GPU: {reasons[node.op_type]}"
            yield Problem(label(node), message, "build where the GPU is, or end the model before it and do the rest outside")


def data_dependent(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.domain in STANDARD and node.op_type in ("NonZero", "NonMaxSuppression"):
            message = (
                f"the size of what {node.op_type} makes depends on the data: memory is taken for the largest, and no CUDA graph"
            )
            yield Problem(label(node), message, "mask with Where, or end the model before it and do the rest outside")


RULES = (
    Rule("unsupported-operator", "error", "the parser has the operator", unsupported_operator),
    Rule("integer-operator", "error", "no QLinearConv, MatMulInteger and the like: Q/DQ pairs instead", integer_operator),
    Rule("contrib-operator", "error", "no operator of ONNX Runtime's own", contrib_operator),
    Rule("contrib-namesake", "warning", "no namesake of an ONNX operator in ONNX Runtime's domain", contrib_namesake),
    Rule("data-dependent", "warning", "no output whose size depends on the data", data_dependent),
)
TENSORRT_ONLY = (Rule("plugin", "warning", "no operator of a foreign domain: it needs a plugin", plugin),)
RTX_ONLY = (
    Rule("plugin", "error", "no operator of a foreign domain: it needs a plugin", plugin),
    Rule("non-zero", "error", "no NonZero: TensorRT-RTX does not bring its plugin", non_zero),
    Rule("needs-gpu", "warning", "no operator that cannot be built without a GPU", needs_gpu),
)
