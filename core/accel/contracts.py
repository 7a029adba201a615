"""The shapes that passes, tasks and backends have. Protocols only: nothing here is a base class to grow.

These are structural: a class that has the members is one. Nothing in this file imports torch, onnx or numpy at run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from accel.model import Model, Signature, Target, TorchModel

    Array = NDArray[np.generic]

Need = Literal["training", "calibration", "selection", "profile", "target", "teacher", "probe"]
Split = Literal["training", "calibration", "selection", "validation"]
AnswerKind = Literal["classes", "embeddings"]
"""What a model's first output holds for each sample: a score for each class, or a vector whose direction counts."""


@dataclass(frozen=True)
class Batch:
    """Samples as the model takes them. ``inputs``: name to array (n, ...); ``labels``: (n,) int64, None where unlabelled."""

    inputs: Mapping[str, Array]
    labels: Array | None = None


Predict = Callable[[Mapping[str, "Array"]], Sequence["Array"]]
"""Inputs by name to outputs in the signature's order."""

Progress = Callable[[int, int, str], None]
"""``progress(done, total, what)``; a total of 0 means unknown."""


def silent(done: int, total: int, what: str) -> None:
    """A Progress that shows nothing."""


@dataclass(frozen=True)
class Score:
    """One metric over a whole split.

    ``value``: as defined by the metric (top1: a fraction in [0, 1]). ``per_sample``: (n,) float64 whose mean is ``value``,
    where the metric has such a thing: what a paired interval is computed from.
    """

    value: float
    per_sample: Array | None = None
    higher_is_better: bool = True


class Task(Protocol):
    """Data and judgement. Splits may be iterated more than once and give the same batches in the same order."""

    def training(self) -> Iterable[Batch]: ...
    def calibration(self) -> Iterable[Batch]: ...
    def selection(self) -> Iterable[Batch]: ...
    def validation(self) -> Iterable[Batch]: ...
    def has(self, split: Split) -> bool: ...
    def digest(self, split: Split) -> str: ...
    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]: ...


@runtime_checkable
class TellsAnswers(Protocol):
    """A task that says what is judged. Of one that does not, classes are assumed."""

    @property
    def answers(self) -> AnswerKind: ...


class RecipeTask(Task, TellsAnswers, Protocol):
    """A task that a recipe can name: it also tells the report about its data."""

    def count(self, split: Split) -> int: ...
    def labels(self, split: Split) -> Array | None:
        """(n,) int64: of the samples of ``split`` in order, as ``score`` has read them; None before that."""
        ...

    def thumbnails(self, split: Split, positions: Sequence[int]) -> Sequence[str | None]:
        """A small picture of each of these samples of ``split``, as a ``data:image`` address; None where there is none."""
        ...

    def overlaps(self) -> Sequence[str]: ...
    @property
    def warnings(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class QuantizationProfile:
    """The Q/DQ dialect a target runs fast. ``engine`` says who writes it best and does not make two profiles differ."""

    activation: Literal["uint8", "int8"]
    activation_symmetric: bool
    weight_granularity: Literal["per_channel", "per_tensor"]
    bias: Literal["int32", "float"]
    quantize_residual_add: bool
    engine: Literal["onnxruntime", "nncf"] = field(compare=False)


NumberFormat = Literal["fp32", "int8"]

Compiled = Callable[["Model"], AbstractContextManager[Predict]]
"""A model as its target runs it, for the time of a block: what a task's ``score`` takes."""


class Probe(Protocol):
    """Trial compilations on a target, for a pass that chooses by measurement. Results vary with the machine."""

    precision: NumberFormat
    """What is timed where nothing else is asked: INT8 where a later pass quantizes."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What a timing depends on besides the model: target, batch, threads, library versions, processor. JSON-ready."""
        ...

    def latencies_ms(self, models: Sequence[Model], precision: NumberFormat | None = None) -> list[float]:
        """Median latency of each model, all timed in turn in one child process, batch and threads as the recipe's benchmark.

        A TorchModel is exported first; ``int8`` quantizes with a handful of samples, for timing only. ``fp32`` leaves a file as
        it is, quantized or not.
        """
        ...

    def compiling(self) -> AbstractContextManager[Compiled]:
        """For judging candidates: each is deployed and compiled for the target in a child process and answers from there.

        One candidate at a time; the child lives as long as the block, and is started again where a candidate has killed it.
        """
        ...


def only_compute(key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
    """A memo that remembers nothing."""
    return compute()


@dataclass(frozen=True)
class Job:
    """What a pass may use besides the model.

    ``folder``: where the pass writes its output. ``scratch``: survives a kill, gone when the step is committed.
    ``profile``, ``target``, ``teacher`` and ``probe`` are None unless the pass ``needs`` them. ``execute(path, inputs)`` runs
    an ONNX file once on whatever is here to run it, for checks of equality (not for timing). ``memo(key, compute)`` gives what
    was computed before for an equal ``key``, else computes and keeps it; keys and results are JSON-ready.
    """

    folder: Path
    scratch: Path
    task: Task | None = None
    seed: int = 0
    progress: Progress = silent
    profile: QuantizationProfile | None = None
    target: Target | None = None
    execute: Callable[[Path, Mapping[str, Array]], Sequence[Array]] | None = None
    teacher: TorchModel | None = None
    probe: Probe | None = None
    memo: Callable[[Mapping[str, Any], Callable[[], Any]], Any] = only_compute

    @classmethod
    def local(cls, folder: Path, task: Task | None = None, **settings: Any) -> Job:
        """For training code: everything below ``folder``, which must exist."""
        scratch = folder / "scratch"
        scratch.mkdir(exist_ok=True)
        return cls(folder=folder, scratch=scratch, task=task, **settings)


class Pass(Protocol):
    """A frozen pydantic dataclass: its fields are its settings. ``__call__`` never changes the model it is given.

    ``version`` changes when the same settings would give another result. ``libraries`` names the distributions whose
    versions decide the result too. The annotations of ``__call__`` say which models it takes and gives. ``needs`` may follow
    from the settings. A pass that needs ``teacher`` says which in a field ``teacher``: ``"baseline"`` (the model before the
    first pass) or a ``ModelSource``. One that needs ``probe`` may name its target in ``probe_target``, else it is each target.
    """

    @property
    def needs(self) -> frozenset[Need]: ...

    version: ClassVar[int]
    libraries: ClassVar[tuple[str, ...]]

    def __call__(self, model: Any, job: Job) -> Any: ...


@dataclass(frozen=True)
class ExecutedPrecision:
    """What the runtime really ran, read from its own graph after optimization.

    ``float_precision``: of the operators that are not INT8 (``fp32``, ``bf16``, ``fp16``). ``quantized_operators``: how many
    operators (Conv, Gemm, MatMul, ConvTranspose) the ONNX file wraps in Q/DQ; ``int8_operators``: how many of them ran in INT8.
    ``operators``: every executed operator type to its count.
    """

    float_precision: str
    quantized_operators: int
    int8_operators: int
    operators: Mapping[str, int]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerRun:
    """One layer as a runtime runs it. ``nodes``: the ONNX nodes it was made from, none for a conversion of its own making.

    ``kind``: the runtime's word (``CaskConvolution``, ``Reformat``); ``precision``: of what it computes (``int8``, ``fp16``);
    ``ms``: of one inference, None where it was not timed.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    precision: str
    ms: float | None = None


@dataclass(frozen=True)
class LayerProfile:
    """Where the time of one inference goes. ``notes``: what stands out, each with layer, fact and way out."""

    layers: tuple[LayerRun, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """What a lint found. ``node``: its name in the ONNX file, empty where it is about the whole file.

    ``error``: the backend refuses the file, or gives other results than it should. ``warning``: it is slower or larger than it
    need be, or the finding may be meant.
    """

    rule: str
    severity: Literal["error", "warning"]
    node: str
    message: str
    way_out: str


class Runner(Protocol):
    """A compiled model, ready to run in this process; a context manager that frees it."""

    signature: Signature

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]: ...
    def executed_precision(self) -> ExecutedPrecision: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


@runtime_checkable
class TimedOnDevice(Protocol):
    """A runner that can tell how long its accelerator takes by itself."""

    def on_device(self, inputs: Mapping[str, Array], queries: int) -> tuple[Sequence[float], Sequence[str]]:
        """Milliseconds of each of ``queries`` inferences by the device's own clock, without the copies from and to the host.

        And notes: how fast the device was clocked and how warm it was, before and after.
        """
        ...


@runtime_checkable
class Concurrent(Protocol):
    """A runner that shares its compiled model with others of its kind."""

    def another(self) -> Runner:
        """A runner of the same compiled model that may run at the same time, in a thread of its own. Weights are shared."""
        ...


@runtime_checkable
class TakesStreams(Protocol):
    """A backend that must be told, when it compiles, how many inferences run at a time."""

    def with_streams(self, target: Target, streams: int) -> Target:
        """``target`` for ``streams`` runners (see Concurrent), each inference with as many threads as ``target`` has now."""
        ...


class Backend(Protocol):
    """A runtime. One instance is cheap to make and imports nothing until asked."""

    name: ClassVar[str]
    distribution: ClassVar[str]
    devices: ClassVar[tuple[str, ...]]
    quantization: ClassVar[QuantizationProfile]

    def unavailable(self, device: str = "cpu") -> str | None:
        """None, or one sentence that says what is missing and how to get it. May import the library to look for a device."""
        ...

    def check_options(self, target: Target) -> None:
        """Raise UsageError for an option or precision this backend does not have. Imports nothing."""
        ...

    def runtime_settings(self, target: Target) -> Mapping[str, Any]:
        """What :meth:`compile` gives the runtime for ``target``, JSON-ready, in the runtime's own words. Imports nothing.

        It is what a deployment script repeats, so that a file runs there as it was measured.
        """
        ...

    def deploy(self, model: Model, target: Target, folder: Path, *, cache: Path, progress: Progress = silent) -> Model:
        """Write into ``folder`` the files that ship, and give the model they make: what is measured afterwards.

        ``cache``: a folder that outlives the run, for what makes the next build faster; nothing in it may decide the result.
        """
        ...

    def compile(self, model: Model, target: Target, cache: Path) -> Runner:
        """A runner for exactly that file on ``target``. ``cache`` may keep compiled blobs. Refuses silent fallback."""
        ...


@runtime_checkable
class ProfilesLayers(Protocol):
    """A backend that can tell how long each layer takes."""

    def profile(self, model: Model, target: Target, inputs: Mapping[str, Array], *, queries: int, cache: Path) -> LayerProfile:
        """The time of each executed layer over ``queries`` inferences, with the runtime's own profiler on.

        It is compiled anew for that and runs slower than the runner that is measured: the shares count, not the sum.
        """
        ...


@runtime_checkable
class SuitsFile(Protocol):
    """A backend that gives the runtime other settings for some files."""

    def runtime_settings_for(self, target: Target, path: Path) -> Mapping[str, Any]:
        """``Backend.runtime_settings`` for ``target``, and what the file at ``path`` needs besides. Imports nothing."""
        ...


@runtime_checkable
class AheadOfTime(Protocol):
    """A backend that can also make files for a device that is not here. For any other, ``unavailable`` answers both."""

    def built_with(self, target: Target) -> Mapping[str, Any]:
        """What decides the files besides model, target and precision, JSON-ready: the library and the GPU it builds for."""
        ...

    def cannot_build(self, target: Target) -> str | None:
        """None, or one sentence: why the files for ``target`` cannot be made here."""
        ...

    def cannot_run(self, target: Target) -> str | None:
        """None, or one sentence: why what was made for ``target`` cannot run here."""
        ...
