"""The child process that finds what one runtime gets out of this machine: each network compiled, checked, and run fast."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog
from accel.benchmarks.turns import time_turn
from accel.contracts import Backend, ExecutedPrecision, Runner
from accel.errors import AccelError, MissingBackend
from accel.model import Target
from accel.onnx_file import read
from accel.peak_networks import Figure, Network, networks
from accel.worker import Emit

if TYPE_CHECKING:
    from accel.contracts import Array

FASTEST = 0.05
"""The share of inferences that count: what others take of the machine does not lower what it can do. McCalpin's STREAM takes
the one fastest run; the median of a few is not at the mercy of the clock."""

MIN_QUERIES = 5


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
        best: dict[str, Any] | None = None
        for network in self._networks:
            if network.figure != figure:
                continue
            self._emit({"doing": f"timing {network.what} on {self._backend.name} for {figure}"})
            value = self._timed(network, duration_s)
            if value is not None and (best is None or value > best["value"]):
                best = {"value": value, "kernel": f"{network.what} on {self._backend.name}"}
        return best

    def _timed(self, network: Network, duration_s: float) -> float | None:
        precision = "bf16" if network.figure == "bf16_gops" else "fp32"
        target = Target("peak", self._backend.name, threads=self._threads, precision=precision)
        path = self._folder / "network.onnx"
        try:
            self._backend.check_options(target)
            inputs = network.write(path)
            with self._backend.compile(read(path), target, self._folder) as runner:
                return self._value(runner, network, inputs, duration_s)
        except AccelError:  # this precision, or this network, is not for this runtime: then another gives the figure, or none
            return None

    def _value(self, runner: Runner, network: Network, inputs: Sequence[Array], duration_s: float) -> float | None:
        if not as_meant(network.figure, runner.executed_precision()):
            return None
        feeds = cycle([{"x": array} for array in inputs])
        taken = time_turn(lambda: runner(next(feeds)), duration_s=duration_s, min_queries=MIN_QUERIES)
        return network.amount / fastest_ns(taken)


def as_meant(figure: Figure, ran: ExecutedPrecision) -> bool:
    """Whether a network for ``figure`` ran in the precision that the figure is about."""
    if figure == "int8_gops":
        return 0 < ran.quantized_operators <= ran.int8_operators
    return ran.int8_operators == 0 and ran.float_precision == ("bf16" if figure == "bf16_gops" else "fp32")


def fastest_ns(taken: Sequence[int]) -> float:
    """The median of the fastest twentieth, at least of three."""
    return statistics.median(sorted(taken)[: max(3, round(FASTEST * len(taken)))])
