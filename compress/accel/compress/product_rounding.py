"""The matrices of a graph's products as integers in groups, one after the other, in memory that is bounded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from accel.compress.calibration_data import Samples
from accel.compress.qdq_onnxruntime import input_products
from accel.compress.weight_rounding import Floats, Grouped, by_gptq, to_nearest
from accel.contracts import Job
from accel.errors import DataFault

MOST_INPUTS = 8192
"""Above this, GPTQ's matrix of products would take more than half a gigabyte; the layer is rounded to the nearest."""

MOST_BYTES = 1 << 30
"""Of such matrices at one time; for more, the samples are read again."""


def rounded(
    model: onnx.ModelProto,
    names: Sequence[str],
    *,
    size: int,
    bits: int,
    symmetric: bool,
    samples: Samples | None,
    job: Job,
) -> Iterator[tuple[str, Grouped]]:
    """Each MatMul in ``names`` with its matrix in integers: by GPTQ over ``samples``, to the nearest where there are none."""
    wanted = set(names)
    weights = {weight.name: weight for weight in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.name in wanted]

    def matrix(node: onnx.NodeProto) -> Floats:
        return np.asarray(onnx.numpy_helper.to_array(weights[node.input[1]]), np.float32)

    widths = {node.input[0]: int(weights[node.input[1]].dims[0]) for node in nodes}
    watched = [] if samples is None else [value for value, width in widths.items() if width <= MOST_INPUTS]
    for node in nodes:
        if node.input[0] not in watched:
            yield node.name, to_nearest(matrix(node), size, bits, symmetric)
    for values in chunks(watched, widths):
        assert samples is not None
        with tempfile.TemporaryDirectory(dir=job.folder) as folder:
            sums = input_products(model, values, samples, Path(folder), job)
        for value, total in sums.items():
            if not np.isfinite(total).all():
                raise DataFault(f"calibration data: {value} of the model becomes NaN or infinite on it; gptq needs numbers")
        for node in nodes:
            if node.input[0] in sums:
                yield node.name, by_gptq(matrix(node), sums[node.input[0]], size, bits, symmetric)


def chunks(values: Sequence[str], widths: Mapping[str, int]) -> list[list[str]]:
    """``values`` in order, so many together that their matrices of products stay within MOST_BYTES, and at least one."""
    found: list[list[str]] = []
    total = 0
    for value in values:
        needed = widths[value] ** 2 * 8
        if not found or total + needed > MOST_BYTES:
            found.append([])
            total = 0
        found[-1].append(value)
        total += needed
    return found
