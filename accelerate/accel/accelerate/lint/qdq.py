"""QuantizeLinear and DequantizeLinear nodes of a graph, and the operators that compute on what they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from accel.accelerate.lint.graph import STANDARD, LintGraph, integer, source
from accel.onnx_tensors import type_name

if TYPE_CHECKING:
    from accel.contracts import Array

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Quantizer:
    """One QuantizeLinear or DequantizeLinear. ``on_constant``: it works on weights; else on activations.

    ``stored``: the type on the integer side (``INT8``), empty where it is not known; ``scale`` and ``zero``: their values,
    None where they are left out or computed. ``axis``: as given, by default 1. ``block``: 0 where not blocked.
    """

    node: Any
    quantizes: bool
    on_constant: bool
    stored: str
    scale: Array | None
    zero: Array | None
    axis: int
    block: int

    @property
    def data(self) -> str:
        """Name of what goes in."""
        return source(self.node, 0)

    @property
    def many(self) -> bool:
        """Whether it has more than one scale."""
        return self.scale is not None and self.scale.size > 1


def quantizer(graph: LintGraph, node: Any) -> Quantizer:
    """``node``: a QuantizeLinear or DequantizeLinear."""
    quantizes = node.op_type == "QuantizeLinear"
    zero = source(node, 2)
    stored = graph.element_type(zero) if zero else ""
    if quantizes and not stored:
        given = integer(node, "output_dtype")
        stored = type_name(given) if given else "UINT8"  # ONNX's default, whatever a runtime makes of it
    elif not quantizes:
        stored = graph.element_type(source(node, 0)) or stored
    return Quantizer(
        node=node,
        quantizes=quantizes,
        on_constant=graph.is_constant(source(node, 0)),
        stored=stored,
        scale=graph.values(source(node, 1)) if "FLOAT" in graph.element_type(source(node, 1)) else None,
        zero=graph.values(zero) if zero else None,
        axis=integer(node, "axis", 1),
        block=integer(node, "block_size"),
    )


def quantizers(graph: LintGraph) -> Iterator[Quantizer]:
    """All of them, in the order of the file; a runtime's own of the same name included."""
    for node in graph.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            yield quantizer(graph, node)


def dequantized(graph: LintGraph, value: str) -> Quantizer | None:
    """The DequantizeLinear that ``value`` comes from, looked for through operators that only move values."""
    node = graph.behind(value)
    return quantizer(graph, node) if node is not None and node.op_type == "DequantizeLinear" else None


@dataclass(frozen=True)
class Weighted:
    """A Conv, ConvTranspose, Gemm or MatMul. ``data`` and ``weight``: the DequantizeLinear in front of each, None where float.

    ``constant``: whether the weight is one (two activations may be multiplied too).
    """

    node: Any
    data: Quantizer | None
    weight: Quantizer | None
    constant: bool

    @property
    def quantized(self) -> bool:
        """Whether both sides are."""
        return self.data is not None and self.weight is not None


def weighted(graph: LintGraph) -> Iterator[Weighted]:
    """All of them, in the order of the file."""
    for node in graph.nodes:
        if node.op_type in WEIGHTED and node.domain in STANDARD:
            yield Weighted(
                node,
                dequantized(graph, source(node, 0)),
                dequantized(graph, source(node, 1)),
                graph.is_constant(source(node, 1)),
            )
