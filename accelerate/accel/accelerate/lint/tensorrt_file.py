"""What TensorRT asks of a file as a whole: that it holds together, its opset, the axes of its inputs, its names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from accel.accelerate.lint import tensorrt_supported as tensorrt_operators
from accel.accelerate.lint.graph import LintGraph, label, made, source
from accel.accelerate.lint.rules import Problem, Rule

_SHAPE_INPUTS: Mapping[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2), "TopK": (1,), "Range": (0, 1, 2), "ConstantOfShape": (0,),
    "Pad": (1,), "Resize": (2, 3), "OneHot": (1,),
}  # fmt: skip


def graph_whole(graph: LintGraph) -> Iterator[Problem]:
    if graph.broken is not None:
        yield Problem("", graph.broken, "export the model again")


def external_data(graph: LintGraph) -> Iterator[Problem]:
    for reason in graph.missing.values():
        yield Problem("", reason, "keep the file with the weights beside the .onnx; `accel inspect` checks it")


def opset(graph: LintGraph) -> Iterator[Problem]:
    oldest, newest = tensorrt_operators.OLDEST_OPSET, tensorrt_operators.NEWEST_OPSET
    if not oldest <= graph.opset <= newest:
        message = f"opset {graph.opset}; TensorRT documents {oldest} to {newest} and reads others by the versions it knows"
        yield Problem("", message, f"export with opset {newest} or older, or compare the engine's outputs with the model's")


def node_names(graph: LintGraph) -> Iterator[Problem]:
    counts = Counter(node.name for node in graph.nodes)
    way = "give each node a name of its own (`accel optimize` does when it exports)"
    for name in sorted(name for name, count in counts.items() if name and count > 1):
        yield Problem(name, f"{counts[name]} nodes have this name: a layer's type and time cannot be told apart", way)
    if counts[""]:
        yield Problem("", f"{counts['']} nodes have no name: errors and profiles can only name what they make", way)


def dynamic_axis(graph: LintGraph) -> Iterator[Problem]:
    for value in graph.inputs:
        shape = graph.shape(value.name) or ()
        varying = [(index, axis) for index, axis in enumerate(shape) if index and not (isinstance(axis, int) and axis > 0)]
        for index, axis in varying:
            message = (
                f"axis {index} ({axis}) of input {value.name} varies: an engine needs its smallest, usual and largest size"
            )
            way = (
                f"the target's option `profiles`, or `dynamic: {{{axis}: {{min, opt, max}}}}` on the input of a recipe that"
                " exports the model; or export with one size"
            )
            if axis == "?":
                way = "give its range in the target's option `profiles`, or export with one size"
            yield Problem("", message, way)


def shape_input(graph: LintGraph) -> Iterator[Problem]:
    for value in graph.inputs:
        if graph.element_type(value.name) not in ("INT32", "INT64"):
            continue
        for node in _readers_as_shape(graph, value.name):
            message = f"input {value.name} decides a shape ({label(node)}): an optimization profile must name its values"
            yield Problem(label(node), message, "make it a constant, or give the shapes that are used as separate files")
            break


def _readers_as_shape(graph: LintGraph, value: str) -> Iterator[Any]:
    pending, seen = [value], set()
    while pending:
        name = pending.pop()
        for node in graph.readers.get(name, ()):
            if any(source(node, index) == name for index in _SHAPE_INPUTS.get(node.op_type, ())):
                yield node
            elif node.op_type in ("Cast", "Concat", "Unsqueeze", "Squeeze", "Gather") and made(node) not in seen:
                seen.add(made(node))
                pending.append(made(node))


WHOLE = (
    Rule("graph", "error", "the graph holds together: no cycle, no name that nothing makes", graph_whole),
    Rule("external-data", "error", "external data is there and long enough", external_data),
)
RULES = (
    Rule("shape-input", "warning", "no input decides a shape", shape_input),
    Rule("dynamic-axis", "warning", "no input axis varies but the first; each that does needs a range", dynamic_axis),
    Rule("opset", "warning", f"opset {tensorrt_operators.OLDEST_OPSET} to {tensorrt_operators.NEWEST_OPSET}", opset),
    Rule("node-names", "warning", "each node has a name of its own", node_names),
)
