"""What TensorRT makes of the element types of an ONNX file: what it computes, converts, mixes and refuses.

Every error here was tried on the parser of TensorRT-RTX 1.7.1, which refuses the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from accel.accelerate.lint.graph import STANDARD, LintGraph, label, made, source
from accel.accelerate.lint.rules import Problem, Rule
from accel.errors import ModelFault
from accel.onnx_tensors import Found, require_finite_tensor, type_name

_TYPES = frozenset(
    {"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT8", "UINT8", "INT32", "INT64", "BOOL", "INT4", "FLOAT8E4M3FN", "FLOAT4E2M1",
     "FLOAT8E8M0"}
)  # fmt: skip
_INSTEAD: Mapping[str, str] = {
    "STRING": "do what needs text outside of the model",
    "UINT4": "store INT4, symmetric",
    "FLOAT8E5M2": "use FLOAT8E4M3FN, the one 8-bit float that TensorRT has",
    "FLOAT8E4M3FNUZ": "use FLOAT8E4M3FN, the one 8-bit float that TensorRT has",
    "FLOAT8E5M2FNUZ": "use FLOAT8E4M3FN, the one 8-bit float that TensorRT has",
    "COMPLEX64": "keep real and imaginary part in two FLOAT tensors",
    "COMPLEX128": "keep real and imaginary part in two FLOAT tensors",
}
_MAKES = frozenset({"Cast", "CastLike", "ConstantOfShape", "EyeLike"})
_TAKES_UINT8 = frozenset({"Cast", "CastLike", "Equal", "Shape", "Size"})
# Element types that ONNX allows there and the parser refuses: tried one by one.
_NO_INTEGERS: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(
        ("MatMul", "Gemm", "Einsum", "PRelu", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp"), frozenset({"INT32", "INT64"})
    ),
    **dict.fromkeys(("GridSample", "Resize"), frozenset({"INT32", "INT64", "BOOL"})),
    **dict.fromkeys(("ReduceMax", "ReduceMin", "DepthToSpace", "SpaceToDepth"), frozenset({"BOOL"})),
    "Relu": frozenset({"INT32"}),
    "Mod": frozenset({"INT8"}),
}
# Which inputs must be of one float type (None: all). The parser converts those of others itself: BatchNormalization, Clip,
# Pow, Pad and RMSNormalization were tried.
_SAME_FLOAT: Mapping[str, tuple[int, ...] | None] = {
    **dict.fromkeys(
        ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Greater", "Less", "Equal", "GreaterOrEqual", "LessOrEqual",
         "Mod", "PRelu", "MatMul", "Conv", "ConvTranspose", "Gemm", "Einsum", "Concat", "InstanceNormalization",
         "GroupNormalization", "LayerNormalization", "Range", "GridSample")
    ),
    "Where": (1, 2),
    "LSTM": (0, 1, 2, 3),
    "GRU": (0, 1, 2, 3),
    "ScatterND": (0, 2),
    "ScatterElements": (0, 2),
}  # fmt: skip
_FLOATS: Mapping[str, str] = {"FLOAT": "FLOAT", "DOUBLE": "FLOAT", "FLOAT16": "FLOAT16", "BFLOAT16": "BFLOAT16"}
_SINCE: Mapping[str, int] = {"FLOAT8E4M3FN": 19, "INT4": 21, "FLOAT4E2M1": 23}
_CAPABILITY: Mapping[str, str] = {"FLOAT8E4M3FN": "8.9", "FLOAT4E2M1": "10.0"}
_LARGEST_FLOAT16 = 65504.0
_MOST_AXES = 8


def element_type(graph: LintGraph) -> Iterator[Problem]:
    for name, kind in _values(graph):
        if kind not in _TYPES:
            way = _INSTEAD.get(kind, "cast to INT32 or INT64 before the model, and export with that")
            yield Problem(_at(graph, name), f"{name} is {kind}, a type that TensorRT does not have", way)


def uint8_value(graph: LintGraph) -> Iterator[Problem]:
    """UINT8 may come in and go out, through a cast."""
    inside = {value.name for value in graph.inputs if graph.element_type(value.name) == "UINT8"}
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or graph.is_constant(made(node)):
            continue
        read = next((name for name in node.input if name in inside), None)
        # Constants of UINT8 become INT32, and what follows from them alone too.
        results = [name for name in node.output if graph.element_type(name) == "UINT8" and (read or node.op_type in _MAKES)]
        inside.update(results)
        if any(name not in graph.outputs for name in results):
            message = f"makes {results[0]} of UINT8 inside the model; TensorRT has UINT8 at its ends only"
            yield Problem(label(node), message, "cast to INT32, FLOAT16 or FLOAT instead")
        elif read is not None and node.op_type not in _TAKES_UINT8 and not (node.op_type == "Identity" and results):
            message = f"{node.op_type} reads {read}, which is UINT8; TensorRT only casts it"
            yield Problem(label(node), message, "cast it to FLOAT or INT32 first")


def integer_input(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        kind = graph.element_type(source(node, 0))
        if node.domain in STANDARD and kind in _NO_INTEGERS.get(node.op_type, ()):
            yield Problem(
                label(node), f"{node.op_type} on {kind}, which the parser refuses", "cast to FLOAT before and back after"
            )


def mixed_floats(graph: LintGraph) -> Iterator[Problem]:
    """In a strongly typed network nothing is converted that the file does not convert."""
    for node in graph.nodes:
        if node.domain not in STANDARD or node.op_type not in _SAME_FLOAT:
            continue
        which = _SAME_FLOAT[node.op_type]
        names = [name for index, name in enumerate(node.input) if which is None or index in which]
        kinds = [(name, _FLOATS[kind]) for name in names if (kind := graph.element_type(name)) in _FLOATS]
        other = next((each for each in kinds if each[1] != kinds[0][1]), None)
        if other is not None:
            message = (
                f"{kinds[0][0]} is {kinds[0][1]} and {other[0]} is {other[1]}; all inputs of {node.op_type} are of one type"
            )
            yield Problem(label(node), message, "add a Cast (`- type: cast, dtype: fp16` writes a file that is of one type)")


def double(graph: LintGraph) -> Iterator[Problem]:
    for name, kind in _values(graph):
        if kind == "DOUBLE":
            end = " (the engine's own input or output is FLOAT)" if graph.maker(name) is None or name in graph.outputs else ""
            message = f"{name} is DOUBLE; TensorRT computes it in FLOAT, larger numbers cut to FLOAT's range{end}"
            yield Problem(_at(graph, name), message, "export in float32")


def fp16_constant(graph: LintGraph) -> Iterator[Problem]:
    """A mask of 0 and -inf is meant."""
    for name, tensor in graph.constants.items():
        if type_name(tensor.data_type) != "FLOAT16" or name in graph.missing:
            continue
        readers = tuple(sorted({node.op_type for node in graph.readers.get(name, ())}))
        try:
            require_finite_tensor(Found(name, tensor, readers), graph.folder)
        except ModelFault as fault:
            way = "keep what reads it in FLOAT: `- type: cast` leaves out what overflows"
            yield Problem(_at(graph, name), str(fault), way)


def fp16_overflow(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op_type != "Cast" or graph.element_type(made(node)) != "FLOAT16":
            continue
        values = graph.values(source(node, 0))
        if values is not None and values.size and values.dtype.kind == "f":
            largest = float(abs(values).max())
            if _LARGEST_FLOAT16 < largest < math.inf:
                message = f"casts a constant of up to {largest:g} to FLOAT16, which ends at {_LARGEST_FLOAT16:g}"
                yield Problem(label(node), message, "keep what reads it in FLOAT, or scale the constant")


def type_opset(graph: LintGraph) -> Iterator[Problem]:
    for kind in sorted({kind for _, kind in _values(graph)} & set(_SINCE)):
        if graph.opset < _SINCE[kind]:
            message = (
                f"{kind} in a file of opset {graph.opset}; ONNX has it from {_SINCE[kind]}, and other tools refuse the file"
            )
            yield Problem("", message, f"export with opset {_SINCE[kind]}")


def needs_capability(graph: LintGraph) -> Iterator[Problem]:
    for kind in sorted({kind for _, kind in _values(graph)} & set(_CAPABILITY)):
        limit = _CAPABILITY[kind]
        message = f"{kind} needs a GPU of compute capability {limit}; a build for an older one fails as a whole"
        yield Problem("", message, f"give `compute_capabilities` from {limit} on only, or INT8 or FP16 to the others")


def rank(graph: LintGraph) -> Iterator[Problem]:
    for name, _ in _values(graph):
        axes = len(graph.shape(name) or ())
        if axes > _MOST_AXES:
            yield Problem(
                _at(graph, name), f"{name} has {axes} axes; TensorRT has up to {_MOST_AXES}", "join some with Reshape"
            )


def sparse(graph: LintGraph) -> Iterator[Problem]:
    for name in graph.sparse:
        yield Problem(_at(graph, name), f"{name} is a sparse initializer, which the parser does not read", "store it dense")


def _values(graph: LintGraph) -> Iterator[tuple[str, str]]:
    """Every tensor whose type is known, with it: constants, then the rest in the order of inference."""
    for name in dict.fromkeys([*graph.constants, *graph.infos]):
        kind = graph.element_type(name)
        if kind:
            yield name, kind


def _at(graph: LintGraph, name: str) -> str:
    """The node to name for a value: its maker, or its first reader; none for an input that nothing reads."""
    node: Any = graph.maker(name) or next(iter(graph.readers.get(name, ())), None)
    return "" if node is None else label(node)


RULES = (
    Rule("element-type", "error", "no text, 16-bit integers, unsigned 32 and 64 bit, complex numbers, FP8 E5M2", element_type),
    Rule("uint8-value", "error", "UINT8 only where it comes in or goes out, next to a cast", uint8_value),
    Rule("integer-input", "error", "no integers or BOOL in operators that TensorRT has for floats only", integer_input),
    Rule("mixed-floats", "error", "all inputs of a node are of one float type (networks are strongly typed)", mixed_floats),
    Rule("sparse", "error", "no sparse initializers", sparse),
    Rule("rank", "error", f"tensors of at most {_MOST_AXES} axes", rank),
    Rule("double", "warning", "no DOUBLE: it is computed in FLOAT", double),
    Rule("fp16-constant", "warning", "constants in FLOAT16 are finite, but for masks", fp16_constant),
    Rule("fp16-overflow", "warning", "constants that are cast to FLOAT16 fit its range", fp16_overflow),
    Rule("type-opset", "warning", "FP8, INT4 and FP4 only from the opset that has them", type_opset),
    Rule("needs-capability", "warning", "no FP8 (compute capability 8.9) and FP4 (10.0) for older GPUs", needs_capability),
)
