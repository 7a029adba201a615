"""What a report says of the machine: what it is, what it did meanwhile, what it can do at best."""

from __future__ import annotations

from pydantic import Field

from accel.entry import Entry


class Conditions(Entry):
    """What the machine did while rows were timed; null where the system does not tell.

    ``others_share``: of this process's cores, taken by processes that are not ours; ``steal_share``: by the hypervisor;
    ``throttled_s``: our control group held back by its quota. ``drift``: the last third of all restarts against the first, over
    all rows (1: none). ``problems``: what of this is bad enough to be said, each a sentence.
    """

    seconds: float
    others_share: float | None = None
    steal_share: float | None = None
    throttled_s: float | None = None
    clock_mhz_before: float | None = None
    clock_mhz_after: float | None = None
    drift: float | None = None
    problems: list[str] = Field(default_factory=list)


class Peaks(Entry):
    """What this machine does at best with ``threads`` threads, by the runtimes' own kernels: a multiply-add is two operations.

    ``bandwidth_gb_s``: of the memory; ``cache_gb_s``: of what stays in a cache, the last level of which has ``cache_bytes``
    (null where the system does not tell). ``kernels``: which runtime and shape gave each figure. ``measured``: when; the
    figures are kept and used again.
    """

    threads: int
    fp32_gops: float
    bf16_gops: float | None = None
    int8_gops: float | None = None
    bandwidth_gb_s: float
    cache_gb_s: float | None = None
    cache_bytes: int | None = None
    kernels: dict[str, str] = Field(default_factory=dict)
    measured: str


class GpuState(Entry):
    """What a GPU does at one moment; null where its driver does not tell. ``throttled``: why it is slower than it could be."""

    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    throttled: list[str] = Field(default_factory=list)


class Gpu(Entry):
    """One GPU of the machine. ``before`` the run it mostly idles; ``after``: right after the last measurement, still warm."""

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_bytes: int
    before: GpuState | None = None
    after: GpuState | None = None


class Environment(Entry):
    """The machine and the versions that the figures hold for. No host or user name.

    ``cores`` and ``memory_bytes`` are what the process may use. ``load_average``: over the minute before the run; ``governor``:
    of the clock frequency. Both are null where the system does not tell. ``gpus``: NVIDIA's, as the driver counts them.
    """

    platform: str
    python: str
    cpu: str
    isa_flags: list[str]
    cores: int
    memory_bytes: int
    libraries: dict[str, str]
    governor: str | None = None
    load_average: float | None = None
    gpus: list[Gpu] = Field(default_factory=list)
