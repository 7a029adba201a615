"""What is in an ONNX graph: parameters, multiply-adds, operators, and how much of it is quantized.

The one place that counts MACs, for ``inspect``, the report and every pass that reduces them. Reads the file only; no runtime.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel import onnx_file
from accel.onnx_structure import require_sound
from accel.onnx_tensors import type_name

# Operator to the indices of its activation and its weight. The first four are what a quantizer is judged by.
_FLOAT_OPERATORS = {"Conv": (0, 1), "ConvTranspose": (0, 1), "Gemm": (0, 1), "MatMul": (0, 1)}
_FUSED_OPERATORS = {"FusedConv": (0, 1), "FusedGemm": (0, 1), "FusedMatMul": (0, 1)}
INTEGER_OPERATORS = {
    "QLinearConv": (0, 3), "QLinearMatMul": (0, 3), "ConvInteger": (0, 1), "MatMulInteger": (0, 1), "QGemm": (0, 3),
}  # fmt: skip
_WEIGHT_ONLY_OPERATORS = {"MatMulNBits": (0, 1)}
WEIGHTED_OPERATORS = _FLOAT_OPERATORS | _FUSED_OPERATORS | INTEGER_OPERATORS | _WEIGHT_ONLY_OPERATORS
UNCOUNTED = frozenset({"LSTM", "GRU", "RNN", "Einsum", "Attention", "MultiHeadAttention", "DeformConv", "Loop", "Scan", "If"})
_SHAPE_ONLY = frozenset({"Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast", "Gather", "Slice"})
_SMALL_ELEMENTS = 1024  # initializers up to this size may be shapes, which inference must see the values of


@dataclass(frozen=True)
class Macs:
    """Multiply-adds of one inference, by node name. ``unknown``: nodes whose shapes or formula are not known."""

    by_node: Mapping[str, int]
    unknown: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Over the nodes that are known."""
        return sum(self.by_node.values())


@dataclass(frozen=True)
class Quantization:
    """How the weighted operators (Conv, ConvTranspose, Gemm, MatMul and their integer forms) are quantized in the file.

    ``quantized``: activation and weight in integers. ``weight_only``: the weight alone. ``floating``: names of the rest.
    The dtypes are numpy's names. ``activations_symmetric``: signed with every zero point 0; None where nothing is quantized.
    """

    weighted: int
    quantized: int
    weight_only: int
    floating: tuple[str, ...]
    activation_dtypes: tuple[str, ...]
    weight_dtypes: tuple[str, ...]
    activations_symmetric: bool | None
    weights_symmetric: bool | None
    per_channel: bool | None


@dataclass(frozen=True)
class GraphSummary:
    """All of it. ``operators``: type to count, most frequent first; a foreign domain is written before the type."""

    parameters: int
    macs: Macs
    operators: Mapping[str, int]
    quantization: Quantization
    float_dtypes: Mapping[str, int]
    opset: int
    ir_version: int
    producer: str


def summary(path: Path, sizes: Mapping[str, int] | None = None) -> GraphSummary:
    """Everything about one ``.onnx`` file; ``sizes`` as in ``macs``."""
    proto = onnx_file.parse(path)
    require_sound(proto, path.name)
    operators = Counter(f"{node.domain}.{node.op_type}" if node.domain else node.op_type for node in proto.graph.node)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    return GraphSummary(
        parameters=parameters(proto),
        macs=macs(proto, sizes),
        operators=dict(sorted(operators.items(), key=lambda item: (-item[1], item[0]))),
        quantization=quantization(proto),
        float_dtypes=float_dtypes(proto),
        opset=opsets.get("", opsets.get("ai.onnx", 0)),
        ir_version=proto.ir_version,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
    )


def parameters(proto: Any) -> int:
    """Numbers that were learned: float tensors of at least one axis and quantized weights, without scales and zero points."""
    graph = proto.graph
    scales = set()
    integers = set()
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scales.update(node.input[1:])
            integers.update(node.input[:1])
        elif node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm"):
            integers.update([*node.input[3:4], *node.input[8:9]])
            scales.update([*node.input[1:3], *node.input[4:8]])
        elif node.op_type in ("ConvInteger", "MatMulInteger"):
            integers.update(node.input[1:2])
            scales.update(node.input[2:])
    integers.update(node.input[0] for node in graph.node if node.op_type == "Cast" and node.output[0] in integers)  # INT4
    total = 0
    for name, tensor in constant_tensors(graph).items():
        if not tensor.dims or name in scales:
            continue
        if "FLOAT" in (kind := type_name(tensor.data_type)) or kind == "DOUBLE" or name in integers:
            total += math.prod(tensor.dims)
    packed = [node for node in graph.node if node.op_type in _WEIGHT_ONLY_OPERATORS]
    return total + sum(_attribute(node, "N", 0) * _attribute(node, "K", 0) for node in packed)


def float_dtypes(proto: Any) -> dict[str, int]:
    """Element type of float weights to how many numbers are of it."""
    found: Counter[str] = Counter()
    for tensor in constant_tensors(proto.graph).values():
        kind = type_name(tensor.data_type)
        if tensor.dims and ("FLOAT" in kind or kind == "DOUBLE"):
            found[dtype_name(tensor.data_type)] += math.prod(tensor.dims)
    return dict(found)


def dtype_name(data_type: int) -> str:
    """numpy's name of an ONNX element type, or ONNX's own in lower case where numpy has none."""
    import onnx

    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(data_type).name)
    except (KeyError, ValueError, TypeError):
        return type_name(data_type).lower()


def macs(proto: Any, sizes: Mapping[str, int] | None = None) -> Macs:
    """Multiply-adds of Conv, ConvTranspose, Gemm and MatMul, in float, Q/DQ and integer form.

    An axis 0 that varies counts as 1, other named axes as ``sizes`` says; a node that depends on an axis not given is in
    ``unknown``. A file with a fixed batch is counted for that batch. Bias additions are not counted.
    """
    from onnx import inliner

    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    shapes = {name: tensor.shape for name, tensor in tensors(proto, sizes).items()}
    by_node: dict[str, int] = {}
    unknown: list[str] = []
    for node in proto.graph.node:
        name = label(node)
        if node.op_type in UNCOUNTED and (node.op_type not in ("Loop", "Scan", "If") or _holds_weighted(node)):
            unknown.append(name)
        elif node.op_type in WEIGHTED_OPERATORS:
            count = _macs_of(node, shapes)
            if count is None:
                unknown.append(name)
            else:
                by_node[name] = by_node.get(name, 0) + count
    return Macs(by_node, tuple(unknown))


def quantization(proto: Any) -> Quantization:
    """Which weighted operators read Q/DQ, with which element types and zero points; bodies of If and Loop included."""
    activation: list[Integers] = []
    weight: list[Integers] = []
    floating: list[str] = []
    weight_only = quantized = 0
    for graph in graphs(proto.graph):
        makers = {output: node for node in graph.node for output in node.output}
        constants = constant_tensors(graph)
        for node in graph.node:
            if node.op_type not in WEIGHTED_OPERATORS:
                continue
            first, second = quantized_inputs(node, makers, constants)
            if first is not None and second is not None:
                quantized += 1
                activation.append(first)
            elif second is not None:
                weight_only += 1
            else:
                floating.append(label(node))
            if second is not None:
                weight.append(second)
    return Quantization(
        weighted=quantized + weight_only + len(floating),
        quantized=quantized,
        weight_only=weight_only,
        floating=tuple(floating),
        activation_dtypes=tuple(sorted({each.dtype for each in activation})),
        weight_dtypes=tuple(sorted({each.dtype for each in weight})),
        activations_symmetric=all(each.symmetric for each in activation) if activation else None,
        weights_symmetric=all(each.symmetric for each in weight) if weight else None,
        per_channel=any(each.per_channel for each in weight) if weight else None,
    )


def graphs(graph: Any) -> Iterator[Any]:
    """A GraphProto and every graph inside its nodes, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)
            for inner in attribute.graphs:
                yield from graphs(inner)


@dataclass(frozen=True)
class Integers:
    """What a value is stored in. ``dtype``: numpy's name; ``symmetric``: every zero point is 0."""

    dtype: str
    symmetric: bool
    per_channel: bool


def quantized_inputs(node: Any, makers: Mapping[str, Any], constants: Mapping[str, Any]) -> list[Integers | None]:
    """Of data and weights of a weighted operator, each None where it is float.

    ``makers``: value to the node that makes it; ``constants``: as :func:`constant_tensors`.
    """
    if node.op_type in ("QLinearConv", "QLinearMatMul", "QGemm"):
        return [_integers(_input(node, i + 1), _input(node, i + 2), constants) for i in (0, 3)]
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        points = [*node.input[2:4], "", ""]
        kinds = (Integers("uint8", False, False), Integers("int8", True, False))  # a zero point that is left out is 0
        return [_integers("", point, constants) or kind for point, kind in zip(points, kinds, strict=False)]
    if node.op_type in _WEIGHT_ONLY_OPERATORS:
        return [None, Integers(f"int{_attribute(node, 'bits', 4)}", len(node.input) < 4, True)]
    return [_dequantized(_input(node, i), makers, constants) for i in WEIGHTED_OPERATORS[node.op_type]]


def _dequantized(name: str, makers: Mapping[str, Any], constants: Mapping[str, Any]) -> Integers | None:
    """The integers behind a DequantizeLinear that makes ``name``, seen through operators that only change the shape."""
    node = makers.get(name)
    while node is not None and node.op_type in _SHAPE_ONLY:
        node = makers.get(_input(node, 0))
    if node is None or node.op_type != "DequantizeLinear":
        return None
    point = node.input[2] if len(node.input) > 2 else ""
    found = _integers(node.input[1], point, constants)
    if found is not None:
        return found
    source = constants.get(node.input[0])
    scale = constants.get(node.input[1])
    return Integers(dtype_name(source.data_type) if source is not None else "uint8", True, _many(scale))


def _integers(scale: str, point: str, constants: Mapping[str, Any]) -> Integers | None:
    """From a zero point; None where it is left out or computed."""
    import onnx

    tensor = constants.get(point)
    if tensor is None:
        return None
    kind = dtype_name(tensor.data_type)
    zero = not onnx.numpy_helper.to_array(tensor).astype("int64").any() if tensor.data_location == tensor.DEFAULT else False
    return Integers(kind, zero and not kind.startswith("u"), _many(constants.get(scale)) or _many(tensor))


def _many(tensor: Any) -> bool:
    return tensor is not None and math.prod(tensor.dims) > 1


def constant_tensors(graph: Any) -> dict[str, Any]:
    """Initializers and the tensors of Constant nodes, by the name they are read under."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.output:
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found


def label(node: Any) -> str:
    """What a node is called: its name, else what it makes."""
    return str(node.name or (node.output[0] if node.output else node.op_type))


def _input(node: Any, index: int) -> str:
    """Name of an input; empty where it is left out."""
    return str(node.input[index]) if index < len(node.input) else ""


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), default)


def _holds_weighted(node: Any) -> bool:
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return any(
        inner.op_type in WEIGHTED_OPERATORS or (inner.op_type in UNCOUNTED and _holds_weighted(inner))
        for graph in graphs
        for inner in graph.node
    )


def _macs_of(node: Any, shapes: Mapping[str, Sequence[int]]) -> int | None:
    first, second = WEIGHTED_OPERATORS[node.op_type]
    source = shapes.get(_input(node, first))
    weight = shapes.get(_input(node, second))
    result = shapes.get(node.output[0]) if node.output else None
    if node.op_type == "ConvTranspose":
        return math.prod(source) * math.prod(weight[1:]) if source is not None and weight is not None else None
    if result is None:
        return None
    if "Conv" in node.op_type:
        return math.prod(result) * math.prod(weight[1:]) if weight is not None else None
    if node.op_type == "MatMulNBits":
        return math.prod(result) * _attribute(node, "K", 0)
    if not source:
        return None
    transposed = len(source) > 1 and bool(_attribute(node, "transA", 0))
    return math.prod(result) * source[-2 if transposed else -1]


@dataclass(frozen=True)
class Tensor:
    """Shape, and the element type as ``onnx.TensorProto`` numbers it."""

    shape: tuple[int, ...]
    data_type: int


def tensors(proto: Any, sizes: Mapping[str, int] | None = None) -> dict[str, Tensor]:
    """Every tensor whose shape is fully known, once axes that vary have their size; ``sizes`` as in ``macs``.

    A file with local functions is to be inlined before.
    """
    import onnx

    sizes = dict(sizes or {})

    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    light.graph.name = "graph"
    light.graph.node.extend(proto.graph.node)
    for field in ("input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(proto.graph, field))
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL_ELEMENTS and tensor.data_location == tensor.DEFAULT:
            light.graph.initializer.append(tensor)
        else:  # without its data: inference needs only its shape, and the copy stays small
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    weights = {tensor.name for tensor in proto.graph.initializer}
    for value in light.graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and dims and dims[0].dim_value <= 0:
            if dims[0].dim_param:
                sizes.setdefault(dims[0].dim_param, 1)
            else:
                dims[0].dim_value = 1
    for value in (*light.graph.input, *light.graph.output, *light.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
            elif dim.dim_param:  # an expression of axes: inference finds its value
                dim.ClearField("dim_param")
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        inferred = light
    found = {tensor.name: Tensor(tuple(tensor.dims), tensor.data_type) for tensor in proto.graph.initializer}
    for value in (*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in kind.shape.dim):
            found[value.name] = Tensor(tuple(dim.dim_value for dim in kind.shape.dim), kind.elem_type)
    return found
