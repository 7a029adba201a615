"""An engine in the library's hands: deserialized, checked, and giving execution contexts. Freed by forgetting it, in order."""

from __future__ import annotations

from pathlib import Path
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

from accel.accelerate.engines.log import Messages
from accel.accelerate.engines.tensors import EngineTensors, read_tensors, require_signature
from accel.errors import BackendFault
from accel.model import Signature

if TYPE_CHECKING:
    from accel.accelerate.engines.buffers import Gpu
    from accel.accelerate.engines.library import TensorRtLibrary

_AGAIN = "build it again with `accel optimize` on this machine"


class Log:
    """The library's messages since they were last asked for. The library keeps its logger, so this holds nothing else."""

    def __init__(self) -> None:
        self._messages = Messages()

    def sink(self, severity: str, message: str) -> None:
        self._messages.sink(severity, message)

    def take_error(self) -> str:
        """The last error as ``: text``, empty where there was none; and start anew."""
        last, self._messages = self._messages.last_error, Messages()
        return f": {last}" if last else ""


class LoadedEngine:
    """``tensors``: what goes in and out. The GPU is the calling thread's current one. Raises BackendFault.

    ``streams_weights``: the engine was built for it; the GPU then keeps as many weights as the library finds room for.
    """

    def __init__(
        self,
        path: Path,
        signature: Signature,
        library: TensorRtLibrary,
        gpu: Gpu,
        *,
        host_code: bool,
        streams_weights: bool = False,
    ) -> None:
        self.log = Log()
        self._gpu = gpu
        self._trt = library.trt
        # A library that compiles kernels at run time captures CUDA graphs itself too, and knows better when.
        self.own_graphs = library.edition.has_runtime_cache
        self._runtime: Any = self._trt.Runtime(library.logger(self.log.sink))
        self._engine: Any = None
        self._cache: Any = None
        self._configs: list[Any] = []  # a context may look at its own for as long as it lives
        try:
            if host_code:
                # A version compatible engine brings the code that runs it. Its digest was held against its manifest before.
                self._runtime.engine_host_code_allowed = True
            self._load(path.read_bytes(), f"{library.name} {library.version}")
            if streams_weights:
                self._stream_weights()
            self.tensors: EngineTensors = read_tensors(self._engine, self._trt)
            require_signature(self.tensors, signature)
        except BaseException as error:
            clear_frames(error.__traceback__)  # they hold the engine, which is to go before its runtime
            self.release()
            raise

    def context(self, *, cuda_graphs: bool) -> Any:
        """An execution context, its memory allocated."""
        if self.own_graphs:
            made = self._engine.create_execution_context(self._runtime_config(cuda_graphs=cuda_graphs))
        else:
            made = self._engine.create_execution_context()
        if made is None:
            needed = int(self._engine.device_memory_size_v2)
            left, total = self._gpu.free_bytes()
            raise BackendFault(
                f"an execution context cannot be made{self.log.take_error()}; it needs {needed >> 20} MiB of GPU memory, and"
                f" {left >> 20} of {total >> 20} MiB are free: build it for a smaller batch, take fewer streams, or end what"
                " else uses the GPU"
            )
        return made

    def inspected(self, context: Any = None) -> str:
        """The engine inspector's JSON of the whole engine, as ``context`` (with its shapes) runs it."""
        inspector = self._engine.create_engine_inspector()
        if context is not None:
            inspector.execution_context = context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layer_times(self) -> Any:
        """A profiler: its ``ms`` maps layer to the time of each inference. Alive for as long as its context."""

        parent = self._trt.IProfiler

        class LayerTimes(parent):  # type: ignore[misc,valid-type]
            def __init__(self) -> None:
                parent.__init__(self)  # pybind11 asks for the base class's own call, not super()
                self.ms: dict[str, list[float]] = {}

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                self.ms.setdefault(layer_name, []).append(ms)

        return LayerTimes()

    def release(self) -> None:
        """Every context is gone by now."""
        self._configs = []
        self._cache = None
        self._engine = None
        self._runtime = None

    def _load(self, data: bytes, library: str) -> None:
        self._require_valid(data)
        self._engine = self._runtime.deserialize_cuda_engine(data)
        if self._engine is None:
            raise BackendFault(f"{library} cannot load it{self.log.take_error()}; {_AGAIN}")

    def _stream_weights(self) -> None:
        """Without a budget the GPU holds all of them. It is set before the first context (NVIDIA, "Weight Streaming")."""
        self._engine.weight_streaming_budget_v2 = self._engine.get_weight_streaming_automatic_budget()

    def _require_valid(self, data: bytes) -> None:
        """TensorRT-RTX tells before loading whether an engine fits; TensorRT only by not loading it."""
        if not hasattr(self._runtime, "get_engine_validity"):
            return
        verdict, reasons = self._runtime.get_engine_validity(data)
        if verdict == self._trt.EngineValidity.INVALID:
            known = self._trt.EngineInvalidityDiagnostics.__members__
            said = ", ".join(name.lower().replace("_", " ") for name, bit in known.items() if int(reasons) & int(bit.value))
            raise BackendFault(
                f"the library says that it cannot run here ({said or 'no reason'}){self.log.take_error()}; {_AGAIN}"
            )

    def _runtime_config(self, *, cuda_graphs: bool) -> Any:
        """Kernels are compiled when a context first needs them: once for all contexts of one shape, in memory alone.

        Nothing is kept on disk, so that the time of compiling is what a first start costs. The kernels of a new shape are
        compiled before its first inference, not beside it: else the first timings would be of others than the last.
        """
        config = self._engine.create_runtime_config()
        strategies = self._trt.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graphs else strategies.DISABLED
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        if self._cache is None:
            self._cache = config.create_runtime_cache()
        config.set_runtime_cache(self._cache)
        self._configs.append(config)
        return config
