"""Memory, streams, events and graphs of a GPU by PyTorch's CUDA allocator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import torch

from accel.accelerate.engines.buffers import Held, HostMemory, out_of_memory
from accel.errors import BackendFault


def find() -> TorchGpu | str:
    """The first GPU that CUDA shows this process, or why there is none."""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} sees no GPU"
    return TorchGpu()


class TorchGpu:
    """PyTorch on the first GPU, which becomes the current one. Memory is tensors of bytes, and goes back to PyTorch's cache."""

    name = "torch"

    def __init__(self) -> None:
        self._cuda: Any = torch.cuda  # much of it has no types
        self._place = torch.device("cuda", 0)
        with _faults():
            self._cuda.set_device(self._place)  # TensorRT takes the current one
            self.bus_id = _bus_id(torch.cuda.get_device_properties(self._place))

    def free_bytes(self) -> tuple[int, int]:
        with _faults():
            free, total = torch.cuda.mem_get_info(self._place)
        return int(free), int(total)

    def allocate(self, size_bytes: int, what: str) -> Held:
        with _faults():
            try:
                tensor = torch.empty(max(size_bytes, 1), dtype=torch.uint8, device=self._place)
            except torch.cuda.OutOfMemoryError:
                raise out_of_memory(size_bytes, self.free_bytes(), what) from None
            # The block may come from the cache, where work of the default stream can still use it.
            torch.cuda.synchronize(self._place)
        return _held(tensor.data_ptr(), tensor)

    def allocate_host(self, size_bytes: int, what: str) -> HostMemory:
        with _faults():
            tensor = torch.empty(max(size_bytes, 1), dtype=torch.uint8, pin_memory=True)
        owned = [tensor]
        return HostMemory(tensor.data_ptr(), tensor, owned.clear, tensor.numpy())

    def stream(self) -> Held:
        with _faults():
            stream = self._cuda.Stream(self._place)
        return _held(stream.cuda_stream, stream)

    def on(self, stream: Held) -> AbstractContextManager[Any]:
        return torch.cuda.stream(stream.owner)

    def copy_in(self, host: HostMemory, device: Held, stream: Held) -> None:
        with _faults():
            device.owner.copy_(host.owner, non_blocking=True)

    def copy_out(self, device: Held, host: HostMemory, stream: Held) -> None:
        with _faults():
            host.owner.copy_(device.owner, non_blocking=True)

    def synchronize(self, stream: Held) -> None:
        with _faults():
            stream.owner.synchronize()

    def event(self) -> Held:
        with _faults():
            event = self._cuda.Event(enable_timing=True)
        return _held(0, event)

    def record(self, event: Held, stream: Held) -> None:
        with _faults():
            event.owner.record(stream.owner)

    def elapsed_ms(self, start: Held, end: Held) -> float:
        with _faults():
            end.owner.synchronize()
            return float(start.owner.elapsed_time(end.owner))

    def capture(self, stream: Held, work: Callable[[], None]) -> Held:
        graph = torch.cuda.CUDAGraph()
        with _faults():
            graph.capture_begin(capture_error_mode="thread_local")  # another thread of the process may allocate meanwhile
        try:
            work()
        except BaseException:
            _end_quietly(graph)
            raise
        with _faults():
            graph.capture_end()
        return Held(0, graph, lambda: _reset(graph))

    def launch(self, graph: Held, stream: Held) -> None:
        with _faults():
            graph.owner.replay()


def _bus_id(properties: Any) -> str:
    """Its place on the PCI bus; empty where this PyTorch does not tell."""
    try:
        return f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    except AttributeError:
        return ""


def _held(handle: int, owner: Any) -> Held:
    """PyTorch frees what nothing refers to any more: giving back is forgetting."""
    return Held(handle, owner, [owner].clear)


def _end_quietly(graph: Any) -> None:
    with suppress(RuntimeError):  # what broke the capture is already on its way, and says more
        graph.capture_end()


def _reset(graph: Any) -> None:
    with _faults():
        graph.reset()


@contextmanager
def _faults() -> Iterator[None]:
    """CUDA's errors, as PyTorch raises them, as BackendFault."""
    try:
        yield
    except RuntimeError as error:  # torch.AcceleratorError is one, and has CUDA's number of the error
        number = getattr(error, "error_code", None)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BackendFault(f"{first}{'' if number is None else f' (cudaError {number})'}") from error
