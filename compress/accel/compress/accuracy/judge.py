"""What a candidate is worth on the target: the task's own score on the selection data, and how far its output is from the float
model's. Answers are kept by the job's memo, so that a killed run, or one with another budget, does not ask again."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from math import inf, isfinite, log10
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accel import onnx_file
from accel.compress.accuracy.mixed_graph import MixedGraph
from accel.compress.accuracy.search import Kept
from accel.compress.data_fit import inputs_of
from accel.compress.onnx_writing import write
from accel.contracts import Compiled, Job, Predict, Task
from accel.errors import DataFault, PassFault
from accel.model import OnnxModel

Array = NDArray[Any]

AGREEMENT = "agreement"
RANKING_SAMPLES = 64
"""Layers are ranked on at least so many samples, in whole batches: SQNR is a mean over all values of an output."""

REMEMBERED = 1 << 24
"""At most this many output values of the float model are kept for comparison; samples beyond them do not count for SQNR."""


@dataclass(frozen=True)
class Scored:
    """``value``: of the metric; ``sqnr_db``: of the first output, infinite where it is the same. None where they are no
    numbers; ``failed``: why the candidate cannot be run."""

    value: float | None
    sqnr_db: float | None
    failed: str | None = None


class Judge:
    """``model`` in floating point, ``quantized`` as the engine wrote it, ``graph`` between them; ``folder``: for candidates.

    Raises DataFault without data to choose by.
    """

    def __init__(
        self, model: OnnxModel, quantized: OnnxModel, graph: MixedGraph, job: Job, compiled: Compiled, folder: Path
    ) -> None:
        task = job.task
        if task is None or not (task.has("selection") or task.has("calibration")):
            raise DataFault(
                "quantize: accuracy_control chooses layers by what they cost on data, and there is none to choose by; set "
                "data.selection, data.training or data.calibration"
            )
        self._model = model
        self._quantized = quantized
        self._graph = graph
        self._job = job
        self._task: Task = task
        self._compiled = compiled
        self._folder = folder
        self.split: Literal["selection", "calibration"] = "selection" if task.has("selection") else "calibration"
        first = next(iter(task.selection()), None) if self.split == "selection" else None
        self._labelled = first is not None and first.labels is not None
        probe = job.probe
        self._identity = {
            "what": "accuracy of a quantized model",
            "version": 1,
            "model": onnx_file.digest(model.path),
            "quantized": onnx_file.digest(quantized.path),
            "split": self.split,
            "data": task.digest(self.split),
            "probe": None if probe is None else dict(probe.identity),
        }
        self.metric = ""
        self.higher_is_better = True
        self.reference = 0.0

    def choose_metric(self, wanted: str | None) -> None:
        """Score the float model, and take the metric called ``wanted``, or the first, as what is judged by.

        PassFault where there is no such metric, or the float model has no number for it.
        """
        found = self._job.memo({**self._identity, "float": "everything"}, lambda: self._float[0])
        metrics: dict[str, list[Any]] = found["metrics"]
        self.metric = next(iter(metrics)) if wanted is None else wanted
        if self.metric not in metrics:
            why = "" if self._labelled else f", since data.{self.split} has no labels"
            raise PassFault(
                f"quantize: accuracy_control.metric: no metric is called {self.metric!r} here; allowed: {', '.join(metrics)}"
                f"{why}"
            )
        value, self.higher_is_better = metrics[self.metric]
        if value is None:
            raise PassFault("quantize: accuracy_control: the float model's own outputs are no numbers; check it and its data")
        self.reference = value

    def score(self, kept: Kept) -> Scored:
        """The candidate with the layers ``kept`` in floating point, over the whole split."""
        return self._asked(kept, {}, lambda: self._whole(kept))

    def alone(self, layer: str) -> Scored:
        """The network with nothing but ``layer`` in INT8, on a few samples: no metric."""
        kept = frozenset(each.name for each in self._graph.layers if each.name != layer)
        return self._asked(kept, {"samples": RANKING_SAMPLES}, lambda: self._few(kept))

    def loss(self, value: float | None) -> float | None:
        """How much worse than the float model, in the metric's unit."""
        return None if value is None else (self.reference - value) * (1.0 if self.higher_is_better else -1.0)

    @contextmanager
    def file(self, kept: Kept) -> Iterator[OnnxModel]:
        """The candidate as a file, for the time of a block."""
        if not kept:
            yield self._quantized
            return
        place = Path(tempfile.mkdtemp(dir=self._folder, prefix="candidate-"))
        try:
            write(self._graph.with_float(kept), place / "model.onnx")
            yield OnnxModel(path=place / "model.onnx", signature=self._model.signature)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _asked(self, kept: Kept, more: Mapping[str, Any], compute: Any) -> Scored:
        try:
            found = self._job.memo({**self._identity, **more, "float": sorted(kept)}, compute)
        except PassFault as fault:
            return Scored(None, None, str(fault))
        value = found["metrics"].get(self.metric, [None])[0]
        noise = found["noise"]
        return Scored(value, None if noise is None else inf if noise == 0 else -10 * log10(noise))

    # -- runs -----------------------------------------------------------------------------------------------------------

    @cached_property
    def _float(self) -> tuple[dict[str, Any], list[Array]]:
        """Metrics of the float model, and its first output batch by batch, as far as memory is meant for it."""
        kept = _Kept()
        with self._compiled(self._model) as predict:
            return {"metrics": self._metrics(predict, kept, "the float model"), "noise": 0.0}, kept.batches

    def _whole(self, kept: Kept) -> dict[str, Any]:
        compared = _Compared(self._float[1])
        with self.file(kept) as model, self._compiled(model) as predict:
            return {"metrics": self._metrics(predict, compared, None), "noise": compared.noise()}

    def _few(self, kept: Kept) -> dict[str, Any]:
        reference, seen = self._float[1], 0
        compared = _Compared(reference)
        with self.file(kept) as model, self._compiled(model) as predict:
            for given in self._batches():
                compared.append(predict(given)[0])
                seen += len(next(iter(given.values())))
                if seen >= RANKING_SAMPLES or compared.done:
                    break
        return {"metrics": {}, "noise": compared.noise()}

    def _batches(self) -> Iterator[dict[str, Array]]:
        for batch in self._task.selection() if self.split == "selection" else self._task.calibration():
            yield inputs_of(batch, self._model.signature, self.split)

    def _metrics(self, predict: Predict, outputs: _Kept | _Compared, must: str | None) -> dict[str, list[Any]]:
        """Name to value and whether higher is better; the first output of every batch is appended to ``outputs``.

        ``must``: whose answers have to be numbers.
        """
        if not self._labelled:
            for given in self._batches():
                outputs.append(predict(given)[0])
            return {AGREEMENT: [outputs.agreement(), True]}
        finite = True

        def noted(given: Mapping[str, Array]) -> Sequence[Array]:
            nonlocal finite
            found = predict(given)
            finite = finite and all(bool(np.isfinite(each).all()) for each in found if each.dtype.kind == "f")
            outputs.append(found[0])
            return found

        try:
            scores = self._task.score(noted, "selection")
        except DataFault:  # a task may refuse to judge what is no number: such a candidate is worth nothing
            if finite or must is not None:
                raise
            return {}
        if not scores:
            raise DataFault("selection: the task has no metric to judge by")
        return {
            name: [score.value if isfinite(score.value) else None, score.higher_is_better] for name, score in scores.items()
        }


class _Kept:
    """The float model's first output, batch by batch."""

    def __init__(self) -> None:
        self.batches: list[Array] = []
        self._held = 0

    def append(self, output: Array) -> None:
        self._held += output.size
        if self._held <= REMEMBERED:
            self.batches.append(np.array(output))

    def agreement(self) -> float:
        """With itself. DataFault where an output names no class, so that nothing can agree."""
        if self.batches and not _has_classes(self.batches[0]):
            raise DataFault(
                "quantize: accuracy_control: the selection data have no labels, and the model's first output "
                f"({list(self.batches[0].shape)}) holds no class scores whose largest could agree; give labels or a metric"
            )
        return 1.0


class _Compared:
    """A first output batch by batch, beside what the float model gave."""

    def __init__(self, reference: Sequence[Array]) -> None:
        self._reference = reference
        self._batch = self._same = self._count = 0
        self._signal = self._error = 0.0

    @property
    def done(self) -> bool:
        return self._batch >= len(self._reference)

    def append(self, output: Array) -> None:
        if self.done:
            return
        wanted = self._reference[self._batch]
        self._batch += 1
        if wanted.shape != output.shape:
            raise PassFault(f"quantize: a candidate gives {list(output.shape)} instead of {list(wanted.shape)}")
        exact = wanted.astype(np.float64)
        self._signal += float((exact**2).sum())
        self._error += float(((exact - output) ** 2).sum())
        if _has_classes(wanted):
            same = wanted.argmax(1) == output.argmax(1)
            self._same += int(same.sum())
            self._count += same.size

    def noise(self) -> float | None:
        """Squared error over squared output; None where it is no number."""
        if self._error == 0:
            return 0.0
        return self._error / self._signal if self._signal and isfinite(self._error) else None

    def agreement(self) -> float | None:
        """The part of the answers (largest along the second axis) that are the float model's."""
        return self._same / self._count if self._count and isfinite(self._error) else None


def _has_classes(output: Array) -> bool:
    return output.ndim > 1 and output.shape[1] > 1
