"""What rounding to 16 bits does to each node, measured on calibration data.

One file is written that computes the model in FP32 and, beside it, every node a second time from inputs that were rounded; its
only output are sums over the tensors, so that memory does not grow with the samples, and any runtime can do the work. Rounding
is a Cast there and back. Operators are taken to compute in FP32 inside and to round what they read and write, as ONNX Runtime
and OpenVINO do on a CPU and tensor cores with FP32 accumulators on a GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.calibration_data import Arrays, Samples
from accel.compress.casting.types import LowType, Ports
from accel.compress.onnx_writing import write
from accel.compress.same_outputs import batch_axis, run
from accel.contracts import Job

BATCH = 4
"""Samples in one run, where the model takes any number: what lies in memory is their activations."""
_SUMS = "sums"


@dataclass(frozen=True)
class Range:
    """``largest``: magnitude of a finite value. ``faint``: share of the values that are not zero which are
    below the smallest normal number of the type. ``loss``: what rounding changes in it, relative (L2), where that was measured.
    ``vanishes``: a value of a constant rounds to zero."""

    largest: float
    faint: float
    loss: float = 0.0
    vanishes: bool = False


@dataclass(frozen=True)
class Trial:
    """The node at place ``node`` computed once more: from ``region``, places in the order of the graph that end in it, with
    the tensors ``rounded`` rounded before they are read there. With no region, the tensors themselves are what is compared."""

    node: int
    region: tuple[int, ...]
    rounded: frozenset[str]


def in_batches(samples: Samples) -> Iterator[Arrays]:
    """The samples, BATCH at a time where the model takes any number and they are of one shape."""
    signature = samples.signature
    axis = batch_axis(signature)
    joins = samples.group == 1 and axis is not None and all(spec.shape[:1] == (axis,) for spec in signature.inputs)
    pending: list[Arrays] = []
    for sample in samples:
        shapes = [array.shape for array in sample.values()]
        if pending and (len(pending) == BATCH or not joins or shapes != [array.shape for array in pending[0].values()]):
            yield _joined(pending)
            pending = []
        pending.append(sample)
    if pending:
        yield _joined(pending)


def _joined(samples: list[Arrays]) -> Arrays:
    return samples[0] if len(samples) == 1 else {name: np.concatenate([one[name] for one in samples]) for name in samples[0]}


def range_of(values: NDArray[Any], low: LowType) -> Range:
    """Of a constant."""
    magnitudes = np.abs(values[np.isfinite(values)])
    nonzero = np.count_nonzero(magnitudes)
    if not nonzero:
        return Range(0.0, 0.0)
    faint = nonzero - np.count_nonzero(magnitudes >= low.smallest)
    rounded = low.rounded(magnitudes)
    change = magnitudes - rounded.astype(np.float32)
    largest = magnitudes.max()
    loss = float(np.linalg.norm(change / largest) / np.linalg.norm(magnitudes / largest))
    return Range(float(largest), faint / nonzero, loss, bool(np.count_nonzero(rounded) < nonzero))


def measure(
    model: onnx.ModelProto,
    low: LowType,
    ports: Mapping[int, Ports],
    tensors: Sequence[str],
    trials: Sequence[Trial],
    samples: Samples,
    job: Job,
    what: str,
) -> tuple[dict[str, Range], list[float]]:
    """The range of each of ``tensors``, and for each trial ``|changed - exact| / |exact|`` (L2) of all that its node makes in
    FP32, in the worst batch: infinite where it is not finite. ``ports`` says which inputs and outputs of a node count.

    ``job`` must run files on what rounds (``casting.check.rounds``).
    """
    graph = _Graph(model, low, ports)
    ranges = {name: graph.range_sums(name) for name in tensors}
    errors = [graph.error_sums(trial) for trial in trials]
    batches = -(-len(samples) // BATCH)
    found = []
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        path = Path(folder) / "model.onnx"
        write(graph.finished(), path)
        for done, batch in enumerate(in_batches(samples)):
            job.progress(done + 1, max(batches, done + 1), what)
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # where numpy evaluates it
                found.append(np.asarray(run(path, batch, job)[0], np.float64))
    table = np.stack(found)
    return (
        {name: _range(table, places) for name, places in ranges.items()},
        [max((_error(table, exact, changed) for exact, changed in pairs), default=0.0) for pairs in errors],
    )


def _range(table: NDArray[np.float64], places: tuple[int, int, int]) -> Range:
    largest, nonzero, normal = (table[:, place] for place in places)
    return Range(float(largest.max()), 1.0 - float(normal.sum() / nonzero.sum()) if nonzero.sum() else 0.0)


def _error(table: NDArray[np.float64], exact: int, changed: int) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.sqrt(table[:, changed] / table[:, exact])
    errors[table[:, changed] == 0] = 0.0  # also where it makes nothing but zeros
    return float(np.nan_to_num(errors, nan=np.inf, posinf=np.inf).max())


class _Graph:
    """The model, growing sums at its end."""

    def __init__(self, model: onnx.ModelProto, low: LowType, ports: Mapping[int, Ports]) -> None:
        self._model = onnx.ModelProto()
        self._model.CopyFrom(model)
        self._graph = self._model.graph
        self._nodes = list(model.graph.node)
        self._low = low
        self._ports = ports
        self._sums: list[str] = []
        self._finite: dict[str, tuple[str, str]] = {}
        self._rounded: dict[str, str] = {}
        self._count = 0
        self._constant("zero", np.float32(0.0))
        self._constant("least", np.float32(1e-37))
        self._constant("smallest", np.float32(low.smallest))
        self._constant("one_long", np.array([1], np.int64))

    def range_sums(self, name: str) -> tuple[int, int, int]:
        """Places of the largest magnitude, and of how many values are not zero and how many of those are normal numbers."""
        magnitude = self._add("Abs", self._finite_of(name)[0])
        nonzero = self._number_of(self._add("Greater", magnitude, self._own("zero")))
        normal = self._number_of(self._add("GreaterOrEqual", magnitude, self._own("smallest")))
        return self._sum(self._add("ReduceMax", magnitude, keepdims=0)), nonzero, normal

    def error_sums(self, trial: Trial) -> list[tuple[int, int]]:
        """For each output of the trial's node, places of the sums of squares of the exact values and of the change."""
        if not trial.region:
            return [self._difference(name, self._round(name)) for name in sorted(trial.rounded)]
        made: dict[str, str] = {}
        for place in trial.region:
            copy = onnx.NodeProto()
            copy.CopyFrom(self._nodes[place])
            counted = self._ports[place].inputs if place in self._ports else ()
            for index, name in enumerate(copy.input):
                if name in made:
                    copy.input[index] = made[name]
                elif index in counted and name in trial.rounded:
                    copy.input[index] = self._round(name)
            for index, name in enumerate(copy.output):
                if name:
                    made[name] = copy.output[index] = self._fresh()
            copy.name = self._fresh()
            self._graph.node.append(copy)
        return [self._difference(name, made[name]) for name in self._outputs(trial.node)]

    def finished(self) -> onnx.ModelProto:
        """The model with its sums for its only output."""
        self._graph.node.append(helper.make_node("Concat", self._sums, [self._own(_SUMS)], axis=0))
        del self._graph.output[:]
        self._graph.output.append(helper.make_tensor_value_info(self._own(_SUMS), TensorProto.FLOAT, [len(self._sums)]))
        del self._graph.value_info[:]
        return self._model

    def _outputs(self, place: int) -> list[str]:
        node = self._nodes[place]
        return [node.output[index] for index in self._ports[place].outputs]

    def _difference(self, exact: str, changed: str) -> tuple[int, int]:
        """Both divided by the largest exact value before they are squared, lest the squares overflow."""
        finite, infinite = self._finite_of(exact)
        largest = self._add("ReduceMax", self._add("Abs", finite), keepdims=0)
        scale = self._add("Max", largest, self._own("least"))
        change = self._add("Where", infinite, self._own("zero"), self._add("Sub", changed, finite))
        return tuple(  # type: ignore[return-value]
            self._sum(self._add("ReduceSumSquare", self._add("Div", part, scale), keepdims=0)) for part in (finite, change)
        )

    def _finite_of(self, name: str) -> tuple[str, str]:
        """The tensor with 0 where it is infinite (a mask of 0 and -inf is so in any type), and where that is."""
        if name not in self._finite:
            infinite = self._add("IsInf", name)
            self._finite[name] = self._add("Where", infinite, self._own("zero"), name), infinite
        return self._finite[name]

    def _round(self, name: str) -> str:
        if name not in self._rounded:
            halved = self._add("Cast", name, to=self._low.code)
            self._rounded[name] = self._add("Cast", halved, to=TensorProto.FLOAT)
        return self._rounded[name]

    def _number_of(self, flags: str) -> int:
        return self._sum(self._add("ReduceSum", self._add("Cast", flags, to=TensorProto.FLOAT), keepdims=0))

    def _sum(self, scalar: str) -> int:
        self._sums.append(self._add("Reshape", scalar, self._own("one_long")))
        return len(self._sums) - 1

    def _add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        made = self._fresh()
        self._graph.node.append(helper.make_node(kind, inputs, [made], name=made, **attributes))
        return made

    def _fresh(self) -> str:
        self._count += 1
        return self._own(str(self._count))

    def _constant(self, name: str, value: Any) -> None:
        self._graph.initializer.append(numpy_helper.from_array(np.asarray(value), self._own(name)))

    def _own(self, name: str) -> str:
        """A name that no exporter gives."""
        return f"accel:measuring:{name}"
