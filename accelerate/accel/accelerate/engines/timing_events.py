"""How long an engine takes, by CUDA events: on the GPU's own clock, with and without the copies from and to the host."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from accel.accelerate.engines.lane import Lane, release_all

if TYPE_CHECKING:
    from accel.accelerate.engines.buffers import Gpu
    from accel.accelerate.nvidia_device import DeviceState


@dataclass(frozen=True)
class Latency:
    """``ms``: of each query. ``copies``: whether the copies from and to page-locked memory of the host are part of it."""

    ms: tuple[float, ...]
    copies: bool
    cuda_graphs: bool
    before: DeviceState
    after: DeviceState


@dataclass(frozen=True)
class Throughput:
    """Queries per second over ``streams`` at once, by the host's clock from the first to the end of the last."""

    queries_per_s: float
    streams: int
    copies: bool
    cuda_graphs: bool
    before: DeviceState
    after: DeviceState


def latencies_ms(gpu: Gpu, lane: Lane, queries: int, *, copies: bool, warmup: int) -> tuple[float, ...]:
    """Each query starts when the one before is done, so the time that it takes to start it counts too.

    ``lane`` is prepared and written. With ``copies`` False its inputs lie on the GPU, and its outputs stay there.
    """
    start, end = gpu.event(), gpu.event()
    found = []
    try:
        with lane.on():
            lane.copy_in()
            lane.synchronize()
            for query in range(warmup + queries):
                gpu.record(start, lane.stream)
                _query(lane, copies=copies)
                gpu.record(end, lane.stream)
                elapsed = gpu.elapsed_ms(start, end)
                if query >= warmup:
                    found.append(elapsed)
    finally:
        release_all([start, end])
    return tuple(found)


def queries_per_s(lanes: Sequence[Lane], queries: int, *, copies: bool, warmup: int) -> float:
    """``queries`` dealt out to ``lanes`` in turn, none waited for until the last; ``warmup`` ones on each before."""
    for lane in lanes:
        with lane.on():
            lane.copy_in()
            for _ in range(warmup):
                _query(lane, copies=copies)
            lane.synchronize()
    begun = time.perf_counter()
    for query in range(queries):
        lane = lanes[query % len(lanes)]
        with lane.on():
            _query(lane, copies=copies)
    for lane in lanes:
        lane.synchronize()
    return queries / (time.perf_counter() - begun)


def _query(lane: Lane, *, copies: bool) -> None:
    if copies:
        lane.copy_in()
    lane.execute()
    if copies:
        lane.copy_out()
