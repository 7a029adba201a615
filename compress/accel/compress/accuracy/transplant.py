"""Moving Q/DQ nodes and what they read from one graph into another, under names that are free there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx

from accel.compress.onnx_writing import unique
from accel.onnx_graph import graphs


class Transplant:
    """Copies nodes and weights of a quantized graph (``weights``: its stored tensors) into ``model``, in place."""

    def __init__(self, model: onnx.ModelProto, weights: Mapping[str, onnx.TensorProto]) -> None:
        self._graph = model.graph
        self._weights = weights
        self._values = set(_values(model.graph))
        self._names = {node.name for graph in graphs(model.graph) for node in graph.node}
        self._copied: dict[tuple[str, str], str] = {}
        self._added: list[onnx.NodeProto] = []

    def weight(self, name: str) -> str:
        """A stored tensor; gives its name here."""
        key = ("", name)
        if key not in self._copied:
            stored = self._graph.initializer.add()
            stored.CopyFrom(self._weights[name])
            stored.name = self._copied[key] = self._free(name)
        return self._copied[key]

    def copied(self, chain: Sequence[onnx.NodeProto], start: str | None = None) -> str:
        """The nodes of ``chain`` on the tensor ``start``, or on their own stored one; gives the value that they end with."""
        value = start
        for node in chain:
            key = (value or "", node.output[0])
            if key not in self._copied:
                copy = onnx.NodeProto()
                copy.CopyFrom(node)
                copy.name = unique(node.name or node.op_type, self._names)
                self._names.add(copy.name)
                for index, given in enumerate(node.input):
                    if index == 0 and value is not None:
                        copy.input[0] = value
                    elif given:
                        copy.input[index] = self.weight(given)
                copy.output[0] = self._copied[key] = self._free(node.output[0])
                self._added.append(copy)
            value = self._copied[key]
        assert value is not None
        return value

    def behind_(self, output: str, chain: Sequence[onnx.NodeProto]) -> None:
        """Put ``chain`` between the node that makes a graph's ``output`` and the output itself."""
        before = self._free(output)
        for node in self._graph.node:
            for values in (node.input, node.output):
                for index, value in enumerate(values):
                    if value == output:
                        values[index] = before
        end = self.copied(chain, before)
        for node in self._added:
            if node.output[0] == end:
                node.output[0] = output
        for key, value in self._copied.items():
            if value == end:
                self._copied[key] = output

    def finish_(self) -> None:
        """Put the copied nodes in, after the others: they are still to be sorted."""
        self._graph.node.extend(self._added)

    def _free(self, name: str) -> str:
        found = unique(name, self._values)
        self._values.add(found)
        return found


def absorb_(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Take the nodes ``names`` out again where they are read by nothing but a Q/DQ pair, as the quantizer had it."""
    graph = model.graph
    ends = {output.name for output in graph.output}
    readers = Counter(value for each in graphs(graph) for node in each.node for value in node.input)
    rounded = Counter(node.input[0] for node in graph.node if node.op_type == "QuantizeLinear")
    made_by = makers(graph)
    gone = []
    for node in graph.node:
        if node.name not in names:
            continue
        before, after = node.input[0], node.output[0]
        maker = made_by.get(before)
        if maker is None or before in ends or after in ends or readers[before] != 1:
            continue
        if readers[after] and readers[after] == rounded[after]:
            place = list(maker.output).index(before)
            maker.output[place] = after
            made_by[after] = maker
            gone.append(node)
    for node in gone:
        graph.node.remove(node)


def makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Value to the node that makes it."""
    return {value: node for node in graph.node for value in node.output if value}


def _values(graph: onnx.GraphProto) -> Iterator[str]:
    for each in graphs(graph):
        for node in each.node:
            yield from node.input
            yield from node.output
        yield from (value.name for value in (*each.input, *each.output, *each.initializer))
