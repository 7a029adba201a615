"""What variants of one network cost in time on the target: measured through the job's probe, remembered by the job's memo."""

from __future__ import annotations

import hashlib
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from accel.compress.edits import edits_of, to_json
from accel.contracts import Job, NumberFormat, Probe
from accel.errors import PassFault
from accel.model import TorchModel

AT_ONCE = 12
"""So many variants, and the whole network beside them, are measured and remembered together: what a kill can cost."""

SAVES_NOTHING = 0.003
"""Of the whole network's latency: less than this is noise even on a quiet machine."""


@dataclass(frozen=True)
class Variant:
    """``label``: what was done to the network, JSON-ready; ``make`` does it."""

    label: Any
    make: Callable[[], TorchModel]


@dataclass(frozen=True)
class Latencies:
    """Milliseconds of the whole network and of each variant, in their order, as if all had been measured at one time.

    ``noise_ms``: a difference up to this says nothing: twice what the whole network and its twin differed by.
    """

    whole_ms: float
    variants_ms: tuple[float, ...]
    noise_ms: float


def probe_of(job: Job) -> Probe:
    """The job's probe. PassFault without one."""
    if job.probe is None:
        raise PassFault(
            "prune: constraint latency_ms measures on a target, and this job has no probe; run it in a recipe, or give "
            "Job.local(..., probe=...)"
        )
    return job.probe


def measure(model: TorchModel, variants: Sequence[Variant], job: Job, precision: NumberFormat | None) -> Latencies:
    """Measure ``model`` and ``variants`` of it. ``precision``: the probe's own where None.

    Each portion is measured beside the whole network, and counts relative to it: the machine may change its speed meanwhile.
    Where there are several variants the whole network is measured twice, which shows the noise.
    PassFault naming the variant that cannot be exported or compiled.
    """
    probe = probe_of(job)
    wanted = precision or probe.precision
    network = structure(model)
    identity = dict(probe.identity)
    whole: list[float] = []
    ratios: list[float] = []
    apart = [SAVES_NOTHING / 2]
    twins = [model] if len(variants) > 1 else []
    for first in range(0, len(variants), AT_ONCE):
        portion = variants[first : first + AT_ONCE]
        labels = [variant.label for variant in portion]
        key = {
            "what": "latency table",
            "version": 1,
            "twins": len(twins),
            "network": network,
            "probe": identity,
            "precision": wanted,
            "variants": labels,
        }
        job.progress(first, len(variants), "variants measured")

        def timed(portion: Sequence[Variant] = portion, labels: Sequence[Any] = labels) -> list[float]:
            try:
                return list(probe.latencies_ms([model, *twins, *(variant.make() for variant in portion)], wanted))
            except PassFault as error:
                raise PassFault(
                    f"prune: measuring candidates ({1 + len(twins)} of the whole network, then {labels}): {error}"
                ) from error

        found: list[float] = job.memo(key, timed)
        whole.append(found[0])
        apart += [abs(twin / found[0] - 1) for twin in found[1 : 1 + len(twins)]]
        ratios += [latency / found[0] for latency in found[1 + len(twins) :]]
    job.progress(len(variants), len(variants), "variants measured")
    typical = statistics.median(whole)
    return Latencies(typical, tuple(ratio * typical for ratio in ratios), 2 * max(apart) * typical)


def structure(model: TorchModel) -> str:
    """Digest of what decides a network's speed: classes, settings, code and shapes, but no weights. Names count, too.

    The code is that of the files that define the modules' classes: a forward calls other methods, and functions beside it.
    """
    total = hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(model.module)).encode())
    for spec in model.signature.inputs:
        total.update(repr(asdict(spec)).encode())
    for name, tensor in model.module.state_dict().items():
        total.update(f"{name}:{tuple(getattr(tensor, 'shape', ()))}:{getattr(tensor, 'dtype', '')};".encode())
    kinds = dict.fromkeys(type(part) for part in model.module.modules())
    for kind in kinds:
        total.update(_code(kind))
    for module in sorted({kind.__module__ for kind in kinds if kind.__module__.partition(".")[0] != "torch"}):
        total.update(_source(module))
    total.update(repr(to_json(edits_of(model.module))).encode())
    return total.hexdigest()


def _code(kind: type[nn.Module]) -> bytes:
    code = getattr(kind.forward, "__code__", None)
    return b"" if code is None else repr((kind.__qualname__, code.co_code, code.co_names, _plain(code.co_consts))).encode()


def _source(module: str) -> bytes:
    """The file that defines the module of this name; nothing for one that is in no file (a notebook's)."""
    file = getattr(sys.modules.get(module), "__file__", None)
    with suppress(OSError):
        return b"" if file is None else Path(file).read_bytes()
    return b""


def _plain(constants: Sequence[Any]) -> list[Any]:
    """Without nested code objects, whose print holds an address."""
    return [value for value in constants if isinstance(value, int | float | str | bytes | tuple | None)]


def summary(saved_ms: Mapping[str, float], whole_ms: float) -> str:
    """``layer1.0 0.021 ms (5 %)``, the largest first: one line for a note."""
    ordered = sorted(saved_ms.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {saved:.3g} ms ({saved / whole_ms:.0%})" for name, saved in ordered)
