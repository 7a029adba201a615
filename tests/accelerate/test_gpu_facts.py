from __future__ import annotations

import pytest

from accel.accelerate import gpu_facts, nvidia_device
from accel.accelerate.nvidia_device import DeviceState, NvidiaDevice
from accel.benchmarks.environment import describe, gpu_line
from accel.errors import MissingBackend
from accel.machine import GpuState

CARD = NvidiaDevice(0, "NVIDIA L4", "8.9", "580.65.06", 24 * 2**30)
COLD = DeviceState(210, 405, 41, 16.5, ())
WARM = DeviceState(1245, 6251, 83, 71.9, ("power cap", "power brake"))


def test_a_gpu_before_and_after_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "found", lambda: (CARD,))
    monkeypatch.setattr(nvidia_device, "state", lambda index: COLD)
    machine = describe(gpus=gpu_facts.gpus())
    (gpu,) = machine.gpus
    assert (gpu.name, gpu.compute_capability, gpu.driver, gpu.memory_bytes) == ("NVIDIA L4", "8.9", "580.65.06", 24 * 2**30)
    assert gpu.before == GpuState(sm_clock_mhz=210, memory_clock_mhz=405, temperature_c=41, power_w=16.5)
    assert gpu.after is None
    assert gpu_line(gpu) == "NVIDIA L4, compute capability 8.9, driver 580.65.06, 24.0 GiB, now 210 MHz, 41 degrees C"
    monkeypatch.setattr(nvidia_device, "state", lambda index: WARM)
    (gpu,) = gpu_facts.after(machine).gpus
    assert gpu.before is not None
    assert gpu.before.temperature_c == 41
    assert gpu.after is not None
    assert gpu.after.throttled == ["power cap", "power brake"]
    assert gpu_line(gpu).endswith(
        "before 210 MHz, 41 degrees C, after 1245 MHz, 83 degrees C, slowed by power cap, slowed by power brake"
    )


def test_a_driver_that_goes_away_costs_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(index: int) -> DeviceState:
        raise MissingBackend("the driver was updated")

    monkeypatch.setattr(nvidia_device, "found", lambda: (CARD,))
    monkeypatch.setattr(nvidia_device, "state", gone)
    machine = gpu_facts.after(describe(gpus=gpu_facts.gpus()))
    assert machine.gpus[0].before is None
    assert machine.gpus[0].after is None


def test_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia_device, "found", lambda: ())
    machine = describe(gpus=gpu_facts.gpus())
    assert machine.gpus == []
    assert gpu_facts.after(machine) == machine
