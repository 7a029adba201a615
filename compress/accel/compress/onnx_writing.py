"""Writing an ONNX file: nothing in it that is not the model, the same bytes each time, one file where that is possible."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter

from accel.errors import PassFault, StorageFault
from accel.onnx_graph import graphs

PER_CHANNEL_OPSET = 13
CONVERTED_OPSET = 17
INT4_OPSET = 21
BLOCK_OPSET = 21
"""The first with DequantizeLinear in blocks and with four-bit integers."""
SINGLE_FILE_LIMIT = 1_900_000_000
"""Bytes; protobuf ends at 2 GiB. Above it the weights go into ``<name>.data`` beside the file (never a link)."""


def raised_opset(
    model: onnx.ModelProto, least: int = PER_CHANNEL_OPSET, to: int = CONVERTED_OPSET, what: str = "per-channel Q/DQ"
) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model in an opset of at least ``least``, which has ``what``; where it is older, converted ``to`` one, and a note.

    PassFault if it cannot be.
    """
    found = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if found >= least:
        return model, ()
    try:
        converted = onnx.version_converter.convert_version(model, to)
    except (RuntimeError, onnx.version_converter.ConvertError) as error:
        raise PassFault(
            f"opset {found} has no {what} ({least} has), and the model cannot be converted: {error}; export it again with a"
            " newer opset"
        ) from error
    return converted, (f"converted from opset {found} to {to}: {what} needs {least}",)


def strip_metadata_(model: onnx.ModelProto) -> None:
    """Drop ``metadata_props`` and ``doc_string`` at every level, in place. Producer and version stay.

    torch's exporter writes stack traces with absolute paths into each node: private, and other bytes in another folder.
    """
    owners: list[Any] = [model, *model.functions]
    for function in model.functions:
        owners += [*function.node, *function.value_info]
    for graph in graphs(model.graph):
        owners += [graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
        owners += [attribute for node in graph.node for attribute in node.attribute if attribute.doc_string]
    for owner in owners:
        for field in ("metadata_props", "doc_string"):
            if field in owner.DESCRIPTOR.fields_by_name:
                owner.ClearField(field)


def drop_unused_opsets_(model: onnx.ModelProto) -> None:
    """Keep only the operator sets that a node uses, in place (onnxruntime.quantization may import eight that none does)."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    used = {_domain(node.domain) for node in nodes} | {""}
    kept = [entry for entry in model.opset_import if _domain(entry.domain) in used]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def drop_unused_initializers_(model: onnx.ModelProto) -> None:
    """Drop the weights that no node reads and the shape notes on weights, in place."""
    read = {name for graph in graphs(model.graph) for node in graph.node for name in node.input}
    read |= {output.name for graph in graphs(model.graph) for output in graph.output}
    for graph in graphs(model.graph):
        weights = {weight.name for weight in graph.initializer}
        keep = [weight for weight in graph.initializer if weight.name in read]
        if len(keep) < len(graph.initializer):
            del graph.initializer[:]
            graph.initializer.extend(keep)
        values = [value for value in graph.value_info if value.name in read and value.name not in weights]
        if len(values) < len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(values)


def name_all_nodes_(model: onnx.ModelProto) -> None:
    """Give each node without a name, or with one that is taken, a name of its own: ``Conv``, ``Conv_1``... In place.

    Names are how layers are ignored and reported; ``nodes_to_exclude`` of onnxruntime.quantization cannot tell ``""`` apart.
    """
    taken = {node.name for graph in graphs(model.graph) for node in graph.node if node.name}
    seen: set[str] = set()
    for graph in graphs(model.graph):
        for node in graph.node:
            if not node.name or node.name in seen:
                node.name = unique(node.name or node.op_type, taken)
            taken.add(node.name)
            seen.add(node.name)


def unique(name: str, taken: set[str]) -> str:
    """``name``, or the first of ``name_1``, ``name_2``... that is not in ``taken``."""
    if name not in taken:
        return name
    count = 1
    while f"{name}_{count}" in taken:
        count += 1
    return f"{name}_{count}"


def load(path: Path) -> onnx.ModelProto:
    """The file with its weights, as a private copy; PassFault if it cannot be read."""
    try:
        return onnx.load(str(path))
    except OSError as error:
        raise PassFault(f"{path.name}: cannot be read: {error.strerror or error}") from error
    except (onnx.checker.ValidationError, ValueError, TypeError) as error:
        raise PassFault(f"{path.name}: not a readable ONNX file: {error}; check it with `accel inspect`") from error
    except Exception as error:  # protobuf's DecodeError has no stable home
        if type(error).__name__ != "DecodeError":
            raise
        raise PassFault(f"{path.name}: not an ONNX file ({error}); check it with `accel inspect`") from error


def write(model: onnx.ModelProto, path: Path, limit: int = SINGLE_FILE_LIMIT) -> None:
    """Write ``model`` to ``path``, same model same bytes; changes ``model`` only where it takes more than ``limit`` bytes.

    Raises StorageFault where the disk refuses. The file appears whole or not at all.
    """
    size = sum(len(weight.raw_data) for graph in graphs(model.graph) for weight in graph.initializer)
    data = path.with_name(path.name + ".data")
    if size > limit:
        # Offsets follow the order of the initializers, so these bytes are as reproducible as the file's.
        onnx.external_data_helper.convert_model_to_external_data(model, location=data.name, size_threshold=1024)
    partial = path.with_name(path.name + ".partial")
    try:
        if size > limit:
            data.unlink(missing_ok=True)  # onnx appends to a file that is there
            onnx.external_data_helper.write_external_data_tensors(model, str(path.parent))
        with partial.open("wb") as file:
            file.write(model.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StorageFault(
            f"{path}: cannot be written: {error.strerror or error}; free space or choose another folder"
        ) from error


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
