"""Small networks that runtimes run as fast as they run anything: what a machine's peak is measured with.

Convolutions and matrix products of shapes that fill vector registers and stay in the cache, two in a row so that conversions at
the ends weigh little; in float, and as Q/DQ in the dialect that every CPU runtime fuses (unsigned activations, signed weights
per channel, eight bits already at the inputs). For bandwidth: vector times matrix again and again over one matrix that stays in
the cache, and the largest number of each row of a matrix that does not; both read, and write
next to nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from accel.contracts import Array

Figure = Literal["fp32_gops", "bf16_gops", "int8_gops", "cache_gb_s", "bandwidth_gb_s"]

_IN_A_ROW = 2
_CONVOLUTIONS = ((96, 14), (256, 14), (128, 28))
"""Channels and sides: which is fastest differs with runtime and precision."""

_PRODUCTS = ((256, 256), (512, 512))
"""Rows and widths."""

_OVER_AND_OVER = 64
_CACHED_BYTES = 1 << 19
"""Of each thread: in the second level of most CPUs, in the third of all."""

_COLUMNS = 4096
_PARTS = 8
"""Of what is read from memory: one inference reads one part, too short for the system to give the core to others meanwhile."""

_OPSET, _IR = 18, 9


@dataclass(frozen=True)
class Network:
    """``amount``: operations (a multiply-add is two), or bytes, of one inference.

    ``write``: makes the file, and gives the inputs that are fed in turn.
    """

    figure: Figure
    what: str
    amount: int
    write: Callable[[Path], tuple[Array, ...]]


def networks(threads: int, memory_bytes: int) -> tuple[Network, ...]:
    """``memory_bytes``: of what is read from memory, far above any cache. The work is ``threads`` times that of one thread."""
    side = isqrt(_CACHED_BYTES * threads // 4)
    tall = max(1, memory_bytes // (4 * _COLUMNS * _PARTS))
    figures: tuple[Figure, ...] = ("fp32_gops", "bf16_gops", "int8_gops")
    found: list[Network] = []
    for figure in figures:
        quantized = figure == "int8_gops"
        for channels, pixels in _CONVOLUTIONS:
            shape = (threads, channels, pixels, pixels)
            amount = 2 * _IN_A_ROW * math.prod(shape) * channels * 9
            what = f"Conv 3x3 of {'x'.join(map(str, shape))}"
            found.append(Network(figure, what, amount, partial(_convolutions, shape, quantized)))
        for rows, width in _PRODUCTS:
            matrix = (rows * threads, width)
            amount = 2 * _IN_A_ROW * math.prod(matrix) * width
            found.append(Network(figure, f"MatMul {matrix[0]}x{width}x{width}", amount, partial(_products, matrix, quantized)))
    over = f"vector by matrix of {4 * side * side >> 10} KiB"
    found.append(Network("cache_gb_s", over, _OVER_AND_OVER * 4 * side * side, partial(_vector_by_matrix, side)))
    largest = f"ReduceMax over {4 * tall * _COLUMNS * _PARTS >> 20} MiB"
    found.append(Network("bandwidth_gb_s", largest, 4 * tall * _COLUMNS, partial(_largest, tall)))
    return tuple(found)


def _convolutions(shape: tuple[int, ...], quantized: bool, path: Path) -> tuple[Array, ...]:
    return _in_a_row(path, "Conv", shape, (shape[1], shape[1], 3, 3), quantized=quantized, pads=[1, 1, 1, 1])


def _products(shape: tuple[int, ...], quantized: bool, path: Path) -> tuple[Array, ...]:
    return _in_a_row(path, "MatMul", shape, (shape[1], shape[1]), quantized=quantized)


def _in_a_row(
    path: Path, operator: str, shape: tuple[int, ...], weight: tuple[int, ...], *, quantized: bool, **attributes: Any
) -> tuple[Array, ...]:
    """One operator after another; values are drawn so that neither overflow nor denormal numbers come up."""
    import numpy as np
    from onnx import helper

    values = np.random.default_rng(0)
    axis = 0 if operator == "Conv" else 1
    integers = values.integers(-127, 128, weight).astype(np.int8)
    constants: dict[str, Any] = {}
    nodes = []
    last = "x"
    if quantized:
        constants = {"scale": np.float32(0.02), "zero": np.uint8(128)}
        constants |= {"w_scale": np.full(weight[axis], 1e-3, np.float32), "w_zero": np.zeros(weight[axis], np.int8)}
    for index in range(_IN_A_ROW):
        data, by, made = last, f"w{index}", f"y{index}"
        constants[by] = integers if quantized else integers.astype(np.float32) * np.float32(1e-3)
        if quantized:
            nodes.append(helper.make_node("DequantizeLinear", [last, "scale", "zero"], [f"x{index}"]))
            nodes.append(helper.make_node("DequantizeLinear", [by, "w_scale", "w_zero"], [f"{by}_float"], axis=axis))
            data, by, made = f"x{index}", f"{by}_float", f"y{index}_float"
        nodes.append(helper.make_node(operator, [data, by], [made], name=f"{operator}{index}", **attributes))
        if quantized:
            nodes.append(helper.make_node("QuantizeLinear", [made, "scale", "zero"], [f"y{index}"]))
        last = f"y{index}"
    kind = np.uint8 if quantized else np.float32
    _save(path, nodes, {"x": shape}, (last, shape), constants, np.dtype(kind))
    fed: Array = values.integers(100, 156, shape).astype(kind) if quantized else values.random(shape, np.float32)
    return (fed,)


def _vector_by_matrix(side: int, path: Path) -> tuple[Array, ...]:
    """The matrix is an input too: runtimes would keep a copy of a constant one for each node. It is the identity."""
    import numpy as np
    from onnx import helper

    names = ["v0", *(f"v{index}" for index in range(1, _OVER_AND_OVER)), "y"]
    first = helper.make_node("Gather", ["x", "row"], ["v0"], axis=0)
    steps = [helper.make_node("MatMul", [one, "x"], [other]) for one, other in pairwise(names)]
    _save(path, [first, *steps], {"x": (side, side)}, ("y", (1, side)), {"row": np.array([0])}, np.dtype(np.float32))
    return (np.eye(side, dtype=np.float32),)


def _largest(rows: int, path: Path) -> tuple[Array, ...]:
    import numpy as np
    from onnx import helper

    node = helper.make_node("ReduceMax", ["x", "axes"], ["y"], keepdims=0)
    _save(path, [node], {"x": (rows, _COLUMNS)}, ("y", (rows,)), {"axes": np.array([1])}, np.dtype(np.float32))
    return tuple(np.ones((_PARTS, rows, _COLUMNS), np.float32))


def _save(
    path: Path,
    nodes: list[Any],
    inputs: Mapping[str, tuple[int, ...]],
    output: tuple[str, tuple[int, ...]],
    constants: Mapping[str, Any],
    dtype: Any,
) -> None:
    import numpy as np
    import onnx
    from onnx import helper, numpy_helper

    kind = helper.np_dtype_to_tensor_dtype(dtype)
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(output[0], kind, output[1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR), path)
