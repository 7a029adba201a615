"""NVIDIA GPUs by NVML: the real module with its functions replaced, so that a name it does not have fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from accel.accelerate import nvidia_device
from accel.accelerate.nvidia_device import DeviceState, NvidiaDevice
from accel.errors import MissingBackend

pynvml: Any = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")


class Driver:
    """What NVML would answer on a machine with ``devices``; counts how often it is opened and closed."""

    def __init__(
        self, patch: pytest.MonkeyPatch, devices: tuple[Mapping[str, Any], ...], *, init: Exception | None = None
    ) -> None:
        self.open = 0
        self.opened = 0
        self._devices = devices
        self._init = init
        answers: dict[str, Callable[..., Any]] = {
            "nvmlInit": self._start,
            "nvmlShutdown": self._stop,
            "nvmlDeviceGetCount": lambda: len(devices),
            "nvmlSystemGetDriverVersion": lambda: "580.65.06",
            "nvmlDeviceGetHandleByIndex": self._handle,
            "nvmlDeviceGetName": lambda device: device["name"],
            "nvmlDeviceGetCudaComputeCapability": lambda device: device["capability"],
            "nvmlDeviceGetMemoryInfo": lambda device: SimpleNamespace(total=self._give(device, "memory")),
            "nvmlDeviceGetPciInfo": lambda device: SimpleNamespace(busId=self._give(device, "bus")),
            "nvmlDeviceGetClockInfo": lambda device, which: self._give(device, "clocks")[which],
            "nvmlDeviceGetTemperature": lambda device, sensor: self._give(device, "celsius"),
            "nvmlDeviceGetPowerUsage": lambda device: self._give(device, "milliwatt"),
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda device: self._give(device, "reasons"),
        }
        for name, answer in answers.items():
            patch.setattr(pynvml, name, answer)  # fails where the real module has no such name

    def _start(self) -> None:
        if self._init is not None:
            raise self._init
        self.open += 1
        self.opened += 1

    def _stop(self) -> None:
        assert self.open > 0
        self.open -= 1

    def _handle(self, index: int) -> Mapping[str, Any]:
        assert self.open > 0
        if self._devices[index].get("denied"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NO_PERMISSION)
        return self._devices[index]

    @staticmethod
    def _give(device: Mapping[str, Any], what: str) -> Any:
        if what not in device:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return device[what]


ADA = {
    "name": "NVIDIA RTX 4000 Ada",
    "capability": (8, 9),
    "memory": 20 << 30,
    "bus": "00000000:65:00.0",
    "clocks": {pynvml.NVML_CLOCK_SM: 2100, pynvml.NVML_CLOCK_MEM: 9001},
    "celsius": 61,
    "milliwatt": 70250,
    "reasons": 0,
}
INTEGRATED = {"name": "Orin", "capability": (8, 7), "reasons": pynvml.nvmlClocksThrottleReasonGpuIdle}
DENIED = {"name": "other", "capability": (9, 0), "denied": True}


def test_devices_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, (ADA, INTEGRATED))
    assert nvidia_device.problem() is None
    assert nvidia_device.found() == (
        NvidiaDevice(0, "NVIDIA RTX 4000 Ada", "8.9", "580.65.06", 20 << 30, "00000000:65:00.0"),
        NvidiaDevice(1, "Orin", "8.7", "580.65.06", 0, ""),
    )
    assert driver.opened > 0
    assert driver.open == 0


def test_device_that_this_process_may_not_use_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, (DENIED, ADA))
    assert [device.index for device in nvidia_device.found()] == [1]
    with pytest.raises(MissingBackend, match="no GPU 0 here; NVML has 1"):
        nvidia_device.state(0)
    Driver(monkeypatch, (DENIED,))
    assert "finds no GPU" in (nvidia_device.problem() or "")


@pytest.mark.parametrize("written", ["0000:65:00.0", "00000000:65:00.0", "0:65:0.0"])
def test_device_is_found_by_its_place_on_the_bus(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    Driver(monkeypatch, (INTEGRATED, ADA))
    found = nvidia_device.at(written)
    assert found is not None
    assert found.index == 1


@pytest.mark.parametrize("written", ["0000:66:00.0", "0001:65:00.0", "", "gpu"])
def test_place_without_a_device_is_none(monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    Driver(monkeypatch, (ADA, INTEGRATED))
    assert nvidia_device.at(written) is None


def test_state_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = pynvml.nvmlClocksThrottleReasonSwPowerCap | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown
    driver = Driver(monkeypatch, (ADA | {"reasons": bits},))
    assert nvidia_device.state(0) == DeviceState(2100, 9001, 61, 70.25, ("power cap", "temperature (hardware limit)"))
    assert driver.open == 0


def test_idle_or_set_clocks_are_no_throttling(monkeypatch: pytest.MonkeyPatch) -> None:
    bits = pynvml.nvmlClocksThrottleReasonGpuIdle | pynvml.nvmlClocksThrottleReasonApplicationsClocksSetting
    Driver(monkeypatch, (ADA | {"reasons": bits},))
    assert nvidia_device.state(0).throttled == ()


def test_what_a_driver_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    Driver(monkeypatch, (INTEGRATED,))
    assert nvidia_device.state(0) == nvidia_device.UNKNOWN_STATE


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no NVIDIA driver here; install"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "not loaded; restart"),
        (pynvml.NVML_ERROR_NO_PERMISSION, "may not use the NVIDIA driver; ask"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "updated.*restart"),
        (pynvml.NVML_ERROR_UNKNOWN, "does not answer .*nvidia-smi"),
    ],
)
def test_why_there_is_none_is_one_sentence(monkeypatch: pytest.MonkeyPatch, code: int, said: str) -> None:
    driver = Driver(monkeypatch, (), init=pynvml.NVMLError(code))
    sentence = nvidia_device.problem()
    assert sentence is not None
    assert "\n" not in sentence
    with pytest.raises(MissingBackend, match=said):
        nvidia_device.state(0)
    assert nvidia_device.found() == ()
    assert driver.open == 0


def test_driver_without_a_device_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(monkeypatch, ())
    assert "finds no GPU" in (nvidia_device.problem() or "")
    assert driver.open == 0


def test_absent_module_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    sentence = nvidia_device.problem() or ""
    assert sentence.startswith("pynvml, which finds NVIDIA GPUs, cannot be imported (")
    assert sentence.endswith("); get it with: pip install nvidia-ml-py")
    assert nvidia_device.found() == ()
    with pytest.raises(MissingBackend, match="nvidia-ml-py"):
        nvidia_device.state(0)
