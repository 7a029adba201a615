"""The two TensorRT libraries: which is here, in which version. The only file that imports them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from functools import cache
from importlib import import_module
from traceback import clear_frames
from typing import Any

from accel import telemetry
from accel.accelerate import installed, nvidia_device
from accel.accelerate.engines import buffers as tensorrt_buffers
from accel.accelerate.engines.editions import EDITIONS, Edition, edition, lacking
from accel.accelerate.engines.options import capabilities
from accel.accelerate.installed import Library
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.errors import MissingBackend
from accel.model import Target

TENSORRT = Library(module="tensorrt", distribution="tensorrt", minimum=(10, 12), extra="tensorrt")
TENSORRT_RTX = Library(module="tensorrt_rtx", distribution="tensorrt-rtx-cu13", minimum=(1, 7), extra="tensorrt-rtx")
LIBRARIES = {"tensorrt": TENSORRT, "tensorrt-rtx": TENSORRT_RTX}
"""Value of the option ``library`` to the library, the one that ``auto`` prefers first."""

Sink = Callable[[str, str], None]
"""``sink(severity, message)``; severity: ``internal_error``, ``error``, ``warning``, ``info`` or ``verbose``. Never raises."""


@dataclass(frozen=True, eq=False)
class TensorRtLibrary:
    """One of the two, imported. ``trt`` is the module; ``edition`` its row in the table of differences."""

    name: str
    version: str
    trt: Any
    edition: Edition
    _loggers: list[Any] = field(default_factory=list, repr=False)

    @property
    def major(self) -> int:
        return _major(self.version)

    def logger(self, sink: Sink) -> Any:
        """An ``ILogger`` that gives every message to ``sink``, which may be called from threads of the library.

        It is kept for the life of the process: the library holds on to the first one it was given, and does not own it.
        """
        made = _logger(self.trt, sink)
        self._loggers.append(made)
        return made


def chosen(library: str) -> TensorRtLibrary:
    """``tensorrt``, ``tensorrt-rtx``, or for ``auto`` the first of them that can be used. Raises MissingBackend."""
    name = _first_usable() if library == "auto" else library
    sentence = problem(name)
    if sentence is not None:
        raise MissingBackend(sentence)
    return _opened(name)


def resolved(target: Target) -> str:
    """The name of the library that serves ``target``: what it says, or of ``auto`` the first that has all that is asked.

    Where none has, the first that can be used here; where none can, ``auto``.
    """
    asked = str(target.options.get("library", "auto"))
    if asked != "auto":
        return asked
    here = [name for name in LIBRARIES if problem(name) is None]
    able = [name for name in here if not lacking(_edition_here(name), target.options)]
    return next((name for name in able if _needs_gpu(name, target) is None), next(iter([*able, *here]), "auto"))


def problem(library: str) -> str | None:
    """None, or one sentence: why ``auto``, ``tensorrt`` or ``tensorrt-rtx`` cannot be used here."""
    if library != "auto":
        return installed.problem(LIBRARIES[library])
    sentences = [installed.problem(found) for found in LIBRARIES.values()]
    if None in sentences:
        return None
    if not versions():
        return (
            f"neither TensorRT nor TensorRT-RTX is installed; get one with: {TENSORRT.install} (data centre, Jetson),"
            f" or: {TENSORRT_RTX.install} (RTX GPUs; builds without a GPU)"
        )
    present = [name for name, found in LIBRARIES.items() if installed.versions(found)]
    return sentences[list(LIBRARIES).index(present[0])]


def gpu_problem() -> str | None:
    """None, or one sentence: why no NVIDIA GPU can be used here."""
    return nvidia_device.problem()


def cannot_build(target: Target) -> str | None:
    """None, or one sentence: why an engine for ``target`` cannot be built here."""
    name = resolved(target)
    return problem(name) or _needs_gpu(name, target)


def cannot_run(target: Target) -> str | None:
    """None, or one sentence: why an engine for ``target`` cannot run here: no GPU, or none that it is meant for."""
    sentence = gpu_problem()
    missing = problem(resolved(target)) or (None if sentence is None else f"no GPU: {sentence}")
    named = capabilities(target)
    if missing is not None or not named:
        return missing
    here = [device.compute_capability for device in nvidia_device.found()]
    if set(here) & set(named):
        return None
    return f"no GPU with compute capability {' or '.join(named)}: here is {', '.join(dict.fromkeys(here))}"


def built_with(target: Target) -> dict[str, Any]:
    """What decides an engine besides its model and target: the library, and the GPU and driver where no other GPU is named.

    MissingBackend where several GPUs are here and CUDA does not tell which is its first.
    """
    name = resolved(target)
    devices = () if target.options.get("compute_capabilities") else nvidia_device.found()
    here = {"gpu": astuple(builds_on(devices))} if devices else {}
    return {"library": name, "versions": installed.versions(LIBRARIES[name]) if name in LIBRARIES else {}, **here}


def builds_on(devices: tuple[NvidiaDevice, ...]) -> NvidiaDevice:
    """Of NVML's, the one that CUDA counts as its first (CUDA_VISIBLE_DEVICES decides), which is where the library builds."""
    if len(devices) == 1:
        return devices[0]
    return nvidia_device.at(tensorrt_buffers.first_gpu().bus_id) or devices[0]


@contextmanager
def undisturbed() -> Iterator[None]:
    """Around every use of the library: Python's garbage collector waits, and an error lets go of the library's objects.

    The library logs while it holds a lock of its own. A logger in Python may then set off the collector, and where that finds a
    builder or runtime (which the frames of an earlier error kept), freeing it waits for the same lock for ever. Met with
    TensorRT-RTX 1.7.1: ``createInferBuilder``, log, collector, ``~IBuilder``. What runs inside is a function of its own: the
    variables of the one that has this ``with`` are not let go.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    except BaseException as error:
        found: BaseException | None = error
        while found is not None:
            clear_frames(found.__traceback__)
            found = found.__cause__ or found.__context__
        raise
    finally:
        if was_on:
            gc.enable()


def installed_distribution() -> str | None:
    """The name of the first installed distribution that brings one of the two libraries; None if there is none."""
    return next(iter(versions()), None)


def versions() -> dict[str, str]:
    """Every installed distribution that brings one of the two libraries, to its version."""
    return {name: version for found in LIBRARIES.values() for name, version in installed.versions(found).items()}


def _first_usable() -> str:
    usable = next((name for name in LIBRARIES if problem(name) is None), None)
    if usable is None:
        raise MissingBackend(str(problem("auto")))
    return usable


def _needs_gpu(name: str, target: Target) -> str | None:
    """None, or why a build with the library, which is here, needs a GPU that is not."""
    row = _edition_here(name)
    refits = bool(target.options.get("refittable")) and row.refit_needs_gpu
    if row.builds_without_gpu and target.options.get("compute_capabilities") and not refits:
        return None
    sentence = gpu_problem()
    if sentence is None:
        return None
    if row.builds_without_gpu and refits:
        return f"{name} builds a refittable engine on a GPU only: {sentence}; or leave refittable out"
    if row.builds_without_gpu:
        way = 'name GPUs that it is for, `compute_capabilities: ["8.9"]`, to build without one'
        return f"no GPU to build for: {sentence}; or {way}"
    return (
        f"{name} builds on the GPU that the engine is for: {sentence}; TensorRT-RTX with"
        ' `compute_capabilities: ["8.9"]` builds without one'
    )


def _edition_here(name: str) -> Edition:
    """By the version as installed, without importing; a library without a distribution is taken for the newest."""
    found = next(iter(installed.versions(LIBRARIES[name]).values()), None)
    newest = max(row.major for row in EDITIONS if row.library == name)
    return edition(name, newest if found is None else _major(found))


@cache  # its loggers are kept with it
def _opened(name: str) -> TensorRtLibrary:
    telemetry.switch_off()
    trt = import_module(LIBRARIES[name].module)
    version = str(trt.__version__)
    return TensorRtLibrary(name, version, trt, edition(name, _major(version)))


def _major(version: str) -> int:
    first = version.partition(".")[0]
    return int(first) if first.isdecimal() else 0


def _logger(trt: Any, sink: Sink) -> Any:
    """The module's ``ILogger`` exists only once the module is imported, so the subclass is made here."""
    names = {
        int(getattr(trt.ILogger, name.upper())): name for name in ("internal_error", "error", "warning", "info", "verbose")
    }

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # pybind11 asks for the base class's own call, not super()

        def log(self, severity: Any, message: str) -> None:
            sink(names.get(int(severity), "verbose"), message)

    return Logger()
