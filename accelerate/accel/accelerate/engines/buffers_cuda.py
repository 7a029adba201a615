"""Memory, streams, events and graphs of a GPU by cuda-python. The only file that imports it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np

from accel.accelerate.engines.buffers import Held, HostMemory, out_of_memory
from accel.errors import BackendFault


def find() -> CudaGpu | str:
    """The first GPU that CUDA shows this process, or why there is none."""
    try:
        runtime = import_module("cuda.bindings.runtime")
    except (ImportError, OSError) as error:
        return f"cuda-python cannot be used ({' '.join(str(error).split())})"
    code, count = runtime.cudaGetDeviceCount()
    if code != runtime.cudaError_t.cudaSuccess:
        return f"cuda-python sees no GPU ({_told(runtime, code)})"
    return CudaGpu(runtime) if count else "cuda-python sees no GPU"


class CudaGpu:
    """CUDA's runtime, call by call, on the first GPU, which becomes the current one. cuda-python answers (code, *values)."""

    name = "cuda-python"

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._call("cudaSetDevice", 0)
        (bus_id,) = self._call("cudaDeviceGetPCIBusId", 32, 0)
        self.bus_id = bus_id.split(b"\0")[0].decode()

    def free_bytes(self) -> tuple[int, int]:
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def allocate(self, size_bytes: int, what: str) -> Held:
        size = max(size_bytes, 1)
        address = self._memory("cudaMalloc", size, what)
        return Held(address, size, lambda: self._free("cudaFree", address))

    def allocate_host(self, size_bytes: int, what: str) -> HostMemory:
        size = max(size_bytes, 1)
        address = self._memory("cudaMallocHost", size, what)
        array = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return HostMemory(address, size, lambda: self._free("cudaFreeHost", address), array)

    def stream(self) -> Held:
        # One that does not wait for the default stream, where other parts of the process may have work.
        (stream,) = self._call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        return Held(int(stream), stream, lambda: self._free("cudaStreamDestroy", stream))

    def on(self, stream: Held) -> AbstractContextManager[Any]:
        return nullcontext()

    def copy_in(self, host: HostMemory, device: Held, stream: Held) -> None:
        self._copy(device.handle, host.handle, host.owner, "cudaMemcpyHostToDevice", stream)

    def copy_out(self, device: Held, host: HostMemory, stream: Held) -> None:
        self._copy(host.handle, device.handle, host.owner, "cudaMemcpyDeviceToHost", stream)

    def synchronize(self, stream: Held) -> None:
        self._call("cudaStreamSynchronize", stream.owner)

    def event(self) -> Held:
        (event,) = self._call("cudaEventCreate")
        return Held(int(event), event, lambda: self._free("cudaEventDestroy", event))

    def record(self, event: Held, stream: Held) -> None:
        self._call("cudaEventRecord", event.owner, stream.owner)

    def elapsed_ms(self, start: Held, end: Held) -> float:
        self._call("cudaEventSynchronize", end.owner)
        (milliseconds,) = self._call("cudaEventElapsedTime", start.owner, end.owner)
        return float(milliseconds)

    def capture(self, stream: Held, work: Callable[[], None]) -> Held:
        # Of this thread alone: another one of the process may allocate meanwhile.
        self._call("cudaStreamBeginCapture", stream.owner, self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            _, graph = self._runtime.cudaStreamEndCapture(stream.owner)  # its own error says less than the one on its way
            if graph is not None and int(graph):
                self._runtime.cudaGraphDestroy(graph)
            raise
        (graph,) = self._call("cudaStreamEndCapture", stream.owner)
        try:
            (executable,) = self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._free("cudaGraphDestroy", graph)
        return Held(int(executable), executable, lambda: self._free("cudaGraphExecDestroy", executable))

    def launch(self, graph: Held, stream: Held) -> None:
        self._call("cudaGraphLaunch", graph.owner, stream.owner)

    def _copy(self, to: int, source: int, size: int, kind: str, stream: Held) -> None:
        self._call("cudaMemcpyAsync", to, source, size, getattr(self._runtime.cudaMemcpyKind, kind), stream.owner)

    def _memory(self, function: str, size: int, what: str) -> int:
        code, address = getattr(self._runtime, function)(size)
        if code == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            if function == "cudaMallocHost":
                raise BackendFault(f"out of memory: {what} needs {size} bytes of page-locked memory; take a smaller batch")
            raise out_of_memory(size, self.free_bytes(), what)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise BackendFault(f"{function}: {_told(self._runtime, code)}")
        return int(address)

    def _free(self, function: str, handle: Any) -> None:
        self._call(function, handle)

    def _call(self, function: str, *arguments: Any) -> tuple[Any, ...]:
        code, *values = getattr(self._runtime, function)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise BackendFault(f"{function}: {_told(self._runtime, code)}")
        return tuple(values)


def _told(runtime: Any, code: Any) -> str:
    """``cudaErrorIllegalAddress, an illegal memory access was encountered``."""
    _, text = runtime.cudaGetErrorString(code)
    name = getattr(code, "name", str(code))
    return f"{name}, {text.decode() if isinstance(text, bytes) else text}"
