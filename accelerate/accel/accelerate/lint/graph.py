"""An ONNX file as a lint looks at it: nodes, who makes and reads a value, constants, inferred types and shapes.

Nothing is run and no runtime is loaded. Weights of any size are looked at only where a rule asks for their values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import onnx_file
from accel.accelerate.lint.branches import live, name_apart_
from accel.errors import ModelFault
from accel.onnx_graph import graphs
from accel.onnx_structure import require_sound
from accel.onnx_tensors import extent, is_external, tensors, type_name

if TYPE_CHECKING:
    from accel.contracts import Array

_SMALL_ELEMENTS = 1024  # initializers up to this size may be shapes, whose values inference needs
_NO_NUMBERS = frozenset({"UNDEFINED", "UNKNOWN", "STRING", "COMPLEX64", "COMPLEX128"})
_MOST_NODES = 1_000_000
_LARGEST_READ = 1 << 26  # elements: no rule needs the values of a larger tensor
STANDARD = ("", "ai.onnx")
MOVES = frozenset(
    {"Identity", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split", "Pad", "MaxPool",
     "DepthToSpace", "SpaceToDepth", "Expand", "Tile", "Concat"}
)  # fmt: skip
"""Operators that move values or pick some: a scale means the same before and after them."""


@dataclass(frozen=True)
class LintGraph:
    """Nodes of all graphs in the order of the file, bodies of If and Loop included but for a branch that is never taken; values
    of all of them by name, told apart where two branches use the same.

    ``broken``: why the graph does not hold together, in which case nothing else is filled in. ``missing``: tensor to why its
    external data cannot be read. ``folder``: of the file. ``outputs``: of the outermost graph; ``given_out``: of all graphs.
    """

    folder: Path
    opset: int = 0
    broken: str | None = None
    missing: Mapping[str, str] = field(default_factory=dict)
    nodes: Sequence[Any] = ()
    inputs: Sequence[Any] = ()
    outputs: frozenset[str] = frozenset()
    given_out: frozenset[str] = frozenset()
    constants: Mapping[str, Any] = field(default_factory=dict)
    makers: Mapping[str, Any] = field(default_factory=dict)
    readers: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    infos: Mapping[str, Any] = field(default_factory=dict)
    folded: frozenset[str] = frozenset()
    sparse: Sequence[str] = ()

    def maker(self, value: str) -> Any | None:
        """The node that makes ``value``; None for inputs and initializers."""
        return self.makers.get(value)

    def is_constant(self, value: str) -> bool:
        """Whether ``value`` follows from constants alone, so that a builder can compute it once."""
        return value in self.constants or value in self.folded

    def element_type(self, value: str) -> str:
        """ONNX's name of its element type (``FLOAT``); empty where it is not known."""
        tensor = self.constants.get(value)
        code = tensor.data_type if tensor is not None else 0
        if not code and value in self.infos:
            code = self.infos[value].type.tensor_type.elem_type
        return type_name(code) if code else ""

    def shape(self, value: str) -> tuple[int | str, ...] | None:
        """Its axes, a name or ``?`` for one that varies; None where not even their number is known."""
        tensor = self.constants.get(value)
        if tensor is not None:
            return tuple(tensor.dims)
        kind = self.infos[value].type.tensor_type if value in self.infos else None
        if kind is None or not kind.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim)

    def values(self, value: str) -> Array | None:
        """The numbers of a constant; None for anything else, and for what is missing, damaged or very large."""
        import onnx

        tensor = self.constants.get(value)
        if tensor is None or value in self.missing or math.prod(tensor.dims) > _LARGEST_READ:
            return None
        if type_name(tensor.data_type) in _NO_NUMBERS:
            return None
        try:
            array: Array = onnx.numpy_helper.to_array(tensor, str(self.folder))
        except (ValueError, TypeError, KeyError, OSError, onnx.checker.ValidationError):
            return None
        return array

    def behind(self, value: str) -> Any | None:
        """The node that makes ``value``, looked for through operators that only move values."""
        maker = self.makers.get(value)
        while maker is not None and maker.op_type in MOVES and maker.input:
            maker = self.makers.get(maker.input[0])
        return maker

    def ahead(self, value: str) -> Iterator[Any]:
        """The nodes that read ``value``, those behind operators that only move values instead of these operators."""
        seen: set[str] = set()
        pending = [value]
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            for node in self.readers.get(name, ()):
                if node.op_type in MOVES:
                    pending.extend(node.output)
                else:
                    yield node


def label(node: Any) -> str:
    """Its name, or what it makes where it has none."""
    return str(node.name or (f"{node.op_type} that makes {node.output[0]}" if node.output else node.op_type))


def source(node: Any, index: int) -> str:
    """Name of an input; empty where it is left out."""
    return str(node.input[index]) if index < len(node.input) else ""


def made(node: Any) -> str:
    """Name of the first output; empty where there is none."""
    return str(node.output[0]) if node.output else ""


def integer(node: Any, name: str, default: int = 0) -> int:
    """An attribute that is an integer; ``default`` where it is not given, or is of another type."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name and entry.type == entry.INT), default)


def integers(node: Any, name: str) -> list[int]:
    """An attribute that is a list of integers; empty as :func:`integer`."""
    return next((list(entry.ints) for entry in node.attribute if entry.name == name and entry.type == entry.INTS), [])


def text(node: Any, name: str, default: str) -> str:
    """An attribute that is text; ``default`` as :func:`integer`."""
    found = (entry.s for entry in node.attribute if entry.name == name and entry.type == entry.STRING)
    return next((value.decode(errors="replace") for value in found), default)


def read(path: Path) -> LintGraph:
    """Raises ModelFault for a file that is not ONNX, UsageError for one that is not there, and SafetyRefusal for external data
    outside the model's folder. External data that is missing and a graph that does not hold together are told in the result."""
    import onnx
    from onnx import inliner

    proto = onnx_file.parse(path)
    missing: dict[str, str] = {}
    for found in tensors(proto):
        if is_external(found.tensor):
            try:
                extent(found.tensor, found.name, path.parent)
            except ModelFault as fault:
                missing[found.name] = str(fault)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    opset = opsets.get("", opsets.get("ai.onnx", 0))
    try:
        require_sound(_declared(proto), path.name)
        if proto.functions:
            _require_small(proto, path.name)
            proto = inliner.inline_local_functions(proto)
    except (ModelFault, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        return LintGraph(path.parent, opset, broken=str(error).removeprefix(f"{path.name}: "), missing=missing)
    name_apart_(proto.graph)
    inferred = _inferred(proto)
    nodes = tuple(node for each in live(inferred.graph) for node in each.node)
    constants = _constants(proto.graph)
    readers: dict[str, list[Any]] = {}
    for node in nodes:
        for name in dict.fromkeys(node.input):
            readers.setdefault(name, []).append(node)
    return LintGraph(
        path.parent,
        opset,
        missing=missing,
        nodes=nodes,
        inputs=_true_inputs(proto),
        outputs=frozenset(value.name for value in proto.graph.output),
        given_out=frozenset(value.name for graph in live(proto.graph) for value in graph.output),
        constants=constants,
        makers={name: node for node in nodes for name in node.output if name},
        readers=readers,
        infos=_infos(inferred, nodes),
        folded=_folded(nodes, constants),
        sparse=tuple(each.values.name for graph in live(proto.graph) for each in graph.sparse_initializer),
    )


def _require_small(proto: Any, name: str) -> None:
    """ModelFault where functions that call functions would unfold to more nodes than any network has."""
    bodies = {(function.domain, function.name): function.node for function in proto.functions}
    sizes: dict[tuple[str, str], int] = {}
    for _ in bodies:  # a call is at most as deep as there are functions
        before = dict(sizes)
        for key, nodes in bodies.items():
            sizes[key] = sum(sizes.get((node.domain, node.op_type), 1) for node in nodes)
            if sizes[key] > _MOST_NODES:
                raise ModelFault(f"{name}: function {key[1]} unfolds to more than {_MOST_NODES} nodes")
        if sizes == before:
            break


def _declared(proto: Any) -> Any:
    """A copy without weights in which every operator that onnx does not know is declared as a function: whether a runtime has
    it is for the rules to say."""
    import onnx

    light = _light(proto)
    opsets = {entry.domain: entry.version for entry in light.opset_import}
    light.functions.extend(onnx.FunctionProto(domain=entry.domain, name=entry.name) for entry in proto.functions)
    known = {(entry.domain, entry.name) for entry in light.functions}
    for each in (*graphs(light.graph), *proto.functions):
        for node in each.node:
            domain = "" if node.domain == "ai.onnx" else node.domain
            version = opsets.get(domain, 0)
            if (domain, node.op_type) not in known and not (version and onnx.defs.has(node.op_type, version, domain)):
                known.add((domain, node.op_type))
                light.functions.add(domain=domain, name=node.op_type)
    return light


def _light(proto: Any) -> Any:
    """A copy that keeps the values of small initializers only."""
    import onnx

    light = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    light.graph.name = "graph"
    light.graph.node.extend(proto.graph.node)
    light.graph.sparse_initializer.extend(proto.graph.sparse_initializer)
    for part in ("input", "output", "value_info"):
        getattr(light.graph, part).extend(getattr(proto.graph, part))
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= _SMALL_ELEMENTS and not is_external(tensor):
            light.graph.initializer.append(tensor)
        else:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return light


def _inferred(proto: Any) -> Any:
    """With types and shapes as far as they follow: a file that contradicts itself keeps what it declares."""
    import onnx

    light = _light(proto)
    bare = onnx.ModelProto()
    bare.CopyFrom(light)
    del bare.graph.value_info[:]
    for value in bare.graph.output:
        value.type.tensor_type.ClearField("shape")
    for candidate in (light, bare):
        try:
            return onnx.shape_inference.infer_shapes(candidate, data_prop=True)
        except (onnx.shape_inference.InferenceError, ValueError, RuntimeError, TypeError):
            continue
    return light


def _true_inputs(proto: Any) -> tuple[Any, ...]:
    weights = {tensor.name for tensor in proto.graph.initializer}
    return tuple(value for value in proto.graph.input if value.name not in weights)


def _constants(outermost: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for graph in live(outermost):
        found.update({tensor.name: tensor for tensor in graph.initializer})
        for node in graph.node:
            if node.op_type == "Constant" and node.output:
                tensor = next((entry.t for entry in node.attribute if entry.name == "value"), None)
                if tensor is not None:
                    found[node.output[0]] = tensor
    return found


def _infos(inferred: Any, nodes: Sequence[Any]) -> dict[str, Any]:
    """Without what a file describes and nothing makes: onnxruntime.quantization and others leave such notes behind."""
    made = {name for node in nodes for name in node.output}
    return {
        value.name: value
        for graph in live(inferred.graph)
        for value in (*(note for note in graph.value_info if note.name in made), *graph.input, *graph.output)
        if value.type.HasField("tensor_type")
    }


def _folded(nodes: Sequence[Any], constants: Mapping[str, Any]) -> frozenset[str]:
    """What is made from constants alone. Nodes stand after what they read."""
    found: set[str] = set()
    for node in nodes:
        given = [name for name in node.input if name]
        closed = not any(entry.HasField("g") for entry in node.attribute)  # the body of an If or Loop reads what it likes
        if node.op_type == "Constant" or (closed and given and all(name in constants or name in found for name in given)):
            found.update(name for name in node.output if name)
    return frozenset(found)
