"""Core of ``simplify``: onnxslim behind guards."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import onnx
import onnxslim

from accel import onnx_file
from accel.compress.onnx_writing import (
    drop_unused_initializers_,
    drop_unused_opsets_,
    load,
    name_all_nodes_,
    strip_metadata_,
    unique,
    write,
)
from accel.compress.quiet_library import quiet
from accel.compress.same_outputs import batch_sizes, example_inputs, require_same, run
from accel.compress.short_graph import shorten_
from accel.contracts import Job
from accel.errors import PassFault
from accel.model import OnnxModel
from accel.onnx_graph import graphs

RTOL, ATOL = 1e-3, 1e-5
"""Folding a batch norm into a convolution rounds differently; anything larger is a fault."""


def simplify(model: OnnxModel, job: Job, *, short_names: bool = False) -> OnnxModel:
    """See ``Simplify``."""
    before = load(model.path)
    path = job.folder / "model.onnx"
    try:
        with quiet():
            # A second copy: onnxslim edits what it is given.
            after = onnxslim.slim(load(model.path), **_options(before))
    except Exception as error:  # the library raises bare Exceptions and AssertionErrors of many kinds
        raise PassFault(
            f"simplify: onnxslim failed on {model.path.name}: {type(error).__name__}: {error}; remove the pass"
        ) from error
    _restore_(after, before)
    if short_names:
        shorten_(after)
        write(after, path)
        _require_same(model, job, path)
        saved = model.path.stat().st_size - path.stat().st_size
        notes = [_difference(before, after), f"names inside the graph shortened: {saved} bytes fewer"]
        return OnnxModel(path=path, signature=model.signature).noting(*notes)
    if _content(before) == _content(after):
        for file in onnx_file.files(model.path):
            shutil.copyfile(file, job.folder / (path.name if file == model.path else file.name))
        return OnnxModel(path=path, signature=model.signature).noting("simplify changed nothing")
    write(after, path)
    _require_same(model, job, path)
    return OnnxModel(path=path, signature=model.signature).noting(_difference(before, after))


def _options(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Equal constants of a quantized model stay apart: OpenVINO 2026.4 runs layers that share a zero point in float."""
    quantized = any(node.op_type == "DequantizeLinear" for graph in graphs(model.graph) for node in graph.node)
    return {"skip_optimizations": ["weight_tying"]} if quantized else {}


def _restore_(after: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """Put back what onnxslim drops or changes without need: names, producer, inputs and outputs; strip the rest."""
    after.producer_name, after.producer_version = before.producer_name, before.producer_version
    strip_metadata_(after)
    drop_unused_initializers_(after)
    drop_unused_opsets_(after)
    _unique_value_info_(after)
    for kind in ("input", "output"):
        had = [value.name for value in getattr(before.graph, kind)]
        has = [value.name for value in getattr(after.graph, kind)]
        weights = {weight.name for weight in before.graph.initializer}
        if [name for name in had if name not in weights] != has:
            raise PassFault(f"simplify: onnxslim changed the model's {kind}s from {had} to {has}; remove the pass")
    _restore_names_(after, before)


def _unique_value_info_(model: onnx.ModelProto) -> None:
    for graph in graphs(model.graph):
        known = {value.name for value in (*graph.input, *graph.output)}
        made = {value for node in graph.node for value in node.output}
        kept = []
        for value in graph.value_info:
            if value.name in made and value.name not in known:
                known.add(value.name)
                kept.append(value)
        if len(kept) < len(graph.value_info):
            del graph.value_info[:]
            graph.value_info.extend(kept)


def _restore_names_(after: onnx.ModelProto, before: onnx.ModelProto) -> None:
    """A node keeps its name; one that onnxslim made is called like the one whose weight it reads or output it makes."""
    nodes = [node for graph in graphs(before.graph) for node in graph.node if node.name]
    types = {node.name: node.op_type for node in nodes}
    makers = {value: node for node in nodes for value in node.output}
    readers = {(value, node.op_type): node for node in reversed(nodes) for value in node.input if value not in makers}
    taken = {node.name for graph in graphs(after.graph) for node in graph.node if types.get(node.name) == node.op_type}
    kept: set[str] = set()
    for graph in graphs(after.graph):
        for node in graph.node:
            if types.get(node.name) == node.op_type and node.name not in kept:
                kept.add(node.name)
                continue
            source = next((readers[value, node.op_type] for value in node.input if (value, node.op_type) in readers), None)
            source = source or next((makers[value] for value in node.output if value in makers), None)
            if source is None:
                node.name = ""
                continue
            wanted = source.name if source.op_type == node.op_type else _renamed(source, node.op_type)
            node.name = unique(wanted, taken)
            taken.add(node.name)
            kept.add(node.name)
    name_all_nodes_(after)


def _renamed(source: onnx.NodeProto, kind: str) -> str:
    path, slash, _ = source.name.rpartition("/")
    return f"{path}{slash}{kind}"


def _content(model: onnx.ModelProto) -> tuple[Counter[bytes], Counter[bytes]]:
    """Nodes and weights without names, order and metadata: what a pass has to change to have changed something."""
    nodes: Counter[bytes] = Counter()
    for graph in graphs(model.graph):
        for node in graph.node:
            bare = onnx.NodeProto()
            bare.CopyFrom(node)
            for field in ("name", "doc_string", "metadata_props"):
                bare.ClearField(field)
            attributes = sorted(bare.attribute, key=lambda attribute: attribute.name)
            del bare.attribute[:]
            bare.attribute.extend(attributes)
            nodes[bare.SerializeToString(deterministic=True)] += 1
    weights = Counter(
        weight.name.encode() + b"\0" + onnx.numpy_helper.to_array(weight).tobytes()
        for graph in graphs(model.graph)
        for weight in graph.initializer
    )
    return nodes, weights


def _require_same(model: OnnxModel, job: Job, path: Path) -> None:
    for batch in batch_sizes(model.signature):
        inputs = example_inputs(model.signature, job, batch)
        require_same(
            [spec.name for spec in model.signature.outputs],
            run(model.path, inputs, job),
            run(path, inputs, job),
            rtol=RTOL,
            atol=ATOL,
            what="simplify: onnxslim changed what the model computes",
            way_out="remove the pass",
        )


def _difference(before: onnx.ModelProto, after: onnx.ModelProto) -> str:
    had = Counter(node.op_type for graph in graphs(before.graph) for node in graph.node)
    has = Counter(node.op_type for graph in graphs(after.graph) for node in graph.node)
    gone = ", ".join(f"{count} {kind}" for kind, count in sorted((had - has).items()))
    new = ", ".join(f"{count} {kind}" for kind, count in sorted((has - had).items()))
    text = f"{had.total()} nodes became {has.total()}"
    text += f"; gone: {gone}" if gone else ""
    return text + (f"; new: {new}" if new else "")
