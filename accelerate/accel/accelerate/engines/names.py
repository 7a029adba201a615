"""From the names TensorRT gives its layers back to the nodes of the ONNX file.

The parser writes ``[ONNX Layer: NODE]`` into a layer's metadata; a fused layer has one such entry for each node, with a record
or unit separator between them. Engines of older versions have only names: ``conv1/Conv + Relu``, ``PWN(a, b)``, ``a || b`` and,
for a part that is compiled as a whole, ``{ForeignNode[first...last]}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Up to the bracket that ends the entry: a node's name may hold brackets.
_ENTRY = re.compile(r"\[ONNX Layer: (.+?)\](?=\s*(?:$|[\x1e\x1f\[]))", re.DOTALL)
_REGION = re.compile(r"\{ForeignNode\[(.+?)\.\.\.(.+?)\]\}")
_WHOLE = re.compile(r"\{ForeignNode\[(.+?)\]\}")
_UNNAMED = re.compile(r"\(Unnamed Layer\* \d+\) \[[^\]]*\]")
_COPY = re.compile(r"^Reformatting CopyNode for (?:Input|Output) Tensor \d+ (?:to|from) (.+)$")
_SHOWN = 5
_COUNTED = re.compile(r"(?:_clone)?_\d+$")


@dataclass(frozen=True)
class OnnxNodes:
    """The nodes of an ONNX file by the names TensorRT's parser gives them, in the file's order.

    ``kinds``: to the operator; ``readers``: to the nodes that read what it makes.
    """

    kinds: Mapping[str, str]
    readers: Mapping[str, tuple[str, ...]]

    def between(self, first: str, last: str) -> tuple[str, ...]:
        """Every node on a way from ``first`` to ``last``, both included; only these two where there is no way."""
        back: dict[str, list[str]] = {}
        for node, found in self.readers.items():
            for reader in found:
                back.setdefault(reader, []).append(node)
        inside = self._reached(first, self.readers) & self._reached(last, back) | {first, last}
        return tuple(node for node in self.kinds if node in inside)

    @staticmethod
    def _reached(start: str, along: Mapping[str, Iterable[str]]) -> set[str]:
        found = {start}
        pending = [start]
        while pending:
            for node in along.get(pending.pop(), ()):
                if node not in found:
                    found.add(node)
                    pending.append(node)
        return found


def nodes_of(path: Path) -> OnnxNodes:
    """Read an ONNX file. Raises as ``accel.onnx_file.parse``."""
    from accel.onnx_file import parse

    graph = parse(path).graph
    # A node without a name is called after what it makes: onnx-tensorrt, getNodeName.
    names = [str(node.name or f"node_of_{node.output[0] if node.output else node.op_type}") for node in graph.node]
    by_input: dict[str, list[str]] = {}
    for name, node in zip(names, graph.node, strict=True):
        for tensor in node.input:
            by_input.setdefault(tensor, []).append(name)
    readers = {
        name: tuple(dict.fromkeys(reader for tensor in node.output for reader in by_input.get(tensor, ())))
        for name, node in zip(names, graph.node, strict=True)
    }
    return OnnxNodes({name: str(node.op_type) for name, node in zip(names, graph.node, strict=True)}, readers)


def nodes_in(metadata: str) -> tuple[str, ...]:
    """The ONNX nodes that a layer's metadata names, each once, in order. Entries of other origins are left out."""
    return tuple(dict.fromkeys(_ENTRY.findall(metadata)))


def nodes_in_name(name: str, known: OnnxNodes | None = None) -> tuple[str, ...]:
    """The ONNX nodes that the name of a layer tells of, each once, in order.

    ``known``: the file's; names that are not among them are left out, and the inside of a ForeignNode is filled in.
    """
    if _COPY.match(name):
        return ()
    found: dict[str, None] = {}
    rest = name
    for first, last in _REGION.findall(name):
        ends = [_node(each, known) for each in (first, last)]
        inside = [each for each in ends if each is not None]
        if known is not None and len(inside) == 2:
            inside = list(known.between(inside[0], inside[1]))
        found |= dict.fromkeys(inside)
    rest = _WHOLE.sub(r"\1", _REGION.sub("", rest))
    for part in re.split(r" \+ | \|\| |, |\bPWN\(|\)(?=$|[ ,)])", _UNNAMED.sub("", rest)):
        node = _node(part.strip(), known)
        if node is not None:
            found[node] = None
    return tuple(found)


def copied_for(name: str) -> str | None:
    """The layer that a reformat is made for, from the reformat's name; None for any other layer."""
    match = _COPY.match(name)
    return match.group(1) if match else None


def few(names: Sequence[str]) -> str:
    """The first of many names for a sentence, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _node(part: str, known: OnnxNodes | None) -> str | None:
    """A part of a name as a node: itself, or without the number that a second layer or a copy of a node gets."""
    if not part:
        return None
    if known is None:
        return part
    bare = _COUNTED.sub("", part)
    return next((each for each in (part, bare) if each in known.kinds), None)
