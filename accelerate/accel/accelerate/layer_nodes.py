"""From the names a runtime gives its layers back to the nodes of the ONNX file.

Runtimes keep the name of one node of those that a layer was made from, some with a suffix, or that of a tensor; of what was
joined to it (an activation, the Q/DQ around it) most tell nothing. So what is no layer of its own is looked for next to its
neighbours in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accel.contracts import LayerRun
from accel.onnx_graph import WEIGHTED_OPERATORS, label

_JOINED = frozenset(
    {
        "QuantizeLinear", "Relu", "LeakyRelu", "PRelu", "Elu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Gelu",
        "Tanh", "Add", "Sub", "Mul", "Div", "BatchNormalization", "Sqrt", "Erf", "Pow",
    }
)  # fmt: skip


class FileNodes:
    """The nodes of one ONNX file, in its order. One without a name is called after what it makes."""

    def __init__(self, graph: Any) -> None:
        self.labels: list[str] = [label(node) for node in graph.node]
        self.kinds: dict[str, str] = dict(zip(self.labels, (str(node.op_type) for node in graph.node), strict=True))
        self._of_tensor: dict[str, str] = {
            output: name for name, node in zip(self.labels, graph.node, strict=True) for output in node.output if output
        }
        self._reads: dict[str, tuple[str, ...]] = {
            name: tuple(self._of_tensor[each] for each in node.input if each in self._of_tensor)
            for name, node in zip(self.labels, graph.node, strict=True)
        }
        self._order = {name: place for place, name in enumerate(self.labels)}
        self._readers: dict[str, list[str]] = {}
        for name, sources in self._reads.items():
            for source in sources:
                self._readers.setdefault(source, []).append(name)

    def named(self, text: str) -> str | None:
        """The node that is called ``text``, or makes the tensor of that name; None for neither."""
        return text if text in self.kinds else self._of_tensor.get(text)

    def completed(self, layers: Sequence[LayerRun]) -> tuple[LayerRun, ...]:
        """``layers``, with the nodes that none of them names given to the layer that runs them.

        A multiply-add operator belongs to the layer of the activation that alone reads it; an activation, an addition or a
        QuantizeLinear to the layer of what it reads; a DequantizeLinear to the layer that reads it.
        """
        owner: dict[str, int] = {}
        for index, layer in enumerate(layers):
            for node in layer.nodes:
                owner.setdefault(node, index)
        named = set(owner)
        self._by_source(owner)
        for node in reversed(self.labels):
            readers = list(dict.fromkeys(self._readers.get(node, ())))
            if node not in owner and self._kinds_join(node) and len(readers) == 1 and self.kinds[readers[0]] in _JOINED:
                _give(node, readers, owner)
        self._by_source(owner)
        for node in reversed(self.labels):
            if node not in owner and self.kinds[node] == "DequantizeLinear":
                _give(node, self._readers.get(node, ()), owner)
        gained: dict[int, set[str]] = {}
        for node in owner.keys() - named:
            gained.setdefault(owner[node], set()).add(node)
        return tuple(
            replace(layer, nodes=tuple(sorted(gained[index].union(layer.nodes), key=self._order.__getitem__)))
            if index in gained
            else layer
            for index, layer in enumerate(layers)
        )

    def _by_source(self, owner: dict[str, int]) -> None:
        for node in self.labels:
            if node not in owner and self.kinds[node] in _JOINED:
                _give(node, sorted(self._sources(node), key=self._order.__getitem__, reverse=True), owner)

    def _kinds_join(self, node: str) -> bool:
        return self.kinds[node] in _JOINED or self.kinds[node] in WEIGHTED_OPERATORS

    def _sources(self, node: str) -> list[str]:
        """What makes the inputs of ``node``; a DequantizeLinear is seen through."""
        found = []
        for source in self._reads[node]:
            while self.kinds[source] == "DequantizeLinear" and self._reads[source]:
                source = self._reads[source][0]
            found.append(source)
        return found


def _give(node: str, neighbours: Iterable[str], owner: dict[str, int]) -> None:
    """``node`` to the layer of the first neighbour that has one."""
    index = next((owner[each] for each in neighbours if each in owner), None)
    if index is not None:
        owner[node] = index


def of_file(path: Path) -> FileNodes | None:
    """Of an ONNX file; None for a file of another kind. Raises as ``accel.onnx_file.parse``."""
    if path.suffix != ".onnx":
        return None
    from accel.onnx_file import parse

    return FileNodes(parse(path).graph)
