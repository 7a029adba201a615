"""What each node of a graph may have in 16 bits: read from the schemas of ONNX, not from a list of operators."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.defs import OpSchema

from accel.errors import PassFault

NEWEST_OPSET = 22
"""What an old opset is raised to at most: here every operator that matters has BF16, and every runtime reads it."""
_OLDEST_OPSET = 13  # Q/DQ per channel, BF16 in Cast, and the operators that ranges are measured with
_SMALL = 1024  # elements; initializers up to this size may be shapes or axes, which inference and conversion must see
_COORDINATES = frozenset({("Resize", 1)})  # its roi: coordinates, not values
_DATA_DEPENDENT = frozenset({"NonZero", "Unique", "NonMaxSuppression"})  # the shape of what they make follows from values


@dataclass(frozen=True)
class LowType:
    """A float type of 16 bits. ``largest``: its greatest number; ``smallest``: its least normal one, below which bits go.
    ``roundoff``: the most that rounding changes a normal number, relative to it."""

    name: str
    code: int
    largest: float
    smallest: float
    roundoff: float

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """``values`` in this type; what is beyond ``largest`` is infinite."""
        with np.errstate(over="ignore"):
            return values.astype(onnx.helper.tensor_dtype_to_np_dtype(self.code))


LOW_TYPES: Mapping[str, LowType] = {
    "fp16": LowType("fp16", TensorProto.FLOAT16, 65504.0, 2.0**-14, 2.0**-11),
    "bf16": LowType("bf16", TensorProto.BFLOAT16, 2.0**127 * (2 - 2.0**-7), 2.0**-126, 2.0**-8),
}


@dataclass(frozen=True)
class Ports:
    """Which inputs and outputs of a node (by place) are FP32 and would be in 16 bits. ``why_not``: why it must stay as it is,
    empty where it need not. ``makes``: it has FP32 outputs; a node without follows what it reads."""

    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    makes: bool = False
    why_not: str = ""


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large initializers have a type and a shape, but no numbers: inference and conversion stay below 2 GB."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name
    light.graph.node.extend(model.graph.node)
    for field in ("input", "output", "value_info", "sparse_initializer"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    for weight in model.graph.initializer:
        if math.prod(weight.dims) <= _SMALL:
            light.graph.initializer.append(weight)
        else:
            light.graph.initializer.add(name=weight.name, data_type=weight.data_type, dims=weight.dims)
    return light


def in_an_opset_for(model: onnx.ModelProto, low: LowType) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in the oldest opset, from its own on, in which the most of its operators have ``low``; notes on what was done.

    Operators that have it in no opset up to NEWEST_OPSET do not count. PassFault for a model that is too old and cannot be
    converted.
    """
    found = opset(model)
    types = element_types(model)
    floats = [node for node in model.graph.node if any(types.get(n) == TensorProto.FLOAT for n in (*node.input, *node.output))]
    firsts = {node.op_type: _first_with(node, low, found) for node in floats}
    wanted = max([found, _OLDEST_OPSET, *firsts.values()])
    if wanted == found:
        return model, ()
    kinds = sorted(kind for kind, first in firsts.items() if first > found)
    why = f"{low.name} of {', '.join(kinds)} needs it" if kinds else "an older one has too little of it"
    try:
        converted = onnx.version_converter.convert_version(without_weights(model), wanted)
    except (RuntimeError, ValueError, onnx.version_converter.ConvertError) as error:
        said = f"opset {found} cannot be converted to {wanted} ({why}): {' '.join(str(error).split())[:200]}"
        if found < _OLDEST_OPSET:
            raise PassFault(f"cast: {said}; export the model again with a newer opset") from error
        return model, (f"warning: {said}; what has no {low.name} in opset {found} stays FP32",)
    full = {weight.name: weight for weight in model.graph.initializer}
    for weight in converted.graph.initializer:
        if weight.name in full:
            weight.CopyFrom(full[weight.name])
    for field in ("producer_name", "producer_version"):
        setattr(converted, field, getattr(model, field))
    return converted, (f"converted from opset {found} to {wanted}: {why}",)


def opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that the model is written in; 0 where it names none."""
    return next((int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _first_with(node: onnx.NodeProto, low: LowType, start: int) -> int:
    """The first opset from ``start`` on where what the node makes from floats may be ``low``; 0 where there is none."""
    if node.domain not in ("", "ai.onnx"):
        return 0
    for version in range(start, NEWEST_OPSET + 1):
        if onnx.defs.has(node.op_type, version, ""):
            schema = onnx.defs.get_schema(node.op_type, version, "")
            firsts = [*schema.inputs[:1], *schema.outputs[:1]]
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                firsts = [schema.inputs[1]]
            if any(_allows(schema, part.type_str, low) for part in firsts):
                return version
    return 0


def _allows(schema: OpSchema, kind: str, low: LowType) -> bool:
    name = "tensor(float16)" if low.code == TensorProto.FLOAT16 else "tensor(bfloat16)"
    allowed = {part.type_param_str: part.allowed_type_strs for part in schema.type_constraints}
    return kind in allowed and name in allowed[kind]


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Tensor of the outermost graph to its ONNX element type, as far as ONNX can tell."""
    try:
        graph = onnx.shape_inference.infer_shapes(without_weights(model)).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        graph = model.graph
    types = {}
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
            types[value.name] = int(value.type.tensor_type.elem_type)
    types |= {weight.name: int(weight.data_type) for weight in model.graph.initializer}
    for node in model.graph.node:
        _infer(node, types, opset(model))
    return types


def _infer(node: onnx.NodeProto, types: dict[str, int], version: int) -> None:
    """Add what a node makes of the type of what it reads: ONNX's own inference stops at an operator it cannot tell the shape of
    (GroupNormalization). What a Loop carries is left out: each may be of another type, under one name in the schema."""
    unknown = [place for place, name in enumerate(node.output) if name and name not in types]
    if not unknown or node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, version, ""):
        return
    schema = onnx.defs.get_schema(node.op_type, version, "")
    read = {_kind(schema.inputs, place): types[name] for place, name in enumerate(node.input) if name in types}
    for place in unknown:
        kind = _kind(schema.outputs, place)
        if kind in read and schema.outputs[min(place, len(schema.outputs) - 1)].is_homogeneous:
            types[node.output[place]] = read[kind]


def constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto | onnx.NodeProto]:
    """FP32 tensors whose values are in the file: initializers, and Constant nodes by what they make."""
    found: dict[str, onnx.TensorProto | onnx.NodeProto] = {
        weight.name: weight for weight in graph.initializer if weight.data_type == TensorProto.FLOAT
    }
    for node in graph.node:
        if node.op_type == "Constant" and node.output and constant_values(node).dtype == np.float32:
            found[node.output[0]] = node
    return found


def constant_values(constant: onnx.TensorProto | onnx.NodeProto) -> NDArray[Any]:
    """The numbers of an initializer or a Constant node; none for a Constant that is not a plain tensor."""
    if isinstance(constant, onnx.TensorProto):
        return np.asarray(numpy_helper.to_array(constant))
    for attribute in constant.attribute:
        if attribute.name == "value":
            return np.asarray(numpy_helper.to_array(attribute.t))
        if attribute.name == "value_float":
            return np.asarray(attribute.f, np.float32)
        if attribute.name == "value_floats":
            return np.asarray(attribute.floats, np.float32)
    return np.empty(0, np.int64)


def ports(node: onnx.NodeProto, types: Mapping[str, int], version: int, low: LowType) -> Ports:
    """See ``Ports``. ``types`` as of ``element_types``; ``version``: of the opset."""
    reads = [place for place, name in enumerate(node.input) if types.get(name) == TensorProto.FLOAT]
    makes = [place for place, name in enumerate(node.output) if types.get(name) == TensorProto.FLOAT]
    unknown = [name for name in (*node.input, *node.output) if name and name not in types]
    if node.op_type == "Constant" or not (reads or makes or unknown):
        return Ports()
    if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
        return Ports(makes=bool(makes or unknown), why_not="it holds graphs of its own, which stay as they are")
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, version, ""):
        return Ports(makes=bool(makes or unknown), why_not=f"ONNX has no schema for {node.domain or 'it'}:{node.op_type}")
    if unknown:
        return Ports(makes=bool(reads or makes), why_not=f"the type of {unknown[0]!r} is not known")
    schema = onnx.defs.get_schema(node.op_type, version, "")
    if schema.node_determinism == OpSchema.NodeDeterminism.NonDeterministic and not _inactive_dropout(node):
        return Ports(makes=bool(makes), why_not="it draws at random")
    if node.op_type in _DATA_DEPENDENT:
        return Ports(makes=bool(makes), why_not="the shape of what it makes depends on values")
    found = {place: _kind(schema.inputs, place) for place in reads if (node.op_type, place) not in _COORDINATES}
    inputs = tuple(place for place, kind in found.items() if _allows(schema, kind, low))
    bound = {found[place] for place in inputs}
    outputs = tuple(
        place
        for place in makes
        if (kind := _kind(schema.outputs, place)) in bound or (_follows(node) and _allows(schema, kind, low))
    )
    if (makes and not outputs) or (not makes and not inputs):
        return Ports(makes=bool(makes), why_not=f"{node.op_type} has no {low.name} in opset {version}")
    return Ports(inputs, outputs, bool(makes))


def _kind(parameters: Any, place: int) -> str:
    return str(parameters[min(place, len(parameters) - 1)].type_str)


def _inactive_dropout(node: onnx.NodeProto) -> bool:
    return node.op_type == "Dropout" and len(node.input) < 3


def _follows(node: onnx.NodeProto) -> bool:
    """Whether the type of what it makes is written in it and can be another, rather than taken from what it reads."""
    if node.op_type == "DequantizeLinear":  # from opset 23 on, where it names none, that of its scale
        return not any(attribute.name == "output_dtype" and attribute.i for attribute in node.attribute)
    return node.op_type in ("Cast", "ConstantOfShape")
