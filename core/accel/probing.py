"""The child process of a probe: many candidates compiled side by side, each timed for one turn, or asked, on request."""

from __future__ import annotations

import shutil
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog
from accel.accelerate.inputs import check_inputs
from accel.benchmarks.turns import time_turn
from accel.contracts import Backend, Runner
from accel.errors import MissingBackend
from accel.feeding import in_batches
from accel.model import OnnxModel, Target, signature_from
from accel.timed_inputs import Sample
from accel.worker import Emit

if TYPE_CHECKING:
    from accel.contracts import Array


def open_probe(emit: Emit, target: Mapping[str, Any], folder: str, sample: Mapping[str, Any]) -> Trials:
    """Entry point of the child process; arguments are JSON: the fields of a Target and of a Sample, and where to write."""
    chosen = Target(**target)
    backend: Backend = catalog.backend(chosen.backend)
    reason = backend.unavailable(chosen.device)
    if reason is not None:
        raise MissingBackend(f"target {chosen.name}: {reason}")
    return Trials(emit, backend, chosen, Path(folder), Sample(**sample))


@dataclass(frozen=True)
class _Candidate:
    runner: Runner
    inputs: Mapping[str, Array]


class Trials:
    """Every public method takes and gives JSON. Candidates are numbered in the order in which they were compiled."""

    def __init__(self, emit: Emit, backend: Backend, target: Target, folder: Path, sample: Sample) -> None:
        self._emit = emit
        self._backend = backend
        self._target = target
        self._folder = folder
        self._sample = sample
        self._candidates: list[_Candidate] = []
        self._shipped: list[Path] = []
        self._deployed = 0

    def compile(self, path: str, signature: Mapping[str, Any], label: str) -> float:
        """Compile one more candidate as it would ship, and run it twice: milliseconds of the second run."""
        self._emit({"doing": f"compiling {label} for {self._target.backend}"})
        model = OnnxModel(path=Path(path), signature=signature_from(signature))
        inputs = self._sample.inputs(model.signature.inputs)
        check_inputs(model.signature, inputs)
        self._deployed += 1
        place = self._folder / f"shipped-{self._deployed}"
        place.mkdir()
        self._shipped.append(place)
        shipped = self._backend.deploy(model, self._target, place, cache=self._folder)
        runner = self._backend.compile(shipped, self._target, self._folder)
        runner(inputs)
        started = time.perf_counter()
        runner(inputs)
        taken = time.perf_counter() - started
        self._candidates.append(_Candidate(runner, inputs))
        return taken * 1e3

    def turn(self, candidate: int, duration_s: float, discard: int) -> float:
        """Median milliseconds of one turn. The first ``discard`` inferences are not timed."""
        chosen = self._candidates[candidate]
        self._emit({"doing": f"timing candidate {candidate + 1}"})
        taken = time_turn(lambda: chosen.runner(chosen.inputs), duration_s=duration_s, min_queries=1, discard=discard)
        return statistics.median(taken) / 1e6

    def answer(self, candidate: int, names: Sequence[str], inputs: str, outputs: str) -> None:
        """Write what a candidate gives for the arrays in the .npz ``inputs``, any number of samples, to the .npz ``outputs``.

        ``names``: of the inputs, in the order of the arrays (``arr_0``, ``arr_1``...); outputs are in the signature's order.
        """
        import numpy as np

        runner = self._candidates[candidate].runner
        self._emit({"doing": f"asking candidate {candidate + 1}"})
        with np.load(inputs, allow_pickle=False) as given:
            arrays = {name: given[f"arr_{index}"] for index, name in enumerate(names)}
        np.savez(outputs, *in_batches(runner, arrays, runner.signature.inputs, self._target.batch))

    def forget(self) -> None:
        """Free every candidate, and what was deployed for it; numbers start anew."""
        for candidate in self._candidates:
            candidate.runner.__exit__(None, None, None)
        self._candidates.clear()
        while self._shipped:
            shutil.rmtree(self._shipped.pop(), ignore_errors=True)
