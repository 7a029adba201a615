"""What TensorRT asks of the attributes and shapes of operators that it has.

Every error here was tried on TensorRT-RTX 1.7.1: its parser refuses the file, or its builder does (TopK, If, Loop).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from accel.accelerate.lint.graph import LintGraph, integer, integers, label, source, text
from accel.accelerate.lint.rules import Problem, Rule

_TRANSFORMS = frozenset({"align_corners", "tf_half_pixel_for_nn", "pytorch_half_pixel", "half_pixel", "asymmetric"})
_MOST_TOP_K = 3840  # of TensorRT-RTX 1.7.1's ITopKLayer, as its error says


def resize(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op_type != "Resize":
            continue
        transform = text(node, "coordinate_transformation_mode", "half_pixel")
        policy = text(node, "keep_aspect_ratio_policy", "stretch")
        if transform not in _TRANSFORMS:
            yield _resize(node, f"coordinate_transformation_mode {transform}", f"use {', '.join(sorted(_TRANSFORMS))}")
        if integer(node, "antialias"):
            yield _resize(node, "antialias", "export without it, or resize outside of the model")
        if policy != "stretch":
            yield _resize(node, f"keep_aspect_ratio_policy {policy}", "give the sizes to resize to, with `stretch`")
        yield from _resized_axes(graph, node)


def pooling(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
            way = "take the indices from ArgMax, or do without them"
            yield Problem(label(node), "the parser has MaxPool without its second output, the indices", way)
        dilations = integers(node, "dilations")
        if node.op_type in ("MaxPool", "AveragePool", "LpPool") and any(each != 1 for each in dilations):
            way = "use a strided Slice before a pool without dilations, or a convolution"
            yield Problem(label(node), f"pools with dilations {list(dilations)}; the parser has 1 only", way)


def training_mode(graph: LintGraph) -> Iterator[Problem]:
    way = "export the network in evaluation mode (net.eval() before the export)"
    for node in graph.nodes:
        if node.op_type == "BatchNormalization" and integer(node, "training_mode"):
            yield Problem(label(node), "a BatchNormalization in training mode", way)
        if node.op_type == "Dropout":
            mode = graph.values(source(node, 2))
            if mode is not None and mode.any():
                yield Problem(label(node), "a Dropout in training mode", way)


def spatial_axes(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op_type in ("Conv", "ConvTranspose"):
            rank = len(graph.shape(source(node, 1)) or ())
            if rank > 5:
                message = f"convolves over {rank - 2} axes; TensorRT has 1, 2 and 3"
                yield Problem(label(node), message, "split it into convolutions over at most 3 axes")


def scatter_reduction(graph: LintGraph) -> Iterator[Problem]:
    return _reductions(graph, "ScatterND")


def scatter_elements(graph: LintGraph) -> Iterator[Problem]:
    return _reductions(graph, "ScatterElements")


def _reductions(graph: LintGraph, operator: str) -> Iterator[Problem]:
    for node in graph.nodes:
        how = text(node, "reduction", "none")
        if node.op_type == operator and how != "none":
            way = "add with MatMul on OneHot of the indices, or do this part outside of the model"
            yield Problem(label(node), f"{operator} with reduction {how}, which the parser refuses", way)


def top_k(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        count = graph.values(source(node, 1)) if node.op_type == "TopK" else None
        if count is not None and count.size and int(count.reshape(-1)[0]) > _MOST_TOP_K:
            message = f"asks for the top {int(count.reshape(-1)[0])}; TensorRT gives at most {_MOST_TOP_K}"
            yield Problem(label(node), message, f"ask for {_MOST_TOP_K} or less, or sort outside of the model")


def branch_ranks(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        if node.op_type != "If" or graph.is_constant(source(node, 0)):
            continue
        named = [[value.name for value in entry.g.output] for entry in _branches(node)]
        for first, second in zip(*named[:2], strict=False) if len(named) == 2 else ():
            shapes = graph.shape(first), graph.shape(second)
            if shapes[0] is not None and shapes[1] is not None and len(shapes[0]) != len(shapes[1]):
                message = f"its branches give {first} with {len(shapes[0])} axes and {second} with {len(shapes[1])}"
                yield Problem(
                    label(node), message, "give both branches results of as many axes, or export the branch that is used"
                )


def loop_shapes(graph: LintGraph) -> Iterator[Problem]:
    for node in graph.nodes:
        body = next((entry.g for entry in node.attribute if entry.name == "body"), None) if node.op_type == "Loop" else None
        if body is None:
            continue
        for start, end in zip(body.input[2:], body.output[1:], strict=False):
            before, after = graph.shape(start.name), graph.shape(end.name)
            if before is not None and after is not None and _differ(before, after):
                message = f"{start.name} enters its body as {list(before)} and leaves it as {list(after)}"
                yield Problem(label(node), message, "keep the shape: write into a tensor of the final size with ScatterND")


def _resize(node: Any, what: str, way: str) -> Problem:
    return Problem(label(node), f"Resize with {what}, which the parser refuses", way)


def _resized_axes(graph: LintGraph, node: Any) -> Iterator[Problem]:
    """Linear interpolates along the last 3 axes at most, cubic along the last 2."""
    last = {"linear": 3, "cubic": 2}.get(text(node, "mode", "nearest"))
    scales = graph.values(source(node, 2))
    if last is None or scales is None or integers(node, "axes"):
        return
    early = [index for index in range(scales.size - last) if float(scales.reshape(-1)[index]) != 1]
    if early:
        message = f"{text(node, 'mode', '')} interpolation along axis {early[0]}; only the last {last} axes"
        yield _resize(node, message, "reshape so that the axes to resize come last")


def _branches(node: Any) -> Iterator[Any]:
    for name in ("then_branch", "else_branch"):
        yield from (entry for entry in node.attribute if entry.name == name)


def _differ(before: tuple[int | str, ...], after: tuple[int | str, ...]) -> bool:
    if len(before) != len(after):
        return True
    pairs = zip(before, after, strict=True)
    return any(isinstance(one, int) and isinstance(other, int) and one != other for one, other in pairs)


RULES = (
    Rule("resize", "error", "Resize with modes and axes that are there", resize),
    Rule("pooling", "error", "pools without dilations and without indices", pooling),
    Rule("training-mode", "error", "no BatchNormalization or Dropout in training mode", training_mode),
    Rule("spatial-axes", "error", "convolutions over at most 3 axes", spatial_axes),
    Rule("scatter-reduction", "error", "no ScatterND with a reduction", scatter_reduction),
    Rule("top-k", "error", f"TopK of at most {_MOST_TOP_K}", top_k),
    Rule("branch-ranks", "error", "both branches of an If give as many axes", branch_ranks),
    Rule("loop-shapes", "error", "what a Loop carries keeps its shape", loop_shapes),
)
RTX_ONLY = (Rule("scatter-elements", "error", "no ScatterElements with a reduction", scatter_elements),)
