"""Memory, streams, events and graphs of one GPU: what an engine runs with.

Two implementations: PyTorch's CUDA allocator where PyTorch sees a GPU (memory is then shared with it), else cuda-python. Both
use the first GPU that CUDA shows this process (``CUDA_VISIBLE_DEVICES`` decides which that is).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from accel.errors import BackendFault, MissingBackend

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MIB = 1 << 20


class Held:
    """Something of the GPU that is given back once. ``handle``: an address or CUDA's handle; ``owner``: what keeps it alive."""

    def __init__(self, handle: int, owner: Any, give_back: Callable[[], None]) -> None:
        self.handle = handle
        self.owner = owner
        self._give_back: Callable[[], None] | None = give_back

    def release(self) -> None:
        """Give it back; a second call does nothing. Raises BackendFault where the runtime refuses."""
        give_back, self._give_back, self.owner = self._give_back, None, None
        if give_back is not None:
            give_back()


class HostMemory(Held):
    """Page-locked memory of the host: copies need no second one. ``array``: (bytes,) uint8, gone once it is released."""

    def __init__(self, handle: int, owner: Any, give_back: Callable[[], None], array: NDArray[np.uint8]) -> None:
        super().__init__(handle, owner, give_back)
        self.array = array

    def release(self) -> None:
        vars(self).pop("array", None)  # it would show memory that is somebody else's
        super().release()


class Gpu(Protocol):
    """One GPU through one library. Every method raises BackendFault with CUDA's name of the error.

    ``copy_in``, ``copy_out``, ``record`` and ``launch`` return at once and run in the order of their stream. They, ``capture``
    and whatever a library runs meanwhile belong inside ``with gpu.on(stream)``.
    """

    name: str
    bus_id: str

    def free_bytes(self) -> tuple[int, int]:
        """Free memory, and all there is."""
        ...

    def allocate(self, size_bytes: int, what: str) -> Held:
        """At least ``size_bytes`` (and at least 1) on the GPU, aligned to 256. ``what`` it is for, if there is not enough."""
        ...

    def allocate_host(self, size_bytes: int, what: str) -> HostMemory: ...
    def stream(self) -> Held: ...
    def on(self, stream: Held) -> AbstractContextManager[Any]: ...
    def copy_in(self, host: HostMemory, device: Held, stream: Held) -> None:
        """The whole of ``host`` to ``device``, which has the same size."""
        ...

    def copy_out(self, device: Held, host: HostMemory, stream: Held) -> None: ...
    def synchronize(self, stream: Held) -> None: ...
    def event(self) -> Held: ...
    def record(self, event: Held, stream: Held) -> None: ...
    def elapsed_ms(self, start: Held, end: Held) -> float:
        """Waits for ``end``."""
        ...

    def capture(self, stream: Held, work: Callable[[], None]) -> Held:
        """What ``work`` puts into ``stream`` as a graph, without running it; capturing ends even where ``work`` raises."""
        ...

    def launch(self, graph: Held, stream: Held) -> None: ...


def first_gpu() -> Gpu:
    """The first GPU that CUDA shows this process, by the first library that sees one; MissingBackend where none does."""
    reasons = []
    for name, module in (
        ("torch", "accel.accelerate.engines.buffers_torch"),
        ("cuda", "accel.accelerate.engines.buffers_cuda"),
    ):
        try:
            import_module(name)
        except (ImportError, OSError) as error:  # OSError: a shared library of it is missing
            reasons.append(f"{name} cannot be imported ({' '.join(str(error).split())})")
            continue
        found = import_module(module).find()
        if not isinstance(found, str):
            gpu: Gpu = found
            return gpu
        reasons.append(found)
    raise MissingBackend(
        f"nothing here can hold memory of a GPU: {'; '.join(reasons)}; get it with: pip install --upgrade 'accel-toolkit[cuda]'"
    )


def out_of_memory(needed: int, free: tuple[int, int], what: str) -> BackendFault:
    """What a failed allocation of ``needed`` bytes ends with."""
    left, total = free
    return BackendFault(
        f"out of GPU memory: {what} needs {_mib(needed)}, and {_mib(left)} of {_mib(total)} are free; take a smaller batch or"
        " fewer streams, or end what else uses the GPU"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / _MIB:.1f} MiB" if size_bytes >= _MIB / 10 else f"{size_bytes} bytes"
