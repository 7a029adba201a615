"""What every engine's Q/DQ file has in common: checks before, clean-up and remarks after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

import onnx

from accel.compress.onnx_writing import drop_unused_initializers_, drop_unused_opsets_, strip_metadata_
from accel.contracts import Job, QuantizationProfile
from accel.errors import PassFault
from accel.onnx_graph import graphs, quantization

_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators whose time INT8 saves, and whose names a report lists where they stay in floating point."""


def require_profile(job: Job) -> QuantizationProfile:
    """The Q/DQ dialect to write; the pipeline gives it, training code has to."""
    if job.profile is None:
        raise PassFault(
            "quantize: the job has no profile; give Job(profile=...) the quantization of the backend that is to run it"
        )
    return job.profile


def refuse_symmetric(job: Job, what: str) -> None:
    """PassFault for a target whose dialect is TensorRT's. ``what``: the sentence's start, what is written instead."""
    if job.profile is not None and job.profile.activation == "int8" and job.profile.activation_symmetric:
        raise PassFault(f"quantize: {what}, and this target reads Q/DQ with signed symmetric activations; set approach: static")


def require_float(model: onnx.ModelProto) -> None:
    """Raise PassFault for a model that has been quantized already, or whose weights are not float32."""
    for weight in model.graph.initializer:
        if weight.data_type in _HALVES:
            raise PassFault(
                f"quantize: the weights are {onnx.TensorProto.DataType.Name(weight.data_type).lower()} ({weight.name!r}), and"
                " static INT8 starts from float32; export the model in float32"
            )
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear") or node.op_type.startswith("QLinear"):
                raise PassFault(
                    f"quantize: the model is quantized already (node {node.name!r}); remove the pass, or start from the"
                    " float model"
                )


def sort_nodes_(model: onnx.ModelProto) -> None:
    """Put each node after what it reads and otherwise leave the order, in place: the library appends the nodes it adds."""
    nodes = list(model.graph.node)
    maker = {value: index for index, node in enumerate(nodes) for value in node.output if value}
    order: list[int] = []
    placed: set[int] = set()
    for last in range(len(nodes)):
        pending = [last]
        while pending:
            index = pending[-1]
            sources = [maker[value] for value in reversed(read_by(nodes[index])) if value in maker]
            before = [source for source in sources if source not in placed and source != index]
            if before:
                pending += before
            else:
                pending.pop()
                if index not in placed:
                    placed.add(index)
                    order.append(index)
    sorted_nodes = [nodes[index] for index in order]
    del model.graph.node[:]
    model.graph.node.extend(sorted_nodes)


def read_by(node: onnx.NodeProto) -> list[str]:
    """The values that a node reads, those that the graphs inside it read among them."""
    inner = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    inner += [graph for attribute in node.attribute for graph in attribute.graphs]
    return [*node.input, *(value for graph in inner for part in graph.node for value in read_by(part))]


def release_outputs_(model: onnx.ModelProto) -> None:
    """Drop the Q/DQ pair between a Gemm or MatMul and a graph output, in place: its only effect is 256 levels of logits, among
    which the best one ties. (A Conv keeps its pair: ONNX Runtime has no INT8 convolution with a float output.)"""
    graph = model.graph
    nodes = list(graph.node)
    maker = {value: index for index, node in enumerate(nodes) for value in node.output}
    readers = Counter(value for node in nodes for value in node.input)
    dropped: set[int] = set()  # places, not names: two nodes may have none
    for output in graph.output:
        last = maker.get(output.name)
        if last is None or nodes[last].op_type != "DequantizeLinear":
            continue
        first = maker.get(nodes[last].input[0])
        if first is None or nodes[first].op_type != "QuantizeLinear":
            continue
        quantize = nodes[first]
        source = nodes[maker[quantize.input[0]]] if quantize.input[0] in maker else None
        shared = readers[quantize.input[0]] > 1 or readers[quantize.output[0]] > 1 or readers[output.name] > 0
        if source is not None and source.op_type in ("Gemm", "MatMul") and not shared:
            source.output[0] = output.name
            dropped |= {first, last}
    if dropped:
        kept = [node for index, node in enumerate(nodes) if index not in dropped]
        del graph.node[:]
        graph.node.extend(kept)


def tidy_(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """The smallest file that gives the same result, in place: no shapes between nodes (every runtime infers them), no metadata,
    no operator set or weight that nothing uses; producer and graph name of the float model."""
    model.producer_name, model.producer_version = source.producer_name, source.producer_version
    model.graph.name = source.graph.name
    strip_metadata_(model)
    for graph in graphs(model.graph):
        del graph.value_info[:]
    drop_unused_initializers_(model)
    drop_unused_opsets_(model)


def remarks(model: onnx.ModelProto, ignored: Collection[str], engine: str) -> tuple[str, ...]:
    """How many weighted operators are quantized, by type, and each that is not, with the reason where it is known.

    Raises PassFault where none is.
    """
    floating = set(quantization(model).floating)
    quantized: Counter[str] = Counter()
    left: list[str] = []
    for graph in graphs(model.graph):
        maker = {value: node for node in graph.node for value in node.output}
        weights = {weight.name for weight in graph.initializer}
        for node in graph.node:
            if node.op_type not in WEIGHTED:
                continue
            if node.name not in floating:
                quantized[node.op_type] += 1
            else:
                left.append(f"{node.name} kept in floating point: {_reason(node, ignored, maker, weights, engine)}")
    if not quantized:
        total = len(left)
        why = "ignored_scope covers them" if total and all("ignored_scope" in line for line in left) else "; ".join(left[:5])
        raise PassFault(
            f"quantize changed nothing: none of {total} {', '.join(WEIGHTED)} nodes is quantized"
            + (f" ({why})" if why else "; the model has no such node")
            + "; narrow ignored_scope or remove the pass"
        )
    return "quantized: " + ", ".join(f"{count} {kind}" for kind, count in sorted(quantized.items())), *left


def _dequantized(value: str, maker: Mapping[str, onnx.NodeProto]) -> bool:
    return value in maker and maker[value].op_type == "DequantizeLinear"


def _reason(
    node: onnx.NodeProto, ignored: Collection[str], maker: Mapping[str, onnx.NodeProto], weights: Collection[str], engine: str
) -> str:
    if node.name in ignored:
        return "in ignored_scope"
    if node.input[1] not in weights and not _dequantized(node.input[1], maker):
        return "its second input is not a constant"
    return f"left by {engine}"
