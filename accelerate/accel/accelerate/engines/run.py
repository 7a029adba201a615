"""A TensorRT engine that runs: opened only where it fits, fed from numpy, timed with and without copies, freed in order."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Self

from accel import engine_file
from accel.accelerate import nvidia_device
from accel.accelerate.engines import buffers as tensorrt_buffers
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.lane import Lane, release_all
from accel.accelerate.engines.loaded import LoadedEngine
from accel.accelerate.engines.log import cleaned
from accel.accelerate.engines.manifest import require_fits
from accel.accelerate.engines.options import RunSettings, build_settings, run_settings
from accel.accelerate.engines.profile import executed_precision, layer_profile
from accel.accelerate.engines.timing_events import Latency, Throughput, latencies_ms, queries_per_s
from accel.accelerate.inputs import batch_axis, check_inputs, fix_axis
from accel.contracts import ExecutedPrecision, LayerProfile
from accel.errors import AccelError, BackendFault, MissingBackend, SafetyRefusal
from accel.model import Signature, Target

if TYPE_CHECKING:
    from accel.accelerate.engines.buffers import Gpu
    from accel.accelerate.engines.library import TensorRtLibrary
    from accel.accelerate.engines.options import Shape
    from accel.accelerate.nvidia_device import DeviceState, NvidiaDevice
    from accel.contracts import Array
    from accel.engine_file import EngineManifest

_PROFILED = 20
_WARMUP = 3


def open_engine(path: Path, signature: Signature, target: Target) -> EngineRunner:
    """The engine at ``path``, ready to run on the first GPU that CUDA shows this process.

    Before the library sees a byte of it, its manifest and its digest are held against what is here: ModelFault for damaged
    files, BackendFault for an engine that was made for something else, MissingBackend for a library or a GPU that is not here,
    SafetyRefusal for one that brings code of its own, unless the target's options say that this is meant.
    """
    manifest = engine_file.read(path)
    asked = str(target.options.get("library", "auto"))
    if asked not in ("auto", manifest.library):
        raise BackendFault(
            f"{path.name}: library: the engine was built with {manifest.library}, and the target asks for {asked}; set"
            f" `library: {manifest.library}`, or build it again with `accel optimize`"
        )
    if manifest.settings.get("version_compatible") and not target.options.get("version_compatible"):
        raise SafetyRefusal(
            f"{path.name}: it was built version_compatible, and brings code that would run in this process; where you trust"
            " who built it, say so with the target's option `version_compatible: true`"
        )
    library = tensorrt_library.chosen(manifest.library)
    gpu = tensorrt_buffers.first_gpu()
    device = _device(gpu)
    asked_for = {name: value for name, value in build_settings(target).items() if name in target.options}
    require_fits(manifest, path, library, device, asked_for)
    if target.batch is not None:
        axis = batch_axis(signature, target.batch)
        if axis is not None:
            signature = fix_axis(signature, axis, target.batch)
    return EngineRunner(Opening(path, manifest, library, gpu, device, run_settings(target)), signature)


def _device(gpu: Gpu) -> NvidiaDevice | None:
    """What NVML calls the GPU that CUDA gave; where its place on the bus is not told, the only one there is."""
    found = nvidia_device.at(gpu.bus_id)
    if found is None:
        every = nvidia_device.found()
        found = every[0] if len(every) == 1 else None
    return found


@dataclass(frozen=True)
class Opening:
    """What a runner is made from; ``device`` is None where NVML does not know the GPU."""

    path: Path
    manifest: EngineManifest
    library: TensorRtLibrary
    gpu: Gpu
    device: NvidiaDevice | None
    settings: RunSettings


class EngineRunner:
    """One engine with as many execution contexts and streams as the target's ``streams``. Not for several threads at once:
    those take :meth:`another`.

    A call copies its inputs to the GPU, runs the engine on the first stream, copies the outputs back and waits for them.
    ``memory``: the library that holds the GPU's memory; ``device``: the GPU.
    """

    def __init__(self, opening: Opening, signature: Signature) -> None:
        self.signature = signature
        self.device = opening.device
        self.memory = opening.gpu.name
        self._opening = opening
        self._path = opening.path
        self._loaded: LoadedEngine | None = None
        self._lanes: list[Lane] = []
        self._others: list[Lane] = []
        try:
            with tensorrt_library.undisturbed(), self._faults(None):
                self._open()
        except BaseException:
            with suppress(AccelError):  # what went wrong before says more
                self._release()
            raise

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """Outputs in the signature's order, the caller's own. DataFault for wrong inputs, else BackendFault.

        Shapes other than the last call's get new buffers, and their first inference compiles or captures: that call is slow.
        """
        return self.infer(self._first(), inputs)

    def infer(self, lane: Lane, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """A call on one of this runner's lanes; different lanes may be at it at the same time."""
        self._open_engine()
        with self._faults(lane), lane.on():
            self._prepare(lane, inputs)
            lane.copy_in()
            lane.execute()
            lane.copy_out()
            lane.synchronize()
            return lane.read()

    def another(self) -> LaneRunner:
        """A context, a stream and buffers of its own on the same engine; all are given back with this runner's."""
        with self._faults(None):
            self._others.append(self._lane(cuda_graphs=self._opening.settings.cuda_graphs))
        return LaneRunner(self, self._others[-1])

    def latency(self, inputs: Mapping[str, Array], queries: int, *, copies: bool = False, warmup: int = _WARMUP) -> Latency:
        """``queries`` inferences of ``inputs``, one after the other, timed by CUDA events; ``warmup`` before do not count.

        ``copies``: whether the copies from and to the host are part of it.
        """
        lane = self._first()
        with self._faults(lane):
            with lane.on():
                self._prepare(lane, inputs)
            before = self._state()
            found = latencies_ms(self._opening.gpu, lane, queries, copies=copies, warmup=warmup)
            return Latency(found, copies, self._opening.settings.cuda_graphs, before, self._state())

    def throughput(
        self, inputs: Mapping[str, Array], queries: int, *, copies: bool = True, warmup: int = _WARMUP
    ) -> Throughput:
        """``queries`` inferences of ``inputs`` over all streams at once; ``warmup`` on each before do not count."""
        first = self._first()
        with self._faults(first):
            for lane in self._lanes:
                with lane.on():
                    self._prepare(lane, inputs)
            before = self._state()
            rate = queries_per_s(self._lanes, queries, copies=copies, warmup=warmup)
            return Throughput(rate, len(self._lanes), copies, self._opening.settings.cuda_graphs, before, self._state())

    def on_device(self, inputs: Mapping[str, Array], queries: int) -> tuple[Sequence[float], Sequence[str]]:
        """As ``contracts.TimedOnDevice``; notes also tell the time with copies, and the throughput of several streams."""
        alone, copied = (self.latency(inputs, queries, copies=copies) for copies in (False, True))
        graphs = ", CUDA graphs" if alone.cuda_graphs else ""
        notes = [
            f"p50 {statistics.median(copied.ms):.4g} ms with copies from and to page-locked memory, by its own clock{graphs}",
            f"GPU before: {alone.before.told()}; after: {copied.after.told()}",
        ]
        if len(self._lanes) > 1:
            many = self.throughput(inputs, queries)
            notes.append(f"{many.queries_per_s:.0f} inferences a second over {many.streams} streams, copies included")
        return alone.ms, notes

    def executed_precision(self) -> ExecutedPrecision:
        """As the engine inspector tells it, held against the types that the network was built with."""
        lane = self._first()
        with self._faults(lane):
            return executed_precision(self._open_engine().inspected(lane.context), self._opening.manifest.layers.operators)

    def profile(self, queries: int = _PROFILED) -> LayerProfile:
        """The mean time of each layer over ``queries`` inferences of the last call's shapes (else the usual ones), values zero.

        In a context of its own and without CUDA graphs: being watched makes every inference slower.
        """
        with self._faults(self._first()):
            loaded = self._open_engine()
            shapes = self._first().shapes or self._usual()
            watched = self._lane(cuda_graphs=False)
            try:
                times = loaded.layer_times()
                with watched.on():
                    watched.prepare(shapes)
                    watched.write(None)
                    watched.copy_in()
                    for _ in range(_WARMUP):
                        watched.execute()
                    watched.synchronize()
                    watched.context.profiler = times  # from now on an execution waits until it is done
                    for _ in range(queries):
                        watched.execute()
                        watched.synchronize()
                    inspected = loaded.inspected(watched.context)
                means = {name: sum(each) / queries for name, each in times.ms.items()}
            finally:
                _release_lanes([watched])
            return layer_profile(inspected, means)

    def __enter__(self) -> Self:
        self._first()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._release()
        except AccelError:
            if error is None:  # else it says more than that giving back failed too
                raise

    # -- opening and closing ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        opening = self._opening
        host_code, streams_weights = (
            bool(opening.manifest.settings.get(name)) for name in ("version_compatible", "weight_streaming")
        )
        self._loaded = LoadedEngine(
            opening.path,
            self.signature,
            opening.library,
            opening.gpu,
            host_code=host_code,
            streams_weights=streams_weights,
        )
        for _ in range(opening.settings.streams):
            self._lanes.append(self._lane(cuda_graphs=opening.settings.cuda_graphs))
        first = self._lanes[0]
        with first.on():  # an output whose size depends on values is told now, not by the first batch
            first.output_shapes(self._usual())

    def _lane(self, *, cuda_graphs: bool) -> Lane:
        loaded, gpu = self._open_engine(), self._opening.gpu
        capture = cuda_graphs and not loaded.own_graphs
        stream = gpu.stream()
        try:
            context = loaded.context(cuda_graphs=cuda_graphs)
        except BaseException:
            stream.release()
            raise
        return Lane(context, stream, loaded.tensors, self.signature, gpu, capture=capture)

    def _release(self) -> None:
        lanes = [*self._lanes, *self._others]
        self._lanes, self._others = [], []
        loaded, self._loaded = self._loaded, None
        _release_lanes(lanes, loaded)

    # -- using --------------------------------------------------------------------------------------------------------

    def _prepare(self, lane: Lane, inputs: Mapping[str, Array]) -> None:
        if not lane.takes(inputs):
            check_inputs(self.signature, inputs)
            lane.prepare({spec.name: inputs[spec.name].shape for spec in self.signature.inputs})
        lane.write(inputs)

    def _usual(self) -> dict[str, Shape]:
        """The shapes that the first profile was tuned for."""
        return {name: three[1] for name, three in self._open_engine().tensors.profiles[0].items()}

    def _state(self) -> DeviceState:
        if self.device is None:
            return nvidia_device.UNKNOWN_STATE
        try:
            return nvidia_device.state(self.device.index)
        except MissingBackend:  # NVML went away: no reason to lose a measurement
            return nvidia_device.UNKNOWN_STATE

    def _first(self) -> Lane:
        return self._lanes[0] if self._lanes else _closed()

    def _open_engine(self) -> LoadedEngine:
        return _closed() if self._loaded is None else self._loaded

    @contextmanager
    def _faults(self, lane: Lane | None) -> Iterator[None]:
        """Names the engine, and adds what the library logged; waits for what was queued, so that nothing runs on."""
        try:
            yield
        except BackendFault as error:
            self._settle(lane, error)
            raise BackendFault(f"{self._path.name}: {error}{self._logged()}") from error
        except RuntimeError as error:  # as the library's bindings raise what it throws
            self._settle(lane, error)
            raise BackendFault(f"{self._path.name}: {self._opening.library.name} failed: {cleaned(str(error))}") from error

    @staticmethod
    def _settle(lane: Lane | None, error: Exception) -> None:
        clear_frames(error.__traceback__)  # an error that somebody keeps must not keep what is on the GPU
        if lane is not None:
            lane.settle()

    def _logged(self) -> str:
        return "" if self._loaded is None else self._loaded.log.take_error()


class LaneRunner:
    """A lane of an EngineRunner's engine, in a thread of its own. Closed with that runner, and not before."""

    def __init__(self, owner: EngineRunner, lane: Lane) -> None:
        self.signature = owner.signature
        self._owner = owner
        self._lane = lane

    def __call__(self, inputs: Mapping[str, Array]) -> Sequence[Array]:
        """As EngineRunner's."""
        return self._owner.infer(self._lane, inputs)

    def executed_precision(self) -> ExecutedPrecision:
        """The owner's: it is the same engine."""
        return self._owner.executed_precision()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        return None


def _release_lanes(lanes: Sequence[Lane], loaded: LoadedEngine | None = None) -> None:
    """Once nothing runs: graphs, contexts, engine and runtime, buffers, streams. What is used goes after what uses it.

    Each is tried, whatever happens to the others; raises the first fault.
    """
    faults: list[AccelError] = []

    def tried(action: Callable[[], None]) -> None:
        try:
            action()
        except AccelError as error:
            faults.append(error)

    for lane in lanes:
        lane.settle()
    for lane in lanes:
        tried(lane.release_graph)
    for lane in lanes:
        lane.release_context()
    if loaded is not None:
        loaded.release()
    for lane in lanes:
        tried(lane.release_buffers)
    tried(lambda: release_all([lane.stream for lane in lanes]))
    if faults:
        raise faults[0]


def _closed() -> NoReturn:
    raise BackendFault("this tensorrt runner is closed; compile the model again")
