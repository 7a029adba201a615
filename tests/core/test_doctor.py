"""``accel doctor`` and ``accel list`` on this machine, and on one where something is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from accel import catalog
from accel.accelerate import nvidia_device
from accel.accelerate.nvidia_device import DeviceState, NvidiaDevice
from accel.commands import catalogue, doctor
from accel.commands.doctor import cache_problem
from accel.model import Target


class Absent:
    """A backend whose library is not here."""

    name = "absent"
    distribution = "accel-no-such-distribution"
    devices: tuple[str, ...] = ("cpu", "gpu")

    def unavailable(self, device: str = "cpu") -> str | None:
        return f"absent is not installed for {device}; get it with: pip install absent"


class Present(Absent):
    def unavailable(self, device: str = "cpu") -> str | None:
        return None if device == "cpu" else "no gpu here"


def only(monkeypatch: pytest.MonkeyPatch, **backends: type) -> None:
    monkeypatch.setattr(catalog, "backends", lambda: dict.fromkeys(backends, "x:Y"))
    monkeypatch.setattr(catalog, "backend", lambda name: backends[name]())


def examined(folder: Path, *, as_json: bool = True) -> tuple[int, Any]:
    stream = io.StringIO()
    code = doctor.run(json=as_json, cache_folder=folder, out=Console(file=stream, width=80))
    return code, json.loads(stream.getvalue()) if as_json else stream.getvalue()


def test_this_machine(tmp_path: Path) -> None:
    code, record = examined(tmp_path / "cache")
    assert set(record["backends"]) >= {"eager", "onnxruntime", "openvino"}
    assert record["backends"]["eager"]["devices"]["cpu"] == {"available": True, "missing": None}
    assert "torch" in record["backends"]["eager"]["versions"]
    assert record["cache"]["problem"] is None
    assert not (tmp_path / "cache").exists()
    usable = any(record["backends"][name]["available"] for name in ("onnxruntime", "openvino"))
    assert code == (0 if usable else 3)
    assert record["environment"]["cores"] >= 1


def test_no_backend_at_all_is_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, absent=Absent, eager=Present)
    code, text = examined(tmp_path, as_json=False)
    assert code == 3
    assert "not on cpu: absent is not installed for cpu; get it with: pip install absent" in text
    assert "accel-toolkit[cpu]" in text


def test_one_backend_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, absent=Absent, present=Present)
    code, text = examined(tmp_path, as_json=False)
    assert code == 0
    assert "ready on cpu" in text
    assert "not on gpu: no gpu here" in text
    assert "telemetry" in text


def test_a_machine_without_a_gpu_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, present=Present)
    monkeypatch.setattr(nvidia_device, "problem", lambda: "there is no NVIDIA driver here; install one")
    _, text = examined(tmp_path, as_json=False)
    assert [line for line in text.splitlines() if "NVIDIA" in line] == [
        f"{'GPU':<12} there is no NVIDIA driver here; install one"
    ]
    _, record = examined(tmp_path)
    assert record["gpu_problem"] == "there is no NVIDIA driver here; install one"
    assert record["environment"]["gpus"] == []


def test_gpus_are_shown_with_driver_and_compute_capability(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, present=Present)
    cards = tuple(NvidiaDevice(index, f"NVIDIA {index}", "9.0", "580.65", 80 * 2**30) for index in (0, 1))
    monkeypatch.setattr(nvidia_device, "problem", lambda: None)
    monkeypatch.setattr(nvidia_device, "found", lambda: cards)
    monkeypatch.setattr(nvidia_device, "state", lambda index: DeviceState(345, 2619, 30 + index, None, ()))
    _, text = examined(tmp_path, as_json=False)
    assert "GPU 0        NVIDIA 0, compute capability 9.0, driver 580.65, 80.0 GiB, now 345 MHz, 30 degrees C\n" in text
    assert "GPU 1        NVIDIA 1," in text
    _, record = examined(tmp_path)
    assert record["gpu_problem"] is None
    assert [gpu["before"]["temperature_c"] for gpu in record["environment"]["gpus"]] == [30, 31]


def test_what_is_built_here_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(Absent):
        devices = ("gpu",)

        def built_with(self, target: Target) -> dict[str, Any]:
            return {}

        def cannot_build(self, target: Target) -> str | None:
            return None

        def cannot_run(self, target: Target) -> str | None:
            return self.unavailable(target.device)

    only(monkeypatch, ahead=Ahead, absent=Absent)
    code, text = examined(tmp_path, as_json=False)
    assert text.count("files for gpu can be built here all the same") == 1
    assert code == 3  # it deploys nothing that this machine could run
    _, record = examined(tmp_path)
    assert (record["backends"]["ahead"]["builds"], record["backends"]["absent"]["builds"]) == (["gpu"], [])


def test_how_to_build_without_the_device_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(Absent):
        devices = ("gpu",)

        def built_with(self, target: Target) -> dict[str, Any]:
            return {}

        def cannot_build(self, target: Target) -> str | None:
            return "no GPU; or name the GPUs that it is for"

        def cannot_run(self, target: Target) -> str | None:
            return self.unavailable(target.device)

    only(monkeypatch, ahead=Ahead)
    _, text = examined(tmp_path, as_json=False)
    assert "not on gpu: no GPU; or name the GPUs that it is for" in text


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    assert "not a folder" in str(cache_problem(file / "accel"))
    monkeypatch.setattr("os.access", lambda *_: False)
    assert "cannot be written to" in str(cache_problem(tmp_path / "new" / "deep"))


def test_the_catalogue_lists_everything_with_a_sentence() -> None:
    stream = io.StringIO()
    assert catalogue.run(json=True, out=Console(file=stream)) == 0
    record = json.loads(stream.getvalue())
    assert set(record["passes"]) >= set(catalog.PASSES)
    assert set(record["backends"]) >= set(catalog.BACKENDS)
    assert set(record["tasks"]) >= set(catalog.TASKS)
    for entries in record.values():
        for text in entries.values():
            assert text
            assert "\n" not in text
    table = io.StringIO()
    catalogue.run(json=False, out=Console(file=table, width=80))
    assert all(name in table.getvalue() for name in (*catalog.PASSES, *catalog.BACKENDS, *catalog.TASKS))


def test_a_plug_in_that_is_broken_is_listed_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "passes", lambda: {"bad": "no_such_module:Pass"})
    stream = io.StringIO()
    assert catalogue.run(json=True, out=Console(file=stream)) == 0
    assert "cannot be imported" in json.loads(stream.getvalue())["passes"]["bad"]
