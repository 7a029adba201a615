"""NVIDIA GPUs of this machine, by NVML. The only file that imports it; no CUDA context is made.

NVML tells of the machine, not of this process: it does not see ``CUDA_VISIBLE_DEVICES``, counts in the order of the PCI bus
(CUDA counts the fastest first, unless told otherwise), and gives a GPU that is split (MIG) as one device with all its memory.
:func:`at` finds the device that CUDA calls its own by its place on the bus, which holds in all three cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from accel.errors import MissingBackend

# Bits of nvmlDeviceGetCurrentClocksEventReasons that slow a device down against its owner's will. Idle clocks, and clocks
# that somebody set, are no throttling. Source: NVML API reference, "NvmlClocksEventReasons".
_REASONS = {
    "nvmlClocksThrottleReasonSwPowerCap": "power cap",
    "nvmlClocksThrottleReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksThrottleReasonSyncBoost": "held to another GPU's clock",
    "nvmlClocksThrottleReasonSwThermalSlowdown": "temperature (software limit)",
    "nvmlClocksThrottleReasonHwThermalSlowdown": "temperature (hardware limit)",
    "nvmlClocksThrottleReasonHwPowerBrakeSlowdown": "power brake",
}


@dataclass(frozen=True)
class NvidiaDevice:
    """One GPU. ``index`` is NVML's; ``compute_capability`` like ``"8.9"``; ``bus_id`` its place on the PCI bus.

    ``memory_bytes`` is 0 where the driver does not tell: a GPU that shares the processor's memory.
    """

    index: int
    name: str
    compute_capability: str
    driver: str
    memory_bytes: int
    bus_id: str = ""


@dataclass(frozen=True)
class DeviceState:
    """What a GPU does now; None where its driver does not tell. ``throttled``: why it is slower than it could be."""

    sm_clock_mhz: int | None
    memory_clock_mhz: int | None
    temperature_c: int | None
    power_w: float | None
    throttled: tuple[str, ...]

    def told(self) -> str:
        """``1980 MHz, memory 2619 MHz, 45 °C, 210 W, not throttled``."""
        parts = [
            (self.sm_clock_mhz, "{} MHz"),
            (self.memory_clock_mhz, "memory {} MHz"),
            (self.temperature_c, "{} °C"),
            (self.power_w, "{:.0f} W"),
        ]
        known = [text.format(value) for value, text in parts if value is not None]
        slowed = f"throttled: {', '.join(self.throttled)}" if self.throttled else "not throttled"
        return ", ".join([*known, slowed] if known else ["nothing known"])


UNKNOWN_STATE = DeviceState(None, None, None, None, ())
"""The state of a device that NVML does not know."""


def problem() -> str | None:
    """None, or one sentence: why no NVIDIA GPU can be used here."""
    try:
        pynvml = import_module("pynvml")
    except ImportError as error:
        reason = " ".join(str(error).split())
        return f"pynvml, which finds NVIDIA GPUs, cannot be imported ({reason}); get it with: pip install nvidia-ml-py"
    try:
        with _session(pynvml):
            devices = _devices(pynvml)
    except pynvml.NVMLError as error:
        return _refusal(pynvml, error)
    if not devices:
        return "an NVIDIA driver is installed here and finds no GPU; look whether one is built in, and given to this container"
    return None


def found() -> tuple[NvidiaDevice, ...]:
    """Every GPU of this machine in NVML's order; none where :func:`problem` has a sentence."""
    if problem() is not None:
        return ()
    pynvml = import_module("pynvml")
    with _session(pynvml):
        return _devices(pynvml)


def at(bus_id: str) -> NvidiaDevice | None:
    """The GPU at this place of the PCI bus, as CUDA or NVML writes it (``0000:65:00.0``); None if NVML has none there."""
    place = _place(bus_id)
    return next((device for device in found() if place is not None and _place(device.bus_id) == place), None)


def state(index: int) -> DeviceState:
    """Clocks, temperature and power of the GPU that NVML calls ``index``. Raises MissingBackend where there is none."""
    sentence = problem()
    if sentence is not None:
        raise MissingBackend(sentence)
    pynvml = import_module("pynvml")
    with _session(pynvml):
        known = [device.index for device in _devices(pynvml)]
        if index not in known:
            raise MissingBackend(f"there is no GPU {index} here; NVML has {', '.join(map(str, known))}")
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        reasons = _told(pynvml, lambda: pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))
        milliwatt = _told(pynvml, lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
        return DeviceState(
            sm_clock_mhz=_told(pynvml, lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),
            memory_clock_mhz=_told(pynvml, lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),
            temperature_c=_told(pynvml, lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
            power_w=None if milliwatt is None else milliwatt / 1000,
            throttled=tuple(words for bit, words in _REASONS.items() if (reasons or 0) & getattr(pynvml, bit)),
        )


@contextmanager
def _session(pynvml: Any) -> Iterator[None]:
    """NVML counts how often it was opened: each closes only its own."""
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _refusal(pynvml: Any, error: Any) -> str:
    if error.value == pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
        return "there is no NVIDIA driver here; install NVIDIA's driver for this machine's GPU, or start the container with it"
    if error.value == pynvml.NVML_ERROR_DRIVER_NOT_LOADED:
        return "an NVIDIA driver is installed here but not loaded; restart the machine, or load its kernel module"
    if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
        return "this user may not use the NVIDIA driver; ask the machine's owner for access to /dev/nvidia*"
    if error.value == pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
        return "the NVIDIA driver that is loaded is older than its library (it was updated); restart the machine"
    return f"the NVIDIA driver does not answer ({error}); nvidia-smi may say more"


def _devices(pynvml: Any) -> tuple[NvidiaDevice, ...]:
    """Those this process may ask about: in a container, NVML can count devices that were not given to it."""
    driver = str(pynvml.nvmlSystemGetDriverVersion())
    asked = [_told(pynvml, partial(_device, pynvml, index, driver)) for index in range(pynvml.nvmlDeviceGetCount())]
    return tuple(device for device in asked if device is not None)


def _device(pynvml: Any, index: int, driver: str) -> NvidiaDevice:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return NvidiaDevice(
        index=index,
        name=str(pynvml.nvmlDeviceGetName(handle)),
        compute_capability=f"{major}.{minor}",
        driver=driver,
        memory_bytes=_told(pynvml, lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)) or 0,
        bus_id=_told(pynvml, lambda: str(pynvml.nvmlDeviceGetPciInfo(handle).busId)) or "",
    )


def _told(pynvml: Any, ask: Callable[[], Any]) -> Any:
    """What the driver answers; None where this device has no such thing, or is split and does not tell."""
    try:
        return ask()
    except pynvml.NVMLError:
        return None


def _place(bus_id: str) -> tuple[int, ...] | None:
    """``00000000:65:00.0`` (NVML) and ``0000:65:00.0`` (CUDA) to domain, bus, device and function; None for anything else."""
    parts = bus_id.replace(".", ":").split(":")
    try:
        numbers = tuple(int(part, 16) for part in parts)
    except ValueError:
        return None
    return numbers if len(numbers) == 4 else None
