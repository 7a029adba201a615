"""An ONNX file as a strongly typed TensorRT network; every error of the parser by ONNX node, with a way out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.accelerate.engines.library import TensorRtLibrary, undisturbed
from accel.accelerate.engines.log import Messages, cleaned, on_one_line
from accel.errors import BackendFault, ModelFault
from accel.onnx_file import files, parse

_SHOWN = 5
_QUANTIZE = "let the recipe's `quantize` pass write it: for a target with backend tensorrt it does so"


@dataclass(frozen=True)
class _Kind:
    """What the parser says, or the code it gives (TensorRT-RTX 1.7.1), to what it means and what to do.

    ``quote``: its own words tell more.
    """

    pattern: str
    fact: str
    way_out: str
    quote: bool = False


_KINDS = (
    _Kind(
        r"[Nn]on-zero zero point|shiftIsAllZeros",
        "its zero point is not 0, and TensorRT takes symmetric quantization alone",
        _QUANTIZE,
    ),
    _Kind(
        r"input has type Int32 but must have type",
        "an INT32 tensor behind DequantizeLinear (so ONNX Runtime's tools store a bias), which TensorRT does not take",
        f"keep biases in float: {_QUANTIZE}",
    ),
    _Kind(
        r"[Pp]lugin not found|no importer registered|[Pp]lugin creator.* not found",
        "TensorRT has no such operator",
        "replace it in the model by operators that TensorRT has, or give this model the backend onnxruntime",
    ),
    _Kind(
        r"must be of (?:the )?same type|must have (?:the )?same types?",
        "its inputs have different types, and a strongly typed network converts none",
        "put a Cast before it, or give the float32 file and let `- type: cast` convert it",
        quote=True,
    ),
    _Kind(
        r"[Uu]nsupported (?:ONNX )?data ?type|^UNSUPPORTED_NODE_DATATYPE$",
        "a data type that TensorRT does not have",
        "keep texts, complex numbers and the like out of the exported part of the model",
    ),
    _Kind(
        r"Failed to (?:open file|import initializer)",
        "weights that cannot be read",
        "put the external data beside the file, under the name the file has for it",
        quote=True,
    ),
    _Kind(
        r"reshape changes volume|Shape Error",
        "the shapes do not fit",
        "look at the shapes that the model was exported with",
        quote=True,
    ),
    _Kind(
        r"^UNSUPPORTED_NODE_DYNAMIC$",
        "TensorRT does not take it where sizes vary",
        "export the model with that axis fixed: an int in the shape of the recipe's input",
        quote=True,
    ),
    _Kind(
        r"^UNSUPPORTED_(?:NODE|GRAPH)|^false$",
        "TensorRT does not take this operator, or not with these attributes or inputs",
        "`- type: simplify` may fold it away; else replace it in the model, or give this model the backend onnxruntime",
        quote=True,
    ),
)


@dataclass(frozen=True)
class ParsedNetwork:
    """What the library holds. ``owners``: what has to live as long: parser (it owns the weights) and logger."""

    builder: Any
    network: Any
    owners: tuple[Any, ...]


def parsed_network(library: TensorRtLibrary, path: Path, messages: Messages) -> ParsedNetwork:
    """Read the file at ``path``.

    ModelFault for one that is not ONNX or whose external data is missing, BackendFault for what the parser refuses: every node
    it names, with a way out for each.
    """
    files(path)  # the library takes some files that are no ONNX for an empty network
    with undisturbed():
        return _parsed(library, path, messages)


def _parsed(library: TensorRtLibrary, path: Path, messages: Messages) -> ParsedNetwork:
    trt = library.trt
    logger = library.logger(messages.sink)
    trt.init_libnvinfer_plugins(logger, "")
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError) as error:  # pybind11 raises TypeError where the library made none
        reason = messages.last_error or str(error)
        raise BackendFault(
            f"{path.name}: {library.name} {library.version} cannot start: {reason}; look at the driver"
        ) from error
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if library.edition.needs_strong_flag else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise refusal(path, [parser.get_error(index) for index in range(parser.num_errors)], messages)
    if not network.num_outputs:
        raise ModelFault(f"{path.name}: {library.name} finds no outputs in it; export it again")
    return ParsedNetwork(builder, network, (parser, logger))


def refusal(path: Path, errors: Sequence[Any], messages: Messages) -> BackendFault:
    """One error for all that the parser found; at most five are written out."""
    if not errors:
        return BackendFault(f"{path.name}: TensorRT cannot read it: {messages.last_error or 'it gave no reason'}")
    nodes = list(parse(path).graph.node)
    lines = list(dict.fromkeys(_line(error, nodes) for error in errors))
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return BackendFault(f"{path.name}: TensorRT cannot take it: " + "\n".join([*lines[:_SHOWN], *more]))


def _line(error: Any, nodes: Sequence[Any]) -> str:
    """``node NAME (OPERATOR): fact: what the parser said; way out``."""
    said = str(error.desc())
    code = str(error.code()).rpartition(".")[2]
    operator = str(error.node_operator())
    name = str(error.node_name()) or _unnamed(int(error.node()), operator, nodes)
    place = f"node {on_one_line(name)} ({on_one_line(operator)}): " if operator else ""
    text = cleaned(said)
    for kind in _KINDS:
        if re.search(kind.pattern, said) or re.search(kind.pattern, code):
            detail = f" ({text})" if kind.quote and text not in ("false", "") and "&&" not in text else ""
            return f"{place}{kind.fact}{detail}; {kind.way_out}"
    return f"{place}{text} [{code}]; `accel lint --target tensorrt` may tell more, or give this model the backend onnxruntime"


def _unnamed(index: int, operator: str, nodes: Sequence[Any]) -> str:
    """What to call a node without a name: by what it makes. The index counts in the main graph, where the operator fits."""
    if 0 <= index < len(nodes) and nodes[index].op_type == operator and nodes[index].output:
        return f"without a name that makes {nodes[index].output[0]}"
    return f"number {index}"
