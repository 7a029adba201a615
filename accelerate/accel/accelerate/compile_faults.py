"""A runtime's own error as one of ours: short, and naming the node of the ONNX file that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accel.errors import AccelError, BackendFault

_LIMIT = 500
# Source places, and the lead-in that repeats the file's path: nothing a user can act on.
_NOISE = (
    r"\[ONNXRuntimeError\] : \d+ : (?P<kind>[A-Z_]+) : ",
    r"Load model from .*? failed:",
    r"Exception from \S+:\d+:\s*",
    r"Check '.*?' failed at \S+:\d+:\s*",
    r"/\S+\.(?:cc|cpp|h|hpp):\d+ [^\n]*?\) (?=[A-Z])",
    r"FrontEnd API failed with \w+:\s*",
    r"Model wasn't fully converted\.\s*(?:Failed operations detailed log:|Summary:)?\s*",
    r"Summary:.*",
)
_NO_KERNEL = "Could not find an implementation for"
# Where the two libraries put the name of a node, of a tensor it makes, or of its operator.
_SUSPECTS = (
    r'In Node, \("([^"]+)"',
    r"in node \(([^)]+)\)",
    r"Node \(([^)]+)\)",
    r"Node:([^\s,]+)",
    r"node with name '([^']+)'",
    r"Name:'([^']+)'",
    r"<Node\(\w+\): ([^>]+)>",
    r"for node \"([^\"]+)\"",
    r"[Nn]ode input '([^']+)'",
    r"for operations: (?:[\w.]+\.)?(\w+?)(?:-\d+)?(?:,|\s|$)",
    r"([\w.]+:\w+)\(-?\d+\) is not a registered",
)


def compile_fault(runtime: str, path: Path, error: BaseException) -> BackendFault:
    """A BackendFault for ``error``, which ``runtime`` raised for the file at ``path``."""
    message = str(error)
    node = _find(message, path)
    place = path.name if node is None else f"{path.name}, node {_label(node)}"
    lacking = ""
    if node is not None and _NO_KERNEL in message and _reads_bf16(node, path):
        lacking = (
            f"; the node is in bf16, and this {runtime} has no kernel for that: set dtype: fp16 in the cast pass, or choose"
            " another target"
        )
    return BackendFault(f"{place}: {runtime} cannot compile it: {shortened(message) or type(error).__name__}{lacking}")


def shortened(message: str) -> str:
    """The part of a runtime's message that says something, on one line."""
    text = message
    for pattern in _NOISE:
        text = re.sub(pattern, "", text, flags=re.DOTALL if pattern.endswith(".*") else 0)
    text = " ".join((text.strip() or message).split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."


def find_node(message: str, path: Path) -> str | None:
    """The name of the node in the ONNX file at ``path`` that ``message`` is about; None where it cannot be told."""
    node = _find(message, path)
    return None if node is None else _label(node)


def _label(node: Any) -> str:
    return str(node.name or f"{node.op_type} that makes {node.output[0]}")


def _find(message: str, path: Path) -> Any:
    suspects = [name for pattern in _SUSPECTS for name in re.findall(pattern, message)]
    if not suspects or path.suffix != ".onnx":
        return None
    nodes = list(_nodes(path))
    for suspect in suspects:
        for match in (
            lambda node, name=suspect: node.name == name,
            lambda node, name=suspect: name in node.output,
            lambda node, name=suspect: name in node.input,
            lambda node, name=suspect: name.rpartition(":")[2] == node.op_type,
        ):
            found = next((node for node in nodes if match(node)), None)
            if found is not None:
                return found
    return None


def _reads_bf16(node: Any, path: Path) -> bool:
    """Whether an outermost node of the file reads or makes BF16."""
    import onnx

    from accel.onnx_file import parse

    try:
        graph = onnx.shape_inference.infer_shapes(parse(path)).graph
    except (onnx.shape_inference.InferenceError, AccelError, OSError, ValueError, RuntimeError):
        return False
    values = (*graph.input, *graph.output, *graph.value_info)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {weight.name: weight.data_type for weight in graph.initializer}
    return any(types.get(name) == onnx.TensorProto.BFLOAT16 for name in (*node.input, *node.output))


def _nodes(path: Path) -> Iterator[Any]:
    from accel.onnx_file import parse

    try:
        pending = [parse(path).graph]
    except (AccelError, OSError):  # the file itself is why the runtime failed
        return
    while pending:
        graph = pending.pop()
        for node in graph.node:
            yield node
            pending.extend(attribute.g for attribute in node.attribute if attribute.HasField("g"))
