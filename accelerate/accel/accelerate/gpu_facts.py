"""The NVIDIA GPUs of this machine, as a report has them: what they are, and how they fared before and after a run."""

from __future__ import annotations

from accel.accelerate import nvidia_device
from accel.errors import MissingBackend
from accel.machine import Environment, Gpu, GpuState


def gpus() -> list[Gpu]:
    """Every GPU with its state ``before``, in the driver's order; none where there is no driver. No context is made."""
    return [
        Gpu(
            index=device.index,
            name=device.name,
            compute_capability=device.compute_capability,
            driver=device.driver,
            memory_bytes=device.memory_bytes,
            before=_state(device.index),
        )
        for device in nvidia_device.found()
    ]


def after(machine: Environment) -> Environment:
    """``machine`` with the state that each of its GPUs has now, at the end of what was measured."""
    return machine.model_copy(update={"gpus": [gpu.model_copy(update={"after": _state(gpu.index)}) for gpu in machine.gpus]})


def _state(index: int) -> GpuState | None:
    try:
        found = nvidia_device.state(index)
    except MissingBackend:  # it was there a moment ago: what was measured still holds
        return None
    return GpuState(
        sm_clock_mhz=found.sm_clock_mhz,
        memory_clock_mhz=found.memory_clock_mhz,
        temperature_c=found.temperature_c,
        power_w=found.power_w,
        throttled=list(found.throttled),
    )
