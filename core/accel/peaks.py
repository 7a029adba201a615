"""What this machine does at best, by the runtimes' own kernels: measured once, kept in the store, used by every report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from accel.atomic import exclusive
from accel.benchmarks import environment
from accel.benchmarks.caches import last_level
from accel.display import Display
from accel.distributions import flavours
from accel.errors import AccelError
from accel.machine import Peaks
from accel.peak_networks import Figure
from accel.store import Store, digest_of
from accel.worker import Worker

VERSION = 1
"""Goes up when the same machine would get other figures."""

RUNTIMES = ("onnxruntime", "openvino")
DURATION_S = 0.2
_SHARE_OF_MEMORY = 8
_LEAST_BYTES, _MOST_BYTES = 64 << 20, 512 << 20
_TIMEOUT_S = 60.0
_FIGURES: tuple[Figure, ...] = get_args(Figure)


def peaks(store: Path, threads: int, *, screen: Display, duration_s: float = DURATION_S) -> Peaks | None:
    """The stored figures for this machine, these versions of the runtimes and ``threads``, or newly measured ones.

    None where no runtime that can be timed is here. ``duration_s``: of each kernel. Held back while another run is timing.
    """
    if not _runtimes():
        return None
    kept = Store(store, warn=screen.note)
    key = digest_of({"name": "peaks", **identity(threads)})
    try:
        found = _stored(kept, key)
        if found is not None:
            return found
        with (
            exclusive(store / "locks" / "timing.lock", waiting=lambda: screen.note("waiting for another run that is timing")),
            kept.claim(key) as claim,
        ):
            found = _stored(kept, key)  # another run may have measured them meanwhile
            if found is None:
                screen.stage("measuring what this machine does at best, once")
                found = _measured(threads, claim.scratch, screen, duration_s)
                if found is not None:
                    claim.commit({"name": "this machine's peaks", "value": found.model_dump(mode="json")})
            return found
    finally:
        kept.release()


def identity(threads: int) -> dict[str, Any]:
    """All that the figures depend on."""
    return {
        "version": VERSION,
        "threads": threads,
        "cpu": environment.cpu_name(),
        "isa_flags": environment.isa_flags(),
        "cores": environment.cores(),
        "caches": last_level(),
        "libraries": _runtimes(),
        "accel": version("accel-toolkit"),
    }


def _runtimes() -> dict[str, str]:
    """The installed distributions that bring one, to their versions."""
    return environment.versions([name for runtime in RUNTIMES for name in flavours(runtime)])


def _stored(kept: Store, key: str) -> Peaks | None:
    entry = kept.find(key)
    if entry is None:
        return None
    try:
        return Peaks.model_validate(entry.meta["value"])
    except (KeyError, ValidationError):  # something else wrote there: measured again
        return None


def _measured(threads: int, folder: Path, screen: Display, duration_s: float) -> Peaks | None:
    caches = sorted(last_level(), reverse=True)
    answers: list[Mapping[str, Mapping[str, Any]]] = []
    for runtime in RUNTIMES:
        try:
            answers.append(_answers(runtime, threads, buffer_bytes(caches, environment.memory_bytes()), folder, duration_s))
        except AccelError as error:
            screen.note(f"{runtime} tells nothing about this machine's peak: {error}")
    best = {figure: found for figure in _FIGURES if (found := _best(figure, answers)) is not None}
    if "fp32_gops" not in best or "bandwidth_gb_s" not in best:
        return None
    for figure in _FIGURES:
        if figure not in best:
            screen.note(f"this machine's {figure} is not known: no runtime here ran such a kernel as it should")
    return Peaks(
        threads=threads,
        cache_bytes=sum(caches[:threads]) or None,
        kernels={figure: str(found["kernel"]) for figure, found in best.items()},
        measured=datetime.now(UTC).isoformat(timespec="seconds"),
        **{figure: round(float(found["value"]), 2) for figure, found in best.items()},
    )


def _answers(runtime: str, threads: int, memory_bytes: int, folder: Path, duration_s: float) -> dict[str, Any]:
    """Figure to value and kernel, of one runtime in a child of its own. Raises what the child raised."""
    place = folder / runtime
    place.mkdir(parents=True, exist_ok=True)
    arguments = {"backend": runtime, "threads": threads, "memory_bytes": memory_bytes, "folder": str(place)}
    with Worker(f"peaks of {runtime}", "accel.peak_kernels:open_kernels", arguments, log=place / "log.txt") as child:
        child.result(timeout_s=_TIMEOUT_S)
        found = {
            figure: child.call("measure", timeout_s=_TIMEOUT_S, figure=figure, duration_s=duration_s) for figure in _FIGURES
        }
    return {figure: answer for figure, answer in found.items() if answer is not None}


def _best(figure: Figure, answers: Sequence[Mapping[str, Mapping[str, Any]]]) -> Mapping[str, Any] | None:
    found = [answer[figure] for answer in answers if figure in answer]
    return max(found, key=lambda each: float(each["value"]), default=None)


def buffer_bytes(caches: Sequence[int], memory_bytes: int) -> int:
    """How much is read to tell the memory's bandwidth: four times all caches, as far as there is room for it."""
    return max(1, min(max(_LEAST_BYTES, 4 * sum(caches)), _MOST_BYTES, memory_bytes // _SHARE_OF_MEMORY))
