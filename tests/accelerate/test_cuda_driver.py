from __future__ import annotations

import ctypes
from typing import Any

import pytest

from accel.accelerate import cuda_driver


class Driver:
    def __init__(self, started: int, counted: int, devices: int) -> None:
        self.started, self.counted, self.devices = started, counted, devices

    def cuInit(self, flags: int) -> int:
        return self.started

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return self.counted


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (Driver(0, 0, 1), None),
        (Driver(0, 0, 0), "CUDA_VISIBLE_DEVICES"),
        (Driver(100, 0, 0), "finds no GPU for this process"),
        (Driver(999, 0, 0), "CUDA error 999"),
        (Driver(0, 3, 0), "CUDA error 3"),
        (None, "there is no NVIDIA driver here; install"),
    ],
    ids=["a GPU", "none counted", "no device", "unknown error", "not initialized", "no driver"],
)
def test_what_the_driver_says(driver: Driver | None, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_driver", lambda: driver)
    found = cuda_driver.problem()
    assert (found is None) is (said is None)
    assert (said or "") in (found or "")
    assert "\n" not in (found or "")


def test_this_machine() -> None:
    """Whatever is here, it is one sentence or nothing, and it agrees with the driver's library being there."""
    try:
        ctypes.CDLL("libcuda.so.1")
        here = True
    except OSError:
        here = False
    found = cuda_driver.problem()
    assert here or "there is no NVIDIA driver here" in str(found)
