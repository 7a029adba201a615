"""How far what was cast is from what it was: as 16 bits have it, and as it runs here.

The two are not the same. ONNX Runtime (1.32) has few kernels in FP16 for a CPU: it computes in FP32 and does not round between
such nodes, so that its outputs are closer than any GPU's; and with Q/DQ in FP16 it makes biases anew, and worse.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, parser

from accel.compress.calibration_data import Samples
from accel.compress.casting.plan import Plan
from accel.compress.casting.ranges import in_batches
from accel.compress.casting.types import LowType
from accel.compress.onnx_writing import write
from accel.compress.same_outputs import Array, run
from accel.contracts import Job
from accel.errors import PassFault
from accel.model import OnnxModel

COMPARED = 4
"""Batches whose outputs are compared."""
_POOR_DB = 20.0
"""An output whose noise is a tenth of it: below, a note becomes a warning."""
_WORSE_DB, _FINE_DB = 10.0, 40.0
"""By how much a runtime may be worse than rounding alone before that is said, and from where on it never is."""


def rounds(job: Job, low: LowType) -> bool:
    """Whether what runs files here rounds in a Cast to ``low`` and back: OpenVINO (2026.4) drops such pairs of FP16."""
    graph = f"g (float[n] x) => (float[n] y) {{ a = Abs(x) h = Cast<to = {low.code}>(a) b = Cast<to = 1>(h) y = Abs(b) }}"
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {graph}')
    given = np.full(3, 1.0 / 3.0, np.float32)
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        path = Path(folder) / "model.onnx"
        write(model, path)
        return not np.array_equal(run(path, {"x": given}, job)[0], given)


def require_valid(path: Path, before: Path) -> None:
    """PassFault where onnx's checker refuses the file but not the one ``before``."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        try:
            onnx.checker.check_model(str(before), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, RuntimeError):
            return
        raise PassFault(f"cast: the file it wrote does not check: {_line(error)}; remove the pass") from error


def emulated(model: onnx.ModelProto, plan: Plan, low: LowType) -> onnx.ModelProto:
    """The FP32 model with each tensor rounded that the plan has in ``low``: what any runtime can run."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    made_low = plan.made_low()
    nodes: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}

    def rounding(source: str, made: str) -> None:
        nodes.append(helper.make_node("Cast", [source], [f"{made}:half"], to=low.code))
        nodes.append(helper.make_node("Cast", [f"{made}:half"], [made], to=TensorProto.FLOAT))

    for place, node in enumerate(copy.graph.node):
        ports = plan.ports.get(place) if place in plan.low else None
        for port in ports.inputs if ports else ():
            name = node.input[port]
            if name not in made_low and name not in rounded:
                rounded[name] = f"{name}:rounded"
                rounding(name, rounded[name])
            node.input[port] = rounded.get(name, name)
        nodes.append(node)
        for port in ports.outputs if ports else ():
            name = node.output[port]
            node.output[port] = f"{name}:exact"
            rounding(node.output[port], name)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    del copy.graph.value_info[:]
    return copy


def compared(
    model: OnnxModel, emulation: onnx.ModelProto, result: OnnxModel, samples: Samples, job: Job, rounding: Job
) -> list[str]:
    """Notes on the outputs' signal-to-noise ratios against ``model``: of ``emulation``, run by ``rounding``, and where ``job``
    runs ``result`` worse. PassFault for an output that is not finite and was."""
    names = [spec.name for spec in model.signature.outputs]
    predicted, actual = _Noise(names), _Noise(names)
    unable = ""
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        path = Path(folder) / "model.onnx"
        write(emulation, path)
        for batch in islice(in_batches(samples), COMPARED):
            exact = run(model.path, batch, job)
            with np.errstate(over="ignore", invalid="ignore"):
                predicted.add(exact, run(path, batch, rounding), len(next(iter(batch.values()))))
            if unable:
                continue
            given = {spec.name: batch[spec.name].astype(spec.dtype) for spec in result.signature.inputs}
            try:
                found = run(result.path, given, job)
            except Exception as error:  # noqa: BLE001 - a runtime without the kernels says so in an exception of its own
                unable = f"warning: what runs files here cannot run this one in 16 bits: {_line(error)}"
            else:
                actual.add(exact, found, 0)
    notes = [predicted.note(index) for index in range(len(names))]
    if unable:
        return [*notes, unable]
    for index, name in enumerate(names):
        if actual.decibels(index) < min(predicted.decibels(index) - _WORSE_DB, _FINE_DB):
            notes.append(
                f"warning: output {name}: SQNR {actual.decibels(index):.1f} dB as run here, which rounding does not explain:"
                " this runtime computes the file in another way"
            )
    return notes


class _Noise:
    """Sums of squares of each output and of its change; of one in whole numbers, how many there are and how many changed."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._signal = np.zeros(len(names))
        self._noise = np.zeros(len(names))
        self._count = 0
        self._whole: set[int] = set()

    def add(self, exact: Sequence[Array], found: Sequence[Array], count: int) -> None:
        """One batch of ``count`` samples."""
        self._count += count
        for index, (name, one, other) in enumerate(zip(self._names, exact, found, strict=True)):
            if one.shape != other.shape:  # it depends on values
                self._noise[index] = np.nan
                continue
            if one.dtype.kind != "f":
                self._whole.add(index)
                self._signal[index] += one.size
                self._noise[index] += np.count_nonzero(one != other)
                continue
            finite = np.isfinite(one)
            wanted, got = one[finite].astype(np.float64), other[finite].astype(np.float64)
            if not np.isfinite(got).all():
                raise PassFault(
                    f"cast: output {name!r} holds NaN or Inf where it held numbers; name the nodes before it in ignored_scope,"
                    " or use dtype: bf16"
                )
            self._signal[index] += float(np.square(wanted).sum())
            self._noise[index] += float(np.square(wanted - got).sum())

    def decibels(self, index: int) -> float:
        """Infinite where nothing changed, and for whole numbers; NaN where the shape did."""
        signal, noise = float(self._signal[index]), float(self._noise[index])
        if not noise or index in self._whole:
            return math.inf
        return 10 * math.log10(signal / noise) if signal else -math.inf

    def note(self, index: int) -> str:
        """What an output lost."""
        name, decibels = self._names[index], self.decibels(index)
        if math.isnan(decibels):
            return f"warning: output {name}: its shape depends on values, and is another than before"
        if not self._noise[index]:
            return f"output {name}: the same as of the file before, on {self._count} calibration samples"
        if index in self._whole:
            share = self._noise[index] / self._signal[index]
            return f"output {name}: {share:.2%} of the values are others than before, on {self._count} calibration samples"
        poor = "warning: " if decibels < _POOR_DB else ""
        return f"{poor}output {name}: SQNR {decibels:.1f} dB against the file before, on {self._count} calibration samples"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
