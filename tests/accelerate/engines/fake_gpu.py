"""A strict stand-in for the GPU that an engine runs on: see fake_tensorrt.py for the library.

It does what a real one does where it matters, and less forgivingly: work put into a stream runs only when somebody waits for
it, nothing is freed while work is queued, nothing twice, and nothing before what uses it. What is wrong raises AssertionError,
or, where that would be lost (in ``__del__``), is a line of ``World.violations``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.accelerate.engines.buffers import Held, HostMemory, out_of_memory


@dataclass
class World:
    """What happened, in order, and what shall go wrong."""

    calls: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    alive: list[tuple[str, int]] = field(default_factory=list)
    runtimes: int = 0
    refuse: set[str] = field(default_factory=set)  # deserialize, context, profile, shape, address, execute, infer, free, stream
    invalid: int = 0  # diagnostics that get_engine_validity gives
    gpu_bytes: int = 1 << 20
    log: Callable[[str], None] = lambda _: None

    def say(self, call: str) -> None:
        self.calls.append(call)

    def born(self, what: str, of: int = 0) -> None:
        """``of``: the number of the runtime that it hangs on; 0: of the GPU itself."""
        self.say(f"make {what}")
        self.alive.append((what, of))

    def died(self, what: str, of: int = 0, *, before: tuple[str, ...] = ()) -> None:
        """``before``: what must be gone already."""
        self.say(f"free {what}")
        if (what, of) not in self.alive:
            self.violations.append(f"{what} freed twice")
            return
        self.alive.remove((what, of))
        self.violations += [f"{what} freed before {other}" for other, its in self.alive if other in before and its == of]


class FakeGpu:
    """A :class:`accel.accelerate.engines.buffers.Gpu` of numpy arrays."""

    name = "fake"
    bus_id = "0000:65:00.0"

    def __init__(self, world: World) -> None:
        self.world = world
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.clock_ms = 0.0
        self._next = 256
        self._current: int | None = None

    def free_bytes(self) -> tuple[int, int]:
        return self.world.gpu_bytes - sum(len(block) for block in self.memory.values()), self.world.gpu_bytes

    def allocate(self, size_bytes: int, what: str) -> Held:
        self._outside_capture()
        size = max(size_bytes, 1)
        if size > self.free_bytes()[0]:
            raise out_of_memory(size, self.free_bytes(), what)
        address = self._number()
        self.memory[address] = np.full(size, 0xAB, dtype=np.uint8)
        self.world.born("memory")
        return Held(address, None, lambda: self._free(address))

    def allocate_host(self, size_bytes: int, what: str) -> HostMemory:
        self._outside_capture()
        array = np.full(max(size_bytes, 1), 0xCD, dtype=np.uint8)
        self.world.born("host memory")
        return HostMemory(self._number(), array, lambda: self._give("host memory"), array)

    def stream(self) -> Held:
        if "stream" in self.world.refuse:
            raise out_of_memory(1, self.free_bytes(), "a stream")
        handle = self._number()
        self.queues[handle] = []
        self.world.born("stream")
        return Held(handle, None, lambda: self._close(handle))

    @contextmanager
    def on(self, stream: Held) -> Iterator[None]:
        assert stream.handle in self.queues, "a stream that is gone"
        before, self._current = self._current, stream.handle
        try:
            yield
        finally:
            self._current = before

    def copy_in(self, host: HostMemory, device: Held, stream: Held) -> None:
        self.world.say("copy in")
        self._copy(host.array, device.handle, stream, lambda block: np.copyto(block, host.array))

    def copy_out(self, device: Held, host: HostMemory, stream: Held) -> None:
        self.world.say("copy out")
        self._copy(host.array, device.handle, stream, lambda block: np.copyto(host.array, block))

    def synchronize(self, stream: Held) -> None:
        assert stream.handle not in self.capturing, "waiting while capturing"
        self.world.say("synchronize")
        self.run(stream.handle)

    def event(self) -> Held:
        self.world.born("event")
        owner: list[float] = []
        return Held(0, owner, lambda: self._give("event"))

    def record(self, event: Held, stream: Held) -> None:
        self.world.say("record")
        assert self._current == stream.handle
        owner = event.owner
        owner.clear()
        self.queues[stream.handle].append(lambda: owner.append(self.clock_ms))

    def elapsed_ms(self, start: Held, end: Held) -> float:
        for handle in self.queues:
            self.run(handle)
        return float(end.owner[0] - start.owner[0])

    def capture(self, stream: Held, work: Callable[[], None]) -> Held:
        assert self._current == stream.handle
        assert not self.queues[stream.handle], "capturing before the last work is done"
        self.capturing[stream.handle] = []
        try:
            work()
        finally:
            captured = self.capturing.pop(stream.handle)
        assert captured, "an empty graph"
        self.world.born("graph")
        return Held(0, captured, lambda: self._give("graph"))

    def launch(self, graph: Held, stream: Held) -> None:
        self.world.say("launch")
        assert self._current == stream.handle
        assert graph.owner is not None, "a graph that is gone"
        self.queues[stream.handle] += graph.owner

    # -- for the library below --

    def put(self, handle: int, work: Callable[[], None]) -> None:
        assert handle in self.queues, "a stream that is gone"
        assert self._current == handle, "outside `with gpu.on(stream)`"
        (self.capturing if handle in self.capturing else self.queues)[handle].append(work)

    def run(self, handle: int) -> None:
        assert handle in self.queues, "a stream that is gone"
        queue, self.queues[handle] = self.queues[handle], []
        for work in queue:
            work()

    def array(self, address: int, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self.memory.get(address)
        assert block is not None, "an address of no memory, or of memory that was freed"
        assert len(block) >= size, f"{len(block)} bytes for a tensor of {size}"
        return block[:size].view(dtype).reshape(shape)

    def _copy(self, host: NDArray[Any], address: int, stream: Held, move: Callable[[NDArray[Any]], None]) -> None:
        assert self._current == stream.handle, "outside `with gpu.on(stream)`"
        assert len(self.memory[address]) == len(host)

        def work() -> None:
            self.clock_ms += 0.5
            move(self.memory[address])

        self.put(stream.handle, work)

    def _free(self, address: int) -> None:
        assert not any(self.queues.values()), "memory freed while work is queued"
        if "free" in self.world.refuse:
            raise out_of_memory(0, (0, 0), "freeing")
        del self.memory[address]
        self._give("memory")

    def _close(self, handle: int) -> None:
        assert not self.queues.pop(handle), "stream closed with work in it"
        self._give("stream")

    def _give(self, what: str) -> None:
        self.world.died(what)

    def _outside_capture(self) -> None:
        assert not self.capturing, "allocating while capturing"

    def _number(self) -> int:
        self._next += 256
        return self._next
