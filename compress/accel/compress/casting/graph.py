"""Writing the plan into a graph: types changed, constants folded, and a Cast where a tensor changes its type.

A tensor that is there in FP32 has its own name in FP32, so that graph outputs and inner graphs find it; in 16 bits it is called
``<name>_fp16``, or has its own name where nothing reads it in FP32.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx
from onnx import TensorProto, helper, numpy_helper

from accel.compress.casting.plan import Plan
from accel.compress.casting.types import LowType, constant_values, constants, element_types
from accel.compress.onnx_writing import drop_unused_initializers_, unique
from accel.onnx_graph import graphs


def plain_weights_(model: onnx.ModelProto) -> tuple[str, ...]:
    """Take initializers off the list of inputs, in place; notes. There only an old file needs them (IR 3), or a caller who sets
    weights, and a Cast of one would have to run each time."""
    weights = {weight.name for weight in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    listed = len(model.graph.input) - len(inputs)
    if not listed:
        return ()
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)
    return (f"{listed} weights were listed as inputs too, where a caller could set them; they are plain weights now",)


def written(model: onnx.ModelProto, plan: Plan, low: LowType, *, keep_io: bool) -> tuple[onnx.ModelProto, int]:
    """The model in the types of ``plan``, and how many casts it has more. ``keep_io``: inputs and outputs stay FP32."""
    return _Writer(model, plan, low, keep_io).written()


class _Writer:
    def __init__(self, model: onnx.ModelProto, plan: Plan, low: LowType, keep_io: bool) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._plan = plan
        self._low = low
        self._types = element_types(model)
        self._constants = constants(model.graph)
        self._taken = set(self._types)
        for each in graphs(model.graph):
            self._taken |= {value.name for value in (*each.input, *each.initializer)}
            self._taken |= {name for node in each.node for name in node.output}
        self._node_names = {node.name for each in graphs(model.graph) for node in each.node}
        self._casts = 0
        self._nodes: list[onnx.NodeProto] = []
        ends = {value.name for value in (*self._graph.input, *self._graph.output)} & self._fp32() - self._constants.keys()
        self._low_ends = set() if keep_io else {name for name in ends if plan.fits(name, low)}
        self._low_made = plan.made_low() | ({value.name for value in self._graph.input} & self._low_ends)
        self._read_low, self._read_full = self._readers()
        self._read_low |= self._low_ends
        self._read_full |= {value.name for value in self._graph.output} - self._low_ends
        self._full = {name: name for name in self._fp32()}
        self._half: dict[str, str] = {}
        for name in sorted(self._fp32() & (self._read_low | self._low_made)):
            in_full = name in self._read_full or name not in self._low_made | self._constants.keys()
            self._half[name] = self._fresh(f"{name}_{low.name}") if in_full and name not in self._low_ends else name
            if name in self._low_ends:
                self._full[name] = self._fresh(f"{name}_fp32")

    def written(self) -> tuple[onnx.ModelProto, int]:
        self._fold()
        for value in self._graph.input:
            self._cast(value.name, value.name)
        for place, node in enumerate(list(self._graph.node)):
            self._emit(place, node)
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        self._retype()
        drop_unused_initializers_(self._model)
        least = helper.find_min_ir_version_for(self._model.opset_import, ignore_unknown=True)  # com.microsoft is not known
        self._model.ir_version = max(self._model.ir_version, least)
        return self._model, self._casts

    def _fp32(self) -> set[str]:
        return {name for name, kind in self._types.items() if kind == TensorProto.FLOAT}

    def _low_ports(self, place: int) -> tuple[Collection[int], Collection[int]]:
        ports = self._plan.ports[place]
        return (ports.inputs, ports.outputs) if place in self._plan.low else ((), ())

    def _readers(self) -> tuple[set[str], set[str]]:
        """Tensors that are read in 16 bits, and those that are read in FP32; inner graphs read what they read in FP32."""
        read_low: set[str] = set()
        read_full: set[str] = set()
        for place, node in enumerate(self._graph.node):
            inputs = self._low_ports(place)[0] if place in self._plan.ports else ()
            for port, name in enumerate(node.input):
                (read_low if port in inputs else read_full).add(name)
            read_full |= {name for inner in _inner(node) for each in inner.node for name in each.input}
            read_full |= {value.name for inner in _inner(node) for value in inner.output}
        return read_low, read_full

    def _fold(self) -> None:
        """Constants in the types in which they are read."""
        weights = {weight.name: weight for weight in self._graph.initializer}
        makers = {node.output[0]: node for node in self._graph.node if node.op_type == "Constant" and node.output}
        for name, constant in self._constants.items():
            if name not in self._half:
                continue
            tensor = numpy_helper.from_array(self._low.rounded(constant_values(constant)), self._half[name])
            if self._half[name] != name:
                self._graph.initializer.append(tensor)
            elif isinstance(constant, TensorProto):
                weights[name].CopyFrom(tensor)
            else:
                del makers[name].attribute[:]
                makers[name].attribute.append(helper.make_attribute("value", tensor))

    def _emit(self, place: int, node: onnx.NodeProto) -> None:
        inputs, outputs = self._low_ports(place) if place in self._plan.ports else ((), ())
        had = list(node.input)
        for port, name in enumerate(had):
            node.input[port] = self._half[name] if port in inputs else self._full.get(name, name)
        for inner in _inner(node):
            for each in inner.node:
                each.input[:] = [self._full.get(name, name) for name in each.input]
        if place in self._plan.low and self._redundant(node, had):
            return
        made = [name for name in node.output if name in self._full]
        for port, name in enumerate(node.output):
            node.output[port] = self._half[name] if port in outputs else self._full.get(name, name)
        if outputs:
            self._retarget(node)
        self._nodes.append(node)
        if node.op_type != "Constant":
            for name in made:
                self._cast(name, node.name)

    def _redundant(self, node: onnx.NodeProto, had: Sequence[str]) -> bool:
        """Whether a Cast of the model, which read ``had``, is done: its readers are given what it reads."""
        if node.op_type != "Cast":
            return False
        source, made = node.input[0], node.output[0]
        if self._types.get(had[0]) == self._low.code and made not in self._low_ends:
            self._half[made] = source
            if made in self._read_full:
                self._nodes.append(node)
            return True
        if _to(node) == self._low.code and made not in {value.name for value in self._graph.output}:
            self._full[made] = source
            return True
        return False

    def _retarget(self, node: onnx.NodeProto) -> None:
        """The type that a node writes in an attribute."""
        if node.op_type == "Cast":
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("to", self._low.code))
        elif node.op_type == "ConstantOfShape":
            value = constant_values(node) if node.attribute else numpy_helper.to_array(helper.make_tensor("", 1, [1], [0.0]))
            del node.attribute[:]
            node.attribute.append(helper.make_attribute("value", numpy_helper.from_array(self._low.rounded(value))))

    def _cast(self, name: str, owner: str) -> None:
        """The tensor in the other type, where something reads it so."""
        if name not in self._full:
            return
        source, made, kind = self._half.get(name, ""), self._full[name], "fp32"
        if name not in self._low_made:
            source, made, kind = self._full[name], self._half.get(name, ""), self._low.name
            wanted = name in self._read_low
        else:
            wanted = name in self._read_full
        if wanted:
            label = unique(f"{owner}/cast_{kind}", self._node_names)
            self._node_names.add(label)
            to = TensorProto.FLOAT if kind == "fp32" else self._low.code
            self._nodes.append(helper.make_node("Cast", [source], [made], name=label, to=to))
            self._casts += 1

    def _retype(self) -> None:
        """Types of inputs, outputs and of the values that the file describes."""
        for value in (*self._graph.input, *self._graph.output):
            if value.name in self._low_ends:
                value.type.tensor_type.elem_type = self._low.code
        described = list(self._graph.value_info)
        made = {name for node in self._nodes for name in node.output}
        del self._graph.value_info[:]
        for value in described:
            versions = {self._full.get(value.name, value.name): None, self._half.get(value.name, ""): self._low.code}
            for name, code in versions.items():
                if name in made:
                    copy = self._graph.value_info.add()
                    copy.CopyFrom(value)
                    copy.name = name
                    if code is not None:
                        copy.type.tensor_type.elem_type = code

    def _fresh(self, name: str) -> str:
        name = unique(name, self._taken)
        self._taken.add(name)
        return name


def _to(node: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in node.attribute if attribute.name == "to")


def _inner(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    direct = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    direct += [graph for attribute in node.attribute for graph in attribute.graphs]
    return [each for graph in direct for each in graphs(graph)]
