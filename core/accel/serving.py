"""A runner in a child process: one compiled model that is timed and scored on request."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog, stages
from accel.accelerate.inputs import check_inputs
from accel.benchmarks.turns import time_turn
from accel.contracts import Backend, Runner, TimedOnDevice
from accel.errors import MissingBackend
from accel.feeding import in_float16
from accel.imports import ImportPolicy
from accel.model import Model, OnnxModel, Target
from accel.onnx_file import read
from accel.rebuilding import Sample, make_task, untouched_module
from accel.recipe.reader import from_document
from accel.recipe.settings import Recipe
from accel.steps import signature_from
from accel.worker import Emit, peak_memory_bytes

if TYPE_CHECKING:
    from accel.contracts import Array


def open_session(
    emit: Emit,
    document: Mapping[str, Any] | None,
    path: str,
    allowed: Sequence[str],
    target: Mapping[str, Any],
    model: Mapping[str, Any],
    folder: str,
    sample: Mapping[str, Any],
) -> Session:
    """Entry point of the child process; arguments are JSON.

    ``model``: ``{"kind": "onnx", "path": ..., "signature": ...}`` (without a signature: the file's own) or
    ``{"kind": "torch"}`` for the recipe's untouched module, with a ``folder`` for the one that was saved there.
    ``folder``: for what the session writes; ``sample``: the fields of a Sample.
    """
    recipe = None if document is None else from_document(document, path=Path(path))
    policy = ImportPolicy(Path(path).parent if recipe is None else recipe.folder, tuple(allowed))
    return Session(emit, recipe, policy, Target(**target), model, Path(folder), Sample(**sample))


class Session:
    """Every public method takes and gives JSON; arrays are left in ``folder``."""

    def __init__(
        self,
        emit: Emit,
        recipe: Recipe | None,
        policy: ImportPolicy,
        target: Target,
        model: Mapping[str, Any],
        folder: Path,
        sample: Sample,
    ) -> None:
        self._emit = emit
        self._recipe = recipe
        self._policy = policy
        self._target = target
        self._described = model
        self._folder = folder
        self._sample = sample
        self._runner: Runner | None = None
        self._inputs: dict[str, Array] = {}

    def compile(self) -> dict[str, Any]:
        """Compile, and run once: seconds, milliseconds, the peak memory of this process up to here, and what was fed."""
        backend: Backend = catalog.backend(self._target.backend)
        model = self._model()
        self._inputs = self._sample.inputs(model.signature.inputs)
        check_inputs(model.signature, self._inputs)  # some runtimes cast what does not fit without a word
        reason = backend.unavailable(self._target.device)  # imports the runtime: not part of what compiling costs
        if reason is not None:
            raise MissingBackend(reason)
        self._emit({"doing": f"compiling for {self._target.backend}"})
        started = time.perf_counter()
        self._runner = backend.compile(model, self._target, self._folder)
        compiled = time.perf_counter()
        self._runner(self._inputs)
        first = time.perf_counter()
        return {
            "compile_s": compiled - started,
            "first_inference_ms": (first - compiled) * 1e3,
            "peak_memory_bytes": peak_memory_bytes(),
            "inputs": {name: f"{array.dtype} {list(array.shape)}" for name, array in self._inputs.items()},
        }

    def precision(self) -> dict[str, Any]:
        """What was executed, from the runtime's own graph."""
        return asdict(self._ready.executed_precision())

    def on_device(self, queries: int) -> dict[str, Any] | None:
        """Median milliseconds on the accelerator alone, and notes; None for a runner without one."""
        runner = self._ready
        if not isinstance(runner, TimedOnDevice):
            return None
        taken, notes = runner.on_device(self._inputs, queries)
        return {"p50_ms": statistics.median(taken), "queries": len(taken), "notes": list(notes)}

    def score(self) -> dict[str, Any]:
        """Metrics over validation; outputs and per-sample values stay in the session's folder as .npy."""
        import numpy as np

        if self._recipe is None:
            return {"metrics": {}, "outputs": None, "warnings": []}
        task = make_task(self._recipe, self._policy)
        if task is None or not task.has("validation"):
            return {"metrics": {}, "outputs": None, "warnings": []}
        self._emit({"doing": "scoring the validation data"})
        kept: list[list[Array]] = []
        total = task.count("validation")

        def predict(inputs: Mapping[str, Array]) -> Sequence[Array]:
            outputs = self._in_batches(inputs)
            kept.append(outputs)
            self._emit({"done": sum(len(part[0]) for part in kept), "total": total, "what": "samples scored"})
            return outputs

        metrics: dict[str, dict[str, Any]] = {}
        for name, score in task.score(predict, "validation").items():
            file = None
            if score.per_sample is not None:
                file = str(self._folder / f"{len(metrics)}.metric.npy")
                np.save(file, score.per_sample)
            metrics[name] = {"value": score.value, "per_sample": file, "higher_is_better": score.higher_is_better}
        files = []
        for index, parts in enumerate(zip(*kept, strict=True)):
            files.append(str(self._folder / f"{index}.output.npy"))
            np.save(files[-1], np.concatenate(parts)[:total])  # a fixed batch is filled up with repeats at the end
        first = kept[0][0]
        classes = int(first.shape[1]) if first.ndim == 2 else 0
        return {
            "metrics": metrics,
            "outputs": files,
            "samples": total,
            "classes": classes,
            "warnings": list(task.warnings),
        }

    def _in_batches(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs for any number of samples, also where the runner takes a fixed one: what is scored is what is timed."""
        import numpy as np

        runner, size = self._ready, self._target.batch
        inputs = in_float16(inputs, runner.signature.inputs)
        samples = len(next(iter(inputs.values())))
        if size is None:
            return [np.array(output, copy=True) for output in runner(inputs)]
        parts: list[list[Array]] = []
        for first in range(0, samples, size):
            real = min(size, samples - first)
            piece = {name: np.resize(array[first : first + real], (size, *array.shape[1:])) for name, array in inputs.items()}
            parts.append([np.array(output[:real], copy=True) for output in runner(piece)])
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def warm_up(self, queries: int) -> None:
        """Run ``queries`` inferences that nobody times."""
        runner = self._ready
        for _ in range(queries):
            runner(self._inputs)

    def turn(self, duration_s: float, min_queries: int) -> list[int]:
        """One turn of the interleaved comparison: nanoseconds of each inference."""
        runner, inputs = self._ready, self._inputs
        return time_turn(lambda: runner(inputs), duration_s=duration_s, min_queries=min_queries)

    @property
    def _ready(self) -> Runner:
        if self._runner is None:
            raise RuntimeError("compile() comes first")
        return self._runner

    def _model(self) -> Model:
        if self._described["kind"] == "onnx":
            path, signature = Path(self._described["path"]), self._described.get("signature")
            return read(path) if signature is None else OnnxModel(path=path, signature=signature_from(signature))
        if self._recipe is None:
            raise RuntimeError("a torch model needs its recipe")
        self._emit({"doing": "building the torch model"})
        if "folder" in self._described:
            return stages.read(Path(self._described["folder"]), self._described, self._policy, self._recipe.seed)
        return untouched_module(self._recipe, self._policy)
