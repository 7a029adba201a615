"""A copy of an ONNX file that also gives values from its inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel import onnx_file
from accel.errors import ModelFault
from accel.onnx_graph import constant_tensors, label

_FLOATS = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})


@dataclass(frozen=True)
class Value:
    """What one node makes first. ``reads``: the nodes, of those that are listed, whose values it is computed from."""

    node: str
    tensor: str
    reads: tuple[str, ...]


def values(path: Path) -> tuple[Value, ...]:
    """The float values that depend on the inputs, in topological order. What a DequantizeLinear makes is one: to look at it
    leaves the fusion of the operator before it whole. Casts are looked through.

    Raises as ``onnx_file.read``; ModelFault for a file whose types cannot be inferred.
    """
    onnx_file.read(path)
    graph = _inferred(onnx_file.parse(path), path.name).graph
    kinds = _kinds(graph)
    constants = set(constant_tensors(graph))
    sources: dict[str, tuple[str, ...]] = {value.name: () for value in graph.input if value.name not in constants}
    found = []
    for node in graph.node:
        depends = [name for name in node.input if name in sources]
        if not depends:
            continue  # made from constants alone
        reads = tuple(dict.fromkeys(each for name in depends for each in sources[name]))
        shown = bool(node.output and node.output[0]) and kinds.get(node.output[0]) in _FLOATS
        if shown and node.op_type not in ("Cast", "Identity"):
            found.append(Value(label(node), node.output[0], reads))
            reads = (label(node),)
        sources.update(dict.fromkeys((name for name in node.output if name), reads))
    return tuple(found)


def write_exposed(path: Path, tensors: Sequence[str], place: Path) -> None:
    """``place``: the file at ``path``, external data inside, with ``tensors`` as its first outputs, in that order.

    Its own outputs stay, so that everything it computes is still computed. ModelFault where one file cannot hold it.
    """
    import onnx

    onnx_file.read(path)  # external data is where it may be
    proto = onnx.load(str(path))
    inferred = _inferred(onnx_file.parse(path), path.name).graph
    infos = {value.name: value for value in (*inferred.value_info, *inferred.output)}
    own = [value for value in proto.graph.output if value.name not in tensors]
    del proto.graph.output[:]
    proto.graph.output.extend([*(infos[name] for name in tensors), *own])
    described = [value for value in proto.graph.value_info if value.name not in tensors]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(described)
    if proto.ByteSize() > onnx_file.PROTOBUF_LIMIT_BYTES:
        raise ModelFault(
            f"{path.name}: too large to look into: one ONNX file holds at most {onnx_file.PROTOBUF_LIMIT_BYTES} bytes"
        )
    place.write_bytes(proto.SerializeToString())


def _inferred(proto: Any, name: str) -> Any:
    import onnx

    try:
        return onnx.shape_inference.infer_shapes(proto, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelFault(f"{name}: the types of its values cannot be inferred: {str(error).splitlines()[0][:200]}") from None


def _kinds(graph: Any) -> dict[str, str]:
    import onnx

    return {
        value.name: str(onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type))
        for value in (*graph.value_info, *graph.output)
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape")
    }
