"""A runner in a child process: one compiled model that is timed and scored on request.

Children are started over and over to be timed, so little is imported here: the recipe is read, and what builds torch models is
imported, only by a child that needs it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog
from accel.accelerate.inputs import check_inputs
from accel.benchmarks.concurrent import run_together
from accel.benchmarks.pinning import pin
from accel.benchmarks.turns import time_turn
from accel.contracts import Backend, Concurrent, ProfilesLayers, Runner, TakesStreams, TimedOnDevice
from accel.errors import MissingBackend
from accel.feeding import in_batches
from accel.imports import ImportPolicy
from accel.model import Model, OnnxModel, Target, signature_from
from accel.timed_inputs import Sample
from accel.worker import Emit, peak_memory_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from accel.contracts import Array, RecipeTask
    from accel.recipe.settings import Recipe

_FEWEST_PROFILED = 3
_CAPACITY_S = 0.2


def open_session(
    emit: Emit,
    document: Mapping[str, Any] | None,
    path: str,
    allowed: Sequence[str],
    target: Mapping[str, Any],
    model: Mapping[str, Any],
    folder: str,
    sample: Mapping[str, Any],
    streams: int = 1,
    pinned: Sequence[int] = (),
) -> Session:
    """Entry point of the child process; arguments are JSON.

    ``model``: ``{"kind": "onnx", "path": ..., "signature": ...}`` (without a signature: the file's own) or
    ``{"kind": "torch"}`` for the recipe's untouched module, with a ``folder`` for the one that was saved there.
    ``folder``: for what the session writes; ``sample``: the fields of a Sample. ``streams``: inferences at a time. ``pinned``:
    the cores that all of it is kept on, none for any.
    """
    if pinned:
        pin(pinned)  # before a runtime is imported: some look at the cores then

    def recipe() -> Recipe | None:
        if document is None:
            return None
        from accel.recipe.reader import from_document

        return from_document(document, path=Path(path))

    policy = ImportPolicy(Path(path).parent, tuple(allowed))
    return Session(emit, recipe, policy, Target(**target), model, Path(folder), Sample(**sample), streams=streams)


class Session:
    """Every public method takes and gives JSON; arrays are left in ``folder``."""

    def __init__(
        self,
        emit: Emit,
        recipe: Callable[[], Recipe | None],
        policy: ImportPolicy,
        target: Target,
        model: Mapping[str, Any],
        folder: Path,
        sample: Sample,
        *,
        streams: int = 1,
    ) -> None:
        """``recipe``: reads it, or gives None where there is none."""
        self._emit = emit
        self._read_recipe = recipe
        self._policy = policy
        self._target = target
        self._described = model
        self._folder = folder
        self._sample = sample
        self._streams = streams
        self._runners: list[Runner] = []
        self._inputs: dict[str, Array] = {}

    def compile(self) -> dict[str, Any]:
        """Compile, and run once: seconds, milliseconds, the peak memory of this process up to here, and what was fed.

        With several streams there are as many runners, each run once, one after the other.
        """
        backend: Backend = catalog.backend(self._target.backend)
        target = self._target
        if self._streams > 1 and isinstance(backend, TakesStreams):
            target = backend.with_streams(target, self._streams)
        model = self._model()
        self._inputs = self._sample.inputs(model.signature.inputs)
        check_inputs(model.signature, self._inputs)  # some runtimes cast what does not fit without a word
        reason = backend.unavailable(self._target.device)  # imports the runtime: not part of what compiling costs
        if reason is not None:
            raise MissingBackend(reason)
        self._emit({"doing": f"compiling for {self._target.backend}"})
        started = time.perf_counter()
        runner = backend.compile(model, target, self._folder)
        compiled = time.perf_counter()
        runner(self._inputs)
        first = time.perf_counter()
        self._runners = [runner]
        while len(self._runners) < self._streams:
            # Who cannot share is compiled again: a module shares its weights all the same.
            other = runner.another() if isinstance(runner, Concurrent) else backend.compile(model, target, self._folder)
            other(self._inputs)
            self._runners.append(other)
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
        from statistics import median

        taken, notes = runner.on_device(self._inputs, queries)
        return {"p50_ms": median(taken), "queries": len(taken), "notes": list(notes)}

    def layers(self, queries: int, limit_s: float) -> dict[str, Any] | None:
        """How long each layer takes over at most ``queries`` inferences and about ``limit_s`` seconds, compiled anew for that.

        None for a backend that does not tell.
        """
        backend = catalog.backend(self._target.backend)
        if not isinstance(backend, ProfilesLayers):
            return None
        self._emit({"doing": f"profiling on {self._target.backend}"})
        began = time.perf_counter()
        self._ready(self._inputs)
        fit = int(limit_s / max(time.perf_counter() - began, 1e-6))
        fewer = max(_FEWEST_PROFILED, min(queries, fit))
        found = backend.profile(self._model(), self._target, self._inputs, queries=fewer, cache=self._folder)
        return {"layers": [asdict(layer) for layer in found.layers], "notes": list(found.notes)}

    def score(self) -> dict[str, Any]:
        """Metrics over validation; outputs, per-sample values and labels stay in the session's folder as .npy."""
        import numpy as np

        task = self._task()
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
            np.save(files[-1], _joined(parts)[:total])  # a fixed batch is filled up with repeats at the end
        labels, file = task.labels("validation"), None
        if labels is not None:
            file = str(self._folder / "labels.npy")
            np.save(file, labels)
        first = kept[0][0]
        classes = int(first.shape[1]) if first.ndim == 2 else 0
        return {
            "metrics": metrics,
            "answers": task.answers,
            "outputs": files,
            "labels": file,
            "samples": total,
            "classes": classes,
            "warnings": list(task.warnings),
        }

    def thumbnails(self, indices: Sequence[int]) -> list[str | None]:
        """A small picture of each of these validation samples; None where there is none. Needs no compile()."""
        task = self._task()
        return [None] * len(indices) if task is None else list(task.thumbnails("validation", indices))

    def _in_batches(self, inputs: Mapping[str, Array]) -> list[Array]:
        """Outputs for any number of samples, also where the runner takes a fixed one."""
        runner = self._ready
        return in_batches(runner, inputs, runner.signature.inputs, self._target.batch)

    def warm_up(self, queries: int) -> None:
        """Run ``queries`` inferences that nobody times."""
        runner = self._ready
        for _ in range(queries):
            runner(self._inputs)

    def turn(self, duration_s: float, min_queries: int) -> list[int]:
        """One turn of the interleaved comparison: nanoseconds of each inference."""
        runner, inputs = self._ready, self._inputs
        return time_turn(lambda: runner(inputs), duration_s=duration_s, min_queries=min_queries)

    def long_turn(self, duration_s: float, min_queries: int, batches: int) -> list[int]:
        """A turn whose queries are ``batches`` inferences each, one after the other: nanoseconds of each query."""
        runner, inputs = self._ready, self._inputs

        def query() -> None:
            for _ in range(batches):
                runner(inputs)

        return time_turn(query, duration_s=duration_s, min_queries=min_queries, discard=1)

    def together(self, duration_s: float, min_calls: int) -> tuple[int, int]:
        """A turn of all streams at once: how many inferences they made, and in how many nanoseconds."""
        return run_together(self._calls(), duration_s=duration_s, min_calls=min_calls)

    def highest_rate(
        self, bound_ms: float, queries: int, seed: str, limit_s: float, guess: float | None = None
    ) -> dict[str, Any]:
        """The highest rate of arrivals whose 99th percentile stays within ``bound_ms``, and the latencies at that rate.

        ``queries``: of each attempt; ``limit_s``: for all of them; ``guess``: another restart's answer.
        """
        from accel.benchmarks.arrivals import Served, poisson, serve
        from accel.benchmarks.rate_search import allowed_late, search

        calls = self._calls()
        made, taken = run_together(calls, duration_s=_CAPACITY_S, min_calls=2 * len(calls))
        late, bound_ns = allowed_late(queries), int(bound_ms * 1e6)

        def attempt(rate: float, left_s: float) -> Served:
            self._emit({"doing": f"answering {rate:.4g} queries a second"})
            due = poisson(rate, queries, seed)
            return serve(calls, due, bound_ns=bound_ns, allowed_late=late, limit_s=left_s)

        found = search(attempt, queries=queries, capacity_per_s=made / taken * 1e9, limit_s=limit_s, guess=guess)
        return {**asdict(found), "capacity_per_s": made / taken * 1e9}

    @property
    def _ready(self) -> Runner:
        if not self._runners:
            raise RuntimeError("compile() comes first")
        return self._runners[0]

    def _calls(self) -> list[Callable[[], object]]:
        """One for each stream."""
        inputs, _ = self._inputs, self._ready

        def call(runner: Runner) -> Callable[[], object]:
            return lambda: runner(inputs)

        return [call(runner) for runner in self._runners]

    def _task(self) -> RecipeTask | None:
        """The recipe's; None without a recipe, and for one that has no data."""
        from accel.rebuilding import make_task

        recipe = self._read_recipe()
        return None if recipe is None else make_task(recipe, self._policy)

    def _model(self) -> Model:
        if self._described["kind"] == "onnx":
            path, signature = Path(self._described["path"]), self._described.get("signature")
            if signature is not None:
                return OnnxModel(path=path, signature=signature_from(signature))
            from accel.onnx_file import read

            return read(path)
        from accel import stages
        from accel.rebuilding import untouched_module

        recipe = self._read_recipe()
        if recipe is None:
            raise RuntimeError("a torch model needs its recipe")
        self._emit({"doing": "building the torch model"})
        if "folder" in self._described:
            return stages.read(Path(self._described["folder"]), self._described, self._policy, recipe.seed)
        return untouched_module(recipe, self._policy)


def _joined(parts: Sequence[Array]) -> Array:
    """One after the other. Where batches of texts had different lengths, an output for each token is filled up with zeros."""
    import numpy as np

    if len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    filled = [
        np.pad(part, [(0, 0), *((0, whole - size) for whole, size in zip(largest, part.shape[1:], strict=True))])
        for part in parts
    ]
    return np.concatenate(filled)
