"""Stand-ins for ``cuda.bindings.runtime`` and for what PyTorch does on a GPU: memory is the host's, work is done at once."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorNoDevice = 100
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class CudaRuntime:
    """``fail``: function to the code it answers. ``alive``: what was made and not destroyed, by kind."""

    cudaError_t = cudaError_t
    cudaMemcpyKind = cudaMemcpyKind
    cudaStreamCaptureMode = cudaStreamCaptureMode
    cudaStreamNonBlocking = 1

    def __init__(self) -> None:
        self.fail: dict[str, IntEnum] = {}
        self.alive: list[tuple[str, int]] = []
        self.calls: list[str] = []
        self._blocks: dict[int, Any] = {}
        self._next = 1000

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cuda") or not callable(found) or isinstance(found, type):
            return found

        def called(*arguments: Any) -> Any:
            self.calls.append(name)
            return (self.fail[name], None) if name in self.fail else found(*arguments)

        return called

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        assert device == 0
        return (cudaError_t.cudaSuccess,)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, 1

    def cudaDeviceGetPCIBusId(self, length: int, device: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, b"0000:65:00.0".ljust(length, b"\0")

    def cudaGetErrorString(self, error: IntEnum) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, b"what CUDA says"

    def cudaMemGetInfo(self) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, 5 << 20, 9 << 20

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        block = ctypes.create_string_buffer(size)
        self._blocks[ctypes.addressof(block)] = block
        return self._made("memory", ctypes.addressof(block))

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self.cudaMalloc(size)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        return self._gone("memory", address)

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        return self._gone("memory", address)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        return self._made("stream")

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._gone("stream", stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return self._used("stream", stream)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: IntEnum, stream: int) -> tuple[Any, ...]:
        assert isinstance(kind, cudaMemcpyKind)
        ctypes.memmove(to, source, size)
        return self._used("stream", stream)

    def cudaEventCreate(self) -> tuple[Any, ...]:
        return self._made("event")

    def cudaEventDestroy(self, event: int) -> tuple[Any, ...]:
        return self._gone("event", event)

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Any, ...]:
        return self._used("event", event)

    def cudaEventSynchronize(self, event: int) -> tuple[Any, ...]:
        return self._used("event", event)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, 1.5

    def cudaStreamBeginCapture(self, stream: int, mode: IntEnum) -> tuple[Any, ...]:
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        return self._used("stream", stream)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        return self._made("graph")

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return self._made("executable")

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._gone("graph", graph)

    def cudaGraphExecDestroy(self, executable: int) -> tuple[Any, ...]:
        return self._gone("executable", executable)

    def cudaGraphLaunch(self, executable: int, stream: int) -> tuple[Any, ...]:
        return self._used("executable", executable)

    def _made(self, kind: str, handle: int | None = None) -> tuple[Any, ...]:
        self._next += 1
        self.alive.append((kind, self._next if handle is None else handle))
        return cudaError_t.cudaSuccess, self.alive[-1][1]

    def _gone(self, kind: str, handle: int) -> tuple[Any, ...]:
        self.alive.remove((kind, handle))
        self._blocks.pop(handle, None)
        return (cudaError_t.cudaSuccess,)

    def _used(self, kind: str, handle: int) -> tuple[Any, ...]:
        assert (kind, handle) in self.alive
        return (cudaError_t.cudaSuccess,)


class TorchWorld:
    """PyTorch on a GPU that is not there. ``fail``: what to raise, by what is asked for."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.fail: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.current: Any = None
        empty = torch.empty
        world = self

        def on_the_host(size: int, *, dtype: torch.dtype, device: Any = None, pin_memory: bool = False) -> torch.Tensor:
            world.asked("pinned" if pin_memory else "memory")
            assert pin_memory == (device is None)
            return empty(size, dtype=dtype)

        class Stream:
            cuda_stream = 77

            def __init__(self, device: Any) -> None:
                world.asked("stream")

            def synchronize(self) -> None:
                world.asked("synchronize")

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing

            def record(self, stream: Stream) -> None:
                world.asked("record")

            def synchronize(self) -> None:
                world.asked("event synchronize")

            def elapsed_time(self, end: Event) -> float:
                return 1.5

        class CUDAGraph:
            def capture_begin(self, *, capture_error_mode: str) -> None:
                assert capture_error_mode == "thread_local"
                assert world.current is not None, "a graph is captured on the default stream"
                world.asked("capture_begin")

            def capture_end(self) -> None:
                world.asked("capture_end")

            def replay(self) -> None:
                world.asked("replay")

            def reset(self) -> None:
                world.asked("reset")

        @contextmanager
        def stream(given: Stream) -> Iterator[None]:
            self.current = given
            yield
            self.current = None

        place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x65, pci_device_id=0)
        patch.setattr(torch, "empty", on_the_host)
        for name, value in {
            "set_device": lambda device: world.asked("set_device"),
            "get_device_properties": lambda device: place,
            "mem_get_info": lambda device: (5 << 20, 9 << 20),
            "synchronize": lambda device: None,
            "is_available": lambda: True,
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": CUDAGraph,
            "stream": stream,
        }.items():
            patch.setattr(torch.cuda, name, value)  # fails where the real module has no such name
        patch.setattr(torch.version, "cuda", "13.0")

    def asked(self, what: str) -> None:
        self.calls.append(what)
        if what in self.fail:
            raise self.fail[what]
