"""The child process that finds what one runtime gets out of this machine: each network compiled, checked, and run fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from typing import Any

from accel import catalog
from accel.benchmarks.turns import time_turn
from accel.contracts import Backend, ExecutedPrecision
from accel.errors import AccelError, MissingBackend
from accel.model import Target
from accel.onnx_file import read
from accel.peak_networks import Figure, Network, networks
from accel.worker import Emit

FASTEST = 3
"""How many inferences count: what others take of the machine does not lower what it can do. McCalpin's STREAM takes the one
fastest run; the slowest of three is not at the mercy of a clock that jumps once."""

PASSES = 4
"""The networks of one figure take turns: what disturbs one for a moment has ended when its next turn comes."""

_MIN_QUERIES = 3


def open_kernels(emit: Emit, backend: str, threads: int, memory_bytes: int, folder: str) -> Kernels:
    """Entry point of the child process; arguments are JSON. MissingBackend for a runtime that is not here."""
    found: Backend = catalog.backend(backend)
    reason = found.unavailable("cpu")
    if reason is not None:
        raise MissingBackend(reason)
    return Kernels(emit, found, networks(threads, memory_bytes), threads, Path(folder))


class Kernels:
    """Every public method takes and gives JSON."""

    def __init__(self, emit: Emit, backend: Backend, nets: Sequence[Network], threads: int, folder: Path) -> None:
        self._emit = emit
        self._backend = backend
        self._networks = nets
        self._threads = threads
        self._folder = folder

    def measure(self, figure: Figure, duration_s: float) -> dict[str, Any] | None:
        """The best of the networks for ``figure``, each timed for ``duration_s``; None where none ran as it should.

        ``value``: 1e9 operations or bytes a second; ``kernel``: which network.
        """
        taken: dict[Network, list[int]] = {}
        with ExitStack() as stack:
            calls = {
                network: call
                for network in self._networks
                if network.figure == figure and (call := self._compiled(network, stack)) is not None
            }
            for _ in range(PASSES):
                for network, call in calls.items():
                    self._emit({"doing": f"timing {network.what} on {self._backend.name} for {figure}"})
                    times = time_turn(call, duration_s=duration_s / PASSES, min_queries=_MIN_QUERIES)
                    taken.setdefault(network, []).extend(times)
        values = {network: network.amount / fastest_ns(times) for network, times in taken.items()}
        best = max(values, key=values.__getitem__, default=None)
        return None if best is None else {"value": values[best], "kernel": f"{best.what} on {self._backend.name}"}

    def _compiled(self, network: Network, stack: ExitStack) -> Callable[[], object] | None:
        """One inference; None where the network does not run here, or not in its precision."""
        precision = "bf16" if network.figure == "bf16_gops" else "fp32"
        target = Target("peak", self._backend.name, threads=self._threads, precision=precision)
        path = self._folder / "network.onnx"
        try:
            self._backend.check_options(target)
            inputs = network.write(path)
            runner = stack.enter_context(self._backend.compile(read(path), target, self._folder))
            if not as_meant(network.figure, runner.executed_precision()):
                return None
        except AccelError:  # another network gives the figure, or another runtime, or nothing does
            return None
        feeds = cycle([{"x": array} for array in inputs])
        return lambda: runner(next(feeds))


def as_meant(figure: Figure, ran: ExecutedPrecision) -> bool:
    """Whether a network for ``figure`` ran in the precision that the figure is about."""
    if figure == "int8_gops":
        return 0 < ran.quantized_operators <= ran.int8_operators
    return ran.int8_operators == 0 and ran.float_precision == ("bf16" if figure == "bf16_gops" else "fp32")


def fastest_ns(taken: Sequence[int]) -> int:
    """The slowest of the fastest three."""
    return sorted(taken)[:FASTEST][-1]
