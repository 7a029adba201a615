"""Trial compilations for a pass that chooses by measurement: the one implementation of ``contracts.Probe``.

Candidates are exported (and quantized, on a handful of samples) in this process, and compiled and timed in one child. Judging
is the pass's own: ``compiling`` gives it each candidate as a function, which a task's ``score`` takes on whichever split the
pass may choose by; the probe itself reads no labels.
"""

from __future__ import annotations

import random
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from accel import catalog, onnx_file
from accel.atomic import exclusive
from accel.benchmarks.environment import cpu_name, isa_flags
from accel.contracts import Backend, Batch, Compiled, Job, NumberFormat, Pass, Predict, Progress, Score, Split, Task, silent
from accel.errors import AccelError, DataFault, PassFault, StorageFault, UsageError
from accel.model import Model, OnnxModel, Signature, Target, TorchModel, signature_record
from accel.recipe.passes import PassEntry, kind_for_backend, leaf_for
from accel.steps import library_version
from accel.timed_inputs import Sample, noise
from accel.trial_answers import Answers
from accel.worker import Worker

if TYPE_CHECKING:
    from accel.contracts import Array

CALIBRATION_SAMPLES = 16
"""How many samples an INT8 candidate is calibrated on. Its ranges do not matter, only which operators it runs."""

FEWEST_ROUNDS = 3
ROUNDS = 8
TOGETHER = 32
"""At most this many candidates are timed in turn; more are timed in groups that share their first candidate."""

TOGETHER_BYTES = 1 << 29
_COMPILE_LIMIT_S = 600.0


@dataclass(frozen=True)
class _Trial:
    """A candidate as a file. ``label``: what it is called in errors."""

    index: int
    label: str
    file: OnnxModel
    size_bytes: int


class TargetProbe:
    """Times models on one target, as the recipe's benchmark does: its batch size, its threads.

    ``folder``: an existing one, for files that live as long as one call. ``sample``: what candidates are timed on; its size is
    the batch. ``task``: where calibration samples come from; seeded noise without. ``engine``: who quantizes, by default the
    one that the backend prefers. ``seconds``: timed for each candidate, as far as at least three rounds fit. ``lock``: held
    while timing, so that two runs of one store do not disturb each other.
    """

    def __init__(
        self,
        target: Target,
        *,
        folder: Path,
        sample: Sample,
        precision: NumberFormat = "fp32",
        task: Task | None = None,
        engine: str | None = None,
        seconds: float = 1.0,
        seed: int = 0,
        lock: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        """Raises UsageError for a backend that does not run ONNX files."""
        if kind_for_backend(target.backend) != "OnnxModel":
            raise UsageError(f"target {target.name}: candidates are timed as ONNX files, and {target.backend} runs none")
        self.precision: NumberFormat = precision
        self._target = replace(target, batch=sample.size)
        self._folder = folder
        self._sample = sample
        self._task = task
        self._engine = engine
        self._seconds = seconds
        self._seed = seed
        self._lock = lock
        self._progress = progress
        self._drawn: dict[int, dict[str, Array]] = {}

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a timing depends on besides the model and the precision. JSON-ready."""
        target = asdict(self._target)
        decisive = {key: value for key, value in target.items() if key not in ("name", "optional")}
        names = ("torch", "onnxscript", self._backend.distribution, *self._quantizer[1].libraries)
        return {
            "probe": 1,
            "target": decisive,
            "quantizer": self._quantizer[0],
            "sizes": dict(self._sample.sizes),
            "libraries": {name: library_version(name) for name in dict.fromkeys(names)},
            "cpu": cpu_name(),
            "isa": isa_flags(),
        }

    def latencies_ms(self, models: Sequence[Model], precision: NumberFormat | None = None) -> list[float]:
        """Median over rounds of the median latency of each model; in each round all take a turn, in shuffled order.

        Raises PassFault naming the candidate that cannot be exported, quantized, compiled or run.
        """
        if not models:
            return []
        with self._place() as folder:
            candidates = self._prepared(models, precision or self.precision, folder)
            with self._child(folder) as child:
                found: dict[int, float] = {}
                for group in _groups(candidates):
                    measured = self._timed(child, group, len(models))
                    # The machine may be slower by now; the candidate that every group shares says by how much.
                    drift = found.get(group[0].index, measured[group[0].index]) / measured[group[0].index]
                    found |= {index: value * drift for index, value in measured.items()}
                    for trial in group[1:]:
                        shutil.rmtree(folder / str(trial.index), ignore_errors=True)
        return [found[index] for index in range(len(models))]

    @contextmanager
    def compiling(self) -> Iterator[Compiled]:
        """Each candidate as a function, by a child that lives as long as the block and takes one at a time.

        TorchModels are exported, files are taken as they are.
        """
        with self._place() as place:
            answers = Answers(self._child, lambda model, folder: self._file(model, "fp32", folder), place, self._target.backend)
            try:
                yield answers.compiled
            finally:
                answers.close()

    @contextmanager
    def _place(self) -> Iterator[Path]:
        """A folder for one use. Locked: a store sweeps what nobody holds, at once after a kill and never while it is used."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix="probe-") as place, exclusive(Path(place) / "lock"):
            yield Path(place)

    # -- files --------------------------------------------------------------------------------------------------------

    @cached_property
    def _backend(self) -> Backend:
        return cast("Backend", catalog.backend(self._target.backend))

    @cached_property
    def _quantizer(self) -> tuple[str, Pass]:
        settings = {"calibration": {"num_samples": CALIBRATION_SAMPLES}}
        entry = PassEntry(type="quantize", approach="static", engine=self._engine, settings=settings)
        return leaf_for(entry, self._target.backend)

    def _prepared(self, models: Sequence[Model], precision: NumberFormat, folder: Path) -> Iterator[_Trial]:
        for index, model in enumerate(models):
            label = f"candidate {index + 1} of {len(models)}"
            self._progress(index, len(models), "candidates compiled and timed")
            place = folder / str(index)
            try:
                file = self._file(model, precision, place)
            except (DataFault, PassFault) as error:
                raise type(error)(f"{label}: {error}") from error
            size = sum(path.stat().st_size for path in onnx_file.files(file.path))
            yield _Trial(index, label, file, size)

    def _file(self, model: Model, precision: NumberFormat, place: Path) -> OnnxModel:
        if isinstance(model, TorchModel):
            from accel.compress.torch_to_onnx import export

            file = export(model, self._job(place / "float", model.signature), opset=None, rtol=0, atol=0, check=False)
        else:
            file = model
        if precision == "fp32" or file.path.suffix == ".xml" or _quantized(file.path):
            return file
        quantized: OnnxModel = self._quantizer[1](file, self._job(place / "int8", file.signature))
        return quantized

    def _job(self, folder: Path, signature: Signature) -> Job:
        folder.mkdir(parents=True)
        return Job.local(folder, self._few(signature), seed=self._seed, profile=self._backend.quantization)

    def _few(self, signature: Signature) -> Task:
        """The first calibration samples of the task, repeated where a fixed batch wants more; noise where there are none."""
        first = signature.inputs[0].shape[:1]
        count = first[0] if first and isinstance(first[0], int) else CALIBRATION_SAMPLES
        if count not in self._drawn:
            self._drawn[count] = self._samples(count) or noise(signature.inputs, count, self._seed, self._sample.sizes)
        return _Few(self._drawn[count])

    def _samples(self, count: int) -> dict[str, Array]:
        import numpy as np

        if self._task is None or not self._task.has("calibration"):
            return {}
        batches: list[Batch] = []
        drawn = 0
        for batch in self._task.calibration():
            batches.append(batch)
            drawn += len(next(iter(batch.inputs.values())))
            if drawn >= count:
                break
        if not drawn:
            return {}
        joined = {name: np.concatenate([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
        return {name: np.resize(array, (count, *array.shape[1:])) for name, array in joined.items()}

    # -- timing -------------------------------------------------------------------------------------------------------

    def _child(self, folder: Path) -> Worker:
        place = folder / "child"
        place.mkdir(parents=True)
        worker = Worker(
            f"probe of {self._target.name}",
            "accel.probing:open_probe",
            {"target": asdict(self._target), "folder": str(place), "sample": asdict(self._sample)},
            log=place / "log.txt",
        )
        try:
            worker.result(timeout_s=_COMPILE_LIMIT_S)
        except BaseException:  # an interrupt, too: no child is left behind
            worker.close()
            raise
        return worker

    def _timed(self, child: Worker, group: Sequence[_Trial], total: int) -> dict[int, float]:
        """Milliseconds by index; the candidates of ``group`` are alone in the child."""
        expected = {trial.index: self._compiled(child, trial) for trial in group}
        times: dict[int, list[float]] = {trial.index: [] for trial in group}
        places = {trial.index: place for place, trial in enumerate(group)}
        by_index = {trial.index: trial for trial in group}
        order = list(places)
        shuffled = random.Random(self._seed)
        rounds, turns = self._plan(expected)
        with nullcontext() if self._lock is None else exclusive(self._lock, waiting=lambda: None):
            for _ in range(rounds):
                shuffled.shuffle(order)
                for index in order:
                    try:
                        times[index].append(
                            child.call("turn", candidate=places[index], timeout_s=_COMPILE_LIMIT_S, **turns[index])
                        )
                    except AccelError as error:
                        raise self._fault(by_index[index], "run on", error) from error
        child.call("forget", timeout_s=_COMPILE_LIMIT_S)
        self._progress(group[-1].index + 1, total, "candidates compiled and timed")
        return {index: statistics.median(found) for index, found in times.items()}

    def _plan(self, expected: Mapping[int, float]) -> tuple[int, dict[int, dict[str, Any]]]:
        """How many rounds, and how each candidate takes its turn: ``duration_s``, and inferences to ``discard``."""
        slowest_s = max(expected.values()) / 1e3
        rounds = max(FEWEST_ROUNDS, min(ROUNDS, int(self._seconds / max(4 * slowest_s, 1e-6))))
        turn_s = self._seconds / rounds
        turns: dict[int, dict[str, Any]] = {}
        for index, once_ms in expected.items():
            discard = 3 if 6 * once_ms / 1e3 < turn_s else 1
            turns[index] = {"duration_s": max(0.0, turn_s - discard * once_ms / 1e3), "discard": discard}
        return rounds, turns

    def _compiled(self, child: Worker, trial: _Trial) -> float:
        signature = signature_record(trial.file.signature)
        try:
            once_ms: float = child.call(
                "compile", path=str(trial.file.path), signature=signature, label=trial.label, timeout_s=_COMPILE_LIMIT_S
            )
        except AccelError as error:
            raise self._fault(trial, "be compiled for", error) from error
        return once_ms

    def _fault(self, trial: _Trial, what: str, error: AccelError) -> AccelError:
        if isinstance(error, StorageFault | UsageError):
            return error
        return PassFault(f"{trial.label} cannot {what} {self._target.backend}: {error}")


class _Few:
    """A task that is nothing but one batch of calibration data."""

    def __init__(self, inputs: Mapping[str, Array]) -> None:
        self._batch = Batch(inputs)

    def calibration(self) -> Iterable[Batch]:
        return [self._batch]

    def training(self) -> Iterable[Batch]:
        return []

    selection = validation = training

    def has(self, split: Split) -> bool:
        return split == "calibration"

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        raise DataFault("a probe has no data to judge by")


def _quantized(path: Path) -> bool:
    return any(node.op_type == "QuantizeLinear" for node in onnx_file.parse(path).graph.node)


def _groups(trials: Iterable[_Trial]) -> Iterator[list[_Trial]]:
    """The trials in groups that may be compiled at once; each begins with the first of all. Made as they are asked for."""
    first: _Trial | None = None
    group: list[_Trial] = []
    held = 0
    for trial in trials:
        first = first or trial
        if len(group) > 1 and (len(group) == TOGETHER or held + trial.size_bytes > TOGETHER_BYTES):
            yield group
            group, held = [first], first.size_bytes
        group.append(trial)
        held += trial.size_bytes
    if group:
        yield group
