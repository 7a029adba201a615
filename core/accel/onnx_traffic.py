"""How much each kernel of an ONNX graph computes and moves at the very least: what a roofline is drawn from.

Operators are put together as the best of runtimes does: an elementwise operator, a batch norm or a QuantizeLinear runs in the
kernel that makes the last of its inputs; whatever only renames, reshapes, slices or dequantizes is read through and costs
nothing; what follows from constants alone is computed once, before the first inference. A kernel then reads what others make
and what is constant, and writes what others read. No runtime can move less without joining two operators of multiply-adds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from accel.onnx_graph import (
    INTEGER_OPERATORS,
    UNCOUNTED,
    WEIGHTED_OPERATORS,
    Tensor,
    constant_tensors,
    dtype_name,
    label,
    macs,
    tensors,
)

_SEEN_THROUGH = frozenset(
    {
        "DequantizeLinear", "Identity", "Dropout", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Expand", "Cast",
        "CastLike", "Slice", "Split", "Pad", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
_ELEMENTWISE = frozenset(
    {
        "QuantizeLinear", "BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Gelu",
        "QuickGelu", "BiasGelu", "FastGelu", "Swish", "Sigmoid", "HardSigmoid", "HardSwish", "Mish", "Softplus", "Softsign",
        "Tanh", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Sign", "Floor", "Ceil", "Round", "Reciprocal", "Clip", "Add", "Sub",
        "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Mean", "Where", "Equal", "Less", "LessOrEqual", "Greater",
        "GreaterOrEqual", "Not", "And", "Or", "Xor", "IsNaN", "IsInf", "QLinearAdd", "QLinearMul", "QLinearSigmoid",
        "QLinearLeakyRelu", "DynamicQuantizeLinear",
    }
)  # fmt: skip
_SHAPES = frozenset({"Shape", "Size", "ConstantOfShape", "Range"})
_ROWS_ONLY = frozenset({"Gather", "GatherElements", "GatherND"})
_EIGHT_BITS = frozenset({"int8", "uint8"})
_FLOATS = frozenset({"float32", "float16", "bfloat16", "float64"})


@dataclass
class Amount:
    """Numbers that move: in float; in eight bits where INT8 is what runs, else in float too; and bytes of anything else."""

    floats: int = 0
    quantized: int = 0
    fixed_bytes: int = 0

    def bytes(self, float_bytes: int, quantized_bytes: int) -> int:
        """``float_bytes``: what a float takes where it runs; ``quantized_bytes``: what a quantized number takes there."""
        return self.floats * float_bytes + self.quantized * quantized_bytes + self.fixed_bytes


@dataclass
class Kernel:
    """One operator and the elementwise ones that run with it. ``nodes``: what they are called, the operator first.

    ``quantized``: it multiplies integers by integers. ``weights``: what is the same in every inference.
    """

    operator: str
    nodes: list[str]
    macs: int = 0
    quantized: bool = False
    weights: Amount = field(default_factory=Amount)
    activations: Amount = field(default_factory=Amount)


@dataclass(frozen=True)
class Traffic:
    """All kernels in the file's order. ``uncounted``: operator types of which multiply-adds or shapes are not known."""

    kernels: tuple[Kernel, ...]
    uncounted: tuple[str, ...] = ()

    @property
    def macs(self) -> int:
        return sum(kernel.macs for kernel in self.kernels)


def traffic(proto: Any, sizes: Mapping[str, int] | None = None) -> Traffic:
    """Of one inference of a ModelProto. ``sizes``: of the axes that may vary, by name; a first axis not given counts as 1."""
    from onnx import inliner

    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    return _Reading(proto, sizes).traffic()


class _Reading:
    """The graph's tensors, and which kernel makes each."""

    def __init__(self, proto: Any, sizes: Mapping[str, int] | None) -> None:
        self._graph = proto.graph
        self._macs = macs(proto, sizes)
        self._known = tensors(proto, sizes)
        stored = constant_tensors(proto.graph)
        self._known |= {name: Tensor(tuple(tensor.dims), tensor.data_type) for name, tensor in stored.items()}
        self._constant = set(stored)
        self._through: dict[str, str] = {}  # a tensor to the one it is read from
        self._maker: dict[str, int] = {}  # a tensor to its kernel
        self._wanted: set[str] = set()  # tensors that are written, whatever reads them
        self._kernels: list[Kernel] = []
        self._reads: list[dict[str, str]] = []  # of each kernel: what it reads from, and the tensor as it reads it
        self._uncounted: dict[str, None] = {}

    def traffic(self) -> Traffic:
        for node in self._graph.node:
            self._place(node)
        self._wanted.update(self._root(value.name) for value in self._graph.output)
        for at, kernel in enumerate(self._kernels):
            for root, name in self._reads[at].items():
                self._add(kernel.weights if root in self._constant else kernel.activations, kernel, name, root)
                self._wanted.add(root)
        for root in sorted(self._wanted & self._maker.keys()):
            kernel = self._kernels[self._maker[root]]
            self._add(kernel.activations, kernel, root, root)
        return Traffic(tuple(self._kernels), tuple(self._uncounted))

    def _place(self, node: Any) -> None:
        read = [name for name in node.input if name]
        roots = [self._root(name) for name in read]
        fixed = node.op_type == "Constant" or node.op_type in _SHAPES or (bool(read) and self._constant.issuperset(roots))
        if fixed:
            self._constant.update(node.output)
        if node.op_type in _SEEN_THROUGH and read:
            self._through.update(dict.fromkeys(node.output, roots[0]))
        elif node.op_type == "Concat":  # in place: its inputs are written where it would be
            self._wanted.update(roots)
        elif not fixed:
            self._compute(node, read)

    def _compute(self, node: Any, read: Sequence[str]) -> None:
        name = label(node)
        at = max((self._maker.get(self._root(each), -1) for each in read), default=-1)
        if node.op_type in _ELEMENTWISE and at >= 0:
            self._kernels[at].nodes.append(name)
        else:
            at = len(self._kernels)
            self._kernels.append(Kernel(node.op_type, [name], self._macs.by_node.get(name, 0), self._in_integers(node)))
            self._reads.append({})
            if node.op_type in UNCOUNTED or name in self._macs.unknown:
                self._uncounted[node.op_type] = None
        for index, each in enumerate(read):
            root = self._root(each)
            if self._maker.get(root) != at:
                rows_only = node.op_type in _ROWS_ONLY and index == 0
                self._reads[at].setdefault(root, node.output[0] if rows_only else each)
        self._maker.update(dict.fromkeys(node.output, at))

    def _add(self, amount: Amount, kernel: Kernel, name: str, root: str) -> None:
        """``name``: the tensor as it is read; ``root``: what that comes from, which says the type."""
        found = [self._known[each] for each in (root, name) if each in self._known]
        if not found:
            self._uncounted[kernel.operator] = None
            return
        numbers = min(math.prod(tensor.shape) for tensor in found)
        dtype = dtype_name(found[0].data_type)
        if dtype in _EIGHT_BITS and (kernel.quantized or not kernel.macs):
            amount.quantized += numbers
        elif dtype in _FLOATS:
            amount.floats += numbers
        else:
            amount.fixed_bytes += numbers * _bits(dtype) // 8

    def _in_integers(self, node: Any) -> bool:
        if node.op_type in INTEGER_OPERATORS:
            return True
        if node.op_type not in WEIGHTED_OPERATORS or node.op_type == "MatMulNBits":
            return False
        found = [self._known.get(self._root(node.input[index])) for index in WEIGHTED_OPERATORS[node.op_type]]
        return all(tensor is not None and dtype_name(tensor.data_type) in _EIGHT_BITS for tensor in found)

    def _root(self, name: str) -> str:
        return self._through.get(name, name)


def _bits(dtype: str) -> int:
    """Of a number: the digits at the end of its type's name, as in ``int4`` and ``float8e4m3fn``."""
    found = re.search(r"\d+", dtype)
    return int(found.group()) if found else 8
