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
from accel.compress.output_likeness import LIKENESS, Compared, Remembered, answers_of, has_answers
from accel.contracts import Compiled, Job, Predict, Task
from accel.errors import DataFault, PassFault
from accel.model import OnnxModel

Array = NDArray[Any]

RANKING_SAMPLES = 64
"""Layers are ranked on at least so many samples, in whole batches: SQNR is a mean over all values of an output."""


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
        self._kind = answers_of(task)
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
        kept = Remembered()
        with self._compiled(self._model) as predict:
            return {"metrics": self._metrics(predict, kept, must=True), "noise": 0.0}, kept.batches

    def _whole(self, kept: Kept) -> dict[str, Any]:
        compared = self._beside(self._float[1])
        with self.file(kept) as model, self._compiled(model) as predict:
            return {"metrics": self._metrics(predict, compared, must=False), "noise": compared.noise()}

    def _few(self, kept: Kept) -> dict[str, Any]:
        compared, seen = self._beside(self._float[1]), 0
        with self.file(kept) as model, self._compiled(model) as predict:
            for given in self._batches():
                compared.append(predict(given)[0])
                seen += len(next(iter(given.values())))
                if seen >= RANKING_SAMPLES or compared.done:
                    break
        return {"metrics": {}, "noise": compared.noise()}

    def _beside(self, reference: Sequence[Array]) -> Compared:
        return Compared(reference, self._kind, "quantize: a candidate")

    def _batches(self) -> Iterator[dict[str, Array]]:
        for batch in self._task.selection() if self.split == "selection" else self._task.calibration():
            yield inputs_of(batch, self._model.signature, self.split)

    def _metrics(self, predict: Predict, outputs: Remembered | Compared, must: bool) -> dict[str, list[Any]]:
        """Name to value and whether higher is better; the first output of every batch is appended to ``outputs``.

        ``must``: whether the answers have to be numbers.
        """
        if not self._labelled:
            for given in self._batches():
                outputs.append(predict(given)[0])
            return self._with_likeness({}, outputs)
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
            if finite or must:
                raise
            return {}
        found = {
            name: [score.value if isfinite(score.value) else None, score.higher_is_better] for name, score in scores.items()
        }
        return self._with_likeness(found, outputs)

    def _with_likeness(self, metrics: dict[str, list[Any]], outputs: Remembered | Compared) -> dict[str, list[Any]]:
        """And how alike the answers are to the float model's, last. DataFault where nothing is left to judge by."""
        name = LIKENESS[self._kind]
        if isinstance(outputs, Compared):
            return {**metrics, name: [outputs.likeness(), True]}
        if outputs.batches and has_answers(outputs.batches[0], self._kind):
            return {**metrics, name: [1.0, True]}
        if metrics:
            return metrics
        shape = list(outputs.batches[0].shape) if outputs.batches else "too large to be kept"
        what = "class scores whose largest could agree" if self._kind == "classes" else "one vector for each sample"
        raise DataFault(
            f"quantize: accuracy_control: there is no metric for {self.split} data, and the model's first output "
            f"({shape}) does not hold {what}; give labels or a metric"
        )
