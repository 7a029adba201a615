"""A strict stand-in for the part of TensorRT's runtime API that accel calls, on the GPU of fake_gpu.py.

Every address must be of memory that is held and large enough; shapes come before addresses and both before execution; a graph
is of the shapes and addresses that it was captured with, and never of their first execution.

An engine is JSON here: :class:`Plan`. It gives ``double`` = 2 x and ``total``, the sum of x over all but the first axis.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum, IntEnum
from typing import Any
from weakref import ref

from tests.accelerate.engines.fake_gpu import FakeGpu, World

MAGIC = b"fake engine "


@dataclass(frozen=True)
class Plan:
    """What an engine is built for: the shape of ``x``, -1 where it varies; for each profile its least, usual and greatest."""

    shape: tuple[int, ...] = (-1, 4)
    profiles: tuple[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]], ...] = (((1, 4), (4, 4), (8, 4)),)
    dtype: str = "FLOAT"
    on_host: bool = False
    by_value: bool = False

    def serialized(self) -> bytes:
        return MAGIC + json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, data: bytes) -> Plan:
        found = json.loads(data[len(MAGIC) :])
        profiles = tuple(tuple(tuple(shape) for shape in three) for three in found["profiles"])
        return cls(**{**found, "shape": tuple(found["shape"]), "profiles": profiles})


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class LayerInformationFormat(IntEnum):
    ONELINE = 0
    JSON = 1


class EngineValidity(IntEnum):
    VALID = 0
    SUBOPTIMAL = 1
    INVALID = 2


class EngineInvalidityDiagnostics(IntEnum):
    VERSION_MISMATCH = 1
    UNSUPPORTED_CC = 2
    OLD_CUDA_DRIVER = 4


class CudaGraphStrategy(IntEnum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2


class DataType(Enum):
    FLOAT = 0
    HALF = 1
    BF16 = 7


class ILogger:
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4

    def __init__(self) -> None:
        self._initialized = True

    def log(self, severity: int, message: str) -> None:
        raise NotImplementedError


class IProfiler:
    def __init__(self) -> None:
        self._initialized = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


class IRuntimeCache:
    __slots__ = ()


class IRuntimeConfig:
    __slots__ = ("_cache", "_world", "cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy")

    def __init__(self, world: World) -> None:
        self._world = world
        self._cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        self._world.say("make runtime cache")
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True


class EngineInspector:
    __slots__ = ("_plan", "execution_context")

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.execution_context: IExecutionContext | None = None

    def get_engine_information(self, layout: LayerInformationFormat) -> str:
        assert layout is LayerInformationFormat.JSON
        known = self.execution_context is not None and self.execution_context._shape is not None
        tensor = {"Format/Datatype": "Row major linear FP32" if known else "N/A"}
        layer = {"LayerType": "gemm", "Inputs": [tensor], "Outputs": [tensor], "Metadata": "[ONNX Layer: double/MatMul]"}
        return json.dumps({"Layers": [{"Name": name, **layer} for name in LAYERS]})


LAYERS = ("double", "total")
OUTPUTS = ("total", "double")  # not in the order of the signature


class IExecutionContext:
    __slots__ = (
        "__weakref__", "_addresses", "_config", "_gpu", "_inferred", "_number", "_plan", "_profile", "_ran", "_setting",
        "_shape", "_world", "profiler",
    )  # fmt: skip

    def __init__(self, plan: Plan, gpu: FakeGpu, number: int, config: IRuntimeConfig | None) -> None:
        self._plan, self._gpu, self._world, self._number, self._config = plan, gpu, gpu.world, number, config
        self._world.born("context", number)
        self._profile = 0
        self.profiler: IProfiler | None = None
        self._setting = 0  # changes with every shape and every address: a graph is of one
        self._shape = None if -1 in plan.shape else plan.shape
        self._inferred = False
        self._ran = False
        self._addresses: dict[str, int] = {}

    def __del__(self) -> None:
        self._world.died("context", self._number)

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._world.say(f"profile {profile_index}")
        assert stream_handle in self._gpu.queues
        if "profile" in self._world.refuse:
            return False
        self._profile = profile_index
        self._change(None)
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._world.say(f"shape {name} {'x'.join(map(str, shape))}")
        assert name == "x"
        assert all(type(size) is int for size in shape)
        fixed = -1 not in self._plan.shape
        least, _, greatest = (self._plan.shape,) * 3 if fixed else self._plan.profiles[self._profile]
        fits = all(low <= size <= high for low, size, high in zip(least, shape, greatest, strict=True))
        if "shape" in self._world.refuse or not fits:
            return False
        if shape != self._shape:
            self._change(shape)
        return True

    def infer_shapes(self) -> list[str]:
        self._world.say("infer shapes")
        if "infer" in self._world.refuse:
            raise RuntimeError("shape inference failed")
        self._inferred = self._shape is not None
        return [] if self._inferred else ["x"]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert self._inferred, "shapes of outputs are asked for before infer_shapes"
        assert self._shape is not None
        if name == "total":
            return (-1,) if self._plan.by_value else self._shape[:1]
        return self._shape

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._world.say(f"address {name}")
        assert self._inferred, "addresses come after shapes"
        assert memory in self._gpu.memory, "an address of no memory"
        if "address" in self._world.refuse:
            return False
        self._addresses[name] = memory
        self._setting += 1
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        capturing = stream_handle in self._gpu.capturing
        self._world.say("capture" if capturing else "execute")
        assert self._shape is not None, "executed without shapes"
        assert set(self._addresses) == {"x", *OUTPUTS}, "executed without addresses"
        assert not capturing or self._ran, "captured before the first execution of its shapes"
        if "execute" in self._world.refuse:
            self._world.log("Error Code 1: Cask (the kernel was refused)")
            return False
        self._ran = True
        self._gpu.put(stream_handle, self._work(self._shape, dict(self._addresses)))
        if self.profiler is not None:
            self._gpu.run(stream_handle)
            for layer in LAYERS:
                self.profiler.report_layer_time(layer, 0.25)
        return True

    def _work(self, shape: tuple[int, ...], addresses: dict[str, int]) -> Callable[[], None]:
        """What the GPU does later, perhaps again and again: with this context as it was when it was asked for."""
        gpu, setting, context = self._gpu, self._setting, ref(self)

        def work() -> None:
            mine = context()
            assert mine is not None, "executed after its context was freed"
            assert mine._setting == setting, "executed with other shapes or addresses than it was started or captured with"
            gpu.clock_ms += 1.0
            x = gpu.array(addresses["x"], "float32", shape)
            gpu.array(addresses["double"], "float32", shape)[...] = 2 * x
            gpu.array(addresses["total"], "float32", shape[:1])[...] = x.reshape(shape[0], -1).sum(1)

        return work

    def _change(self, shape: tuple[int, ...] | None) -> None:
        self._shape = shape
        self._inferred = False
        self._ran = False
        self._addresses = {}
        self._setting += 1


class ICudaEngine:
    __slots__ = ("_budget", "_gpu", "_number", "_plan")
    num_io_tensors = 3
    device_memory_size_v2 = 3 << 20

    def __init__(self, plan: Plan, gpu: FakeGpu, number: int) -> None:
        self._plan, self._gpu, self._number = plan, gpu, number
        self._budget = 64
        gpu.world.born("engine", number)

    def __del__(self) -> None:
        self._gpu.world.died("engine", self._number, before=("context",))

    @property
    def num_optimization_profiles(self) -> int:
        return len(self._plan.profiles)

    def get_weight_streaming_automatic_budget(self) -> int:
        return 48

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, size: int) -> None:
        self._gpu.world.say(f"weights {size}")
        assert not any(kind == "context" for kind, _ in self._gpu.world.alive), "set while contexts were there"
        self._budget = size

    def get_tensor_name(self, index: int) -> str:
        return ("x", *OUTPUTS)[index]

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._plan.dtype]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.HOST if self._plan.on_host else TensorLocation.DEVICE

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "x" else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._plan.shape[:1] if name == "total" else self._plan.shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name == "x"
        return list(self._plan.profiles[profile_index])

    def create_execution_context(self, runtime_config: IRuntimeConfig | None = None) -> IExecutionContext | None:
        if "context" in self._gpu.world.refuse:
            self._gpu.world.log("IExecutionContext::create: OutOfMemory (no memory left)")
            return None
        return IExecutionContext(self._plan, self._gpu, self._number, runtime_config)

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig(self._gpu.world)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._plan)


class Runtime:
    """TensorRT's. ``_rtx``: TensorRT-RTX's is :class:`RtxRuntime`."""

    __slots__ = ("_gpu", "_number", "engine_host_code_allowed")

    def __init__(self, logger: ILogger, gpu: FakeGpu) -> None:
        assert logger._initialized, "the base class of the logger was not initialized"
        self._gpu = gpu
        self.engine_host_code_allowed = False
        gpu.world.log = lambda message: logger.log(ILogger.ERROR, message)
        gpu.world.runtimes += 1
        self._number = gpu.world.runtimes
        gpu.world.born("runtime", self._number)

    def __del__(self) -> None:
        self._gpu.world.died("runtime", self._number, before=("engine", "context"))

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        world = self._gpu.world
        world.say(f"deserialize{' with host code' if self.engine_host_code_allowed else ''}")
        if "deserialize" in world.refuse or not serialized_engine.startswith(MAGIC):
            world.log("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (magic tag does not match)")
            return None
        return ICudaEngine(Plan.read(serialized_engine), self._gpu, self._number)


class RtxRuntime(Runtime):
    __slots__ = ()

    def get_engine_validity(self, buffer: bytes) -> tuple[EngineValidity, int]:
        self._gpu.world.say("validity")
        invalid = self._gpu.world.invalid
        return (EngineValidity.INVALID if invalid else EngineValidity.VALID), invalid


class Module:
    """What ``import tensorrt`` or ``import tensorrt_rtx`` gives, on the machine with ``gpu``."""

    ILogger = ILogger
    IProfiler = IProfiler
    TensorLocation = TensorLocation
    TensorIOMode = TensorIOMode
    LayerInformationFormat = LayerInformationFormat

    def __init__(self, gpu: FakeGpu, *, rtx: bool) -> None:
        self._gpu = gpu
        self._rtx = rtx
        if rtx:
            self.EngineValidity = EngineValidity
            self.EngineInvalidityDiagnostics = EngineInvalidityDiagnostics
            self.CudaGraphStrategy = CudaGraphStrategy
            self.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy

    def Runtime(self, logger: Any) -> Any:
        return RtxRuntime(logger, self._gpu) if self._rtx else Runtime(logger, self._gpu)


CLASSES = (RtxRuntime, ICudaEngine, IExecutionContext, EngineInspector, IRuntimeConfig, IRuntimeCache, IProfiler, ILogger)
ENUMS = (
    TensorLocation, TensorIOMode, LayerInformationFormat, EngineValidity, EngineInvalidityDiagnostics, CudaGraphStrategy,
    DynamicShapesKernelSpecializationStrategy, DataType,
)  # fmt: skip
"""What must be in the real module too, under the same names: tests/accelerate/test_tensorrt_run.py looks."""
