"""A machine's peak: what is kept and for whom, with a child of paper; and a short real one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from accel import peaks as machine
from accel.benchmarks import environment
from accel.contracts import ExecutedPrecision
from accel.display import Silent
from accel.errors import MissingBackend
from accel.peak_kernels import as_meant, fastest_ns
from accel.peaks import buffer_bytes, peaks
from accel.store import Store

VALUES = {
    "onnxruntime": {"fp32_gops": 90.0, "int8_gops": 400.0, "cache_gb_s": 60.0, "bandwidth_gb_s": 12.0},
    "openvino": {"fp32_gops": 100.0, "bf16_gops": 200.0, "int8_gops": 300.0, "cache_gb_s": 50.0, "bandwidth_gb_s": 11.0},
}


class PaperChild:
    """Stands for the worker. ``asked`` counts measurements; runtimes in ``missing`` are not here."""

    asked = 0
    missing: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()

    def __init__(self, name: str, function: str, arguments: Mapping[str, Any], *, log: Path) -> None:
        json.dumps(arguments)
        self.runtime = arguments["backend"]
        assert Path(arguments["folder"]).is_dir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def result(self, *, timeout_s: float) -> None:
        if self.runtime in PaperChild.missing:
            raise MissingBackend(f"{self.runtime} is not here")

    def call(self, method: str, *, timeout_s: float, figure: str, duration_s: float) -> dict[str, Any] | None:
        PaperChild.asked += 1
        value = VALUES[self.runtime].get(figure)
        if value is None or figure in PaperChild.lacks:
            return None
        return {"value": value, "kernel": f"Conv on {self.runtime}"}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(machine, "Worker", PaperChild)
    monkeypatch.setattr(PaperChild, "asked", 0)
    monkeypatch.setattr(PaperChild, "missing", frozenset())
    monkeypatch.setattr(PaperChild, "lacks", frozenset())
    Store(tmp_path).open()
    return tmp_path


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_the_best_runtime_gives_each_figure(store: Path) -> None:
    found = peaks(store, 1, screen=Silent())
    assert found is not None
    assert (found.fp32_gops, found.bf16_gops, found.int8_gops) == (100.0, 200.0, 400.0)
    assert (found.cache_gb_s, found.bandwidth_gb_s) == (60.0, 12.0)
    assert found.kernels["fp32_gops"] == "Conv on openvino"
    assert found.kernels["int8_gops"] == "Conv on onnxruntime"


def test_a_machine_is_measured_once(store: Path) -> None:
    first = peaks(store, 1, screen=Silent())
    asked = PaperChild.asked
    assert peaks(store, 1, screen=Silent()) == first
    assert PaperChild.asked == asked
    assert list((store / "locks").iterdir()) == []


@pytest.mark.parametrize(
    ("what", "value"),
    [("cpu_name", "Another CPU"), ("isa_flags", ["amx_int8"]), ("cores", 64), ("versions", {"onnxruntime": "9.0"})],
)
def test_another_machine_or_version_is_measured_again(
    what: str, value: object, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks(store, 1, screen=Silent())
    asked = PaperChild.asked
    monkeypatch.setattr(environment, what, lambda *_: value)
    peaks(store, 1, screen=Silent())
    assert PaperChild.asked == 2 * asked


def test_other_threads_are_measured_again(store: Path) -> None:
    peaks(store, 1, screen=Silent())
    asked = PaperChild.asked
    found = peaks(store, 2, screen=Silent())
    assert found is not None
    assert found.threads == 2
    assert PaperChild.asked == 2 * asked


@pytest.mark.parametrize("damage", ["not JSON", "half", "other figures"])
def test_a_broken_file_is_measured_again(damage: str, store: Path) -> None:
    first = peaks(store, 1, screen=Silent())
    asked = PaperChild.asked
    (file,) = (store / "steps").glob("*/entry.json")
    text = file.read_text()
    if damage == "other figures":
        record = json.loads(text)
        record["meta"]["value"]["fp32_gops"] = "fast"
        text = json.dumps(record)
    file.write_text({"not JSON": "{", "half": text[: len(text) // 2]}.get(damage, text))
    again = peaks(store, 1, screen=Silent())
    assert PaperChild.asked == 2 * asked
    assert again is not None
    assert first is not None
    assert again.fp32_gops == first.fp32_gops
    assert peaks(store, 1, screen=Silent()) == again
    assert PaperChild.asked == 2 * asked


def test_a_runtime_that_is_not_here_is_said_and_the_other_gives_the_figures(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaperChild, "missing", frozenset({"openvino"}))
    said = Said()
    found = peaks(store, 1, screen=said)
    assert found is not None
    assert (found.fp32_gops, found.bf16_gops) == (90.0, None)
    assert any("openvino is not here" in note for note in said.notes)
    assert any("bf16_gops is not known" in note for note in said.notes)


def test_without_a_runtime_there_is_no_peak_and_nothing_is_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PaperChild, "missing", frozenset(VALUES))
    assert peaks(store, 1, screen=Silent()) is None
    monkeypatch.setattr(PaperChild, "missing", frozenset())
    assert peaks(store, 1, screen=Silent()) is not None


def test_without_an_installed_runtime_no_child_is_started(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "versions", lambda names: {})
    assert peaks(store, 1, screen=Silent()) is None
    assert PaperChild.asked == 0


def test_what_is_read_from_memory_is_far_above_the_caches_and_fits() -> None:
    mib = 1 << 20
    assert buffer_bytes((32 * mib,), 64 << 30) == 128 * mib
    assert buffer_bytes((), 64 << 30) == 64 * mib
    assert buffer_bytes((256 * mib, 256 * mib), 64 << 30) == 512 * mib
    assert buffer_bytes((32 * mib,), 256 * mib) == 32 * mib


@pytest.mark.parametrize(
    ("figure", "ran", "meant"),
    [
        ("fp32_gops", ("fp32", 0, 0), True),
        ("fp32_gops", ("bf16", 0, 0), False),
        ("fp32_gops", ("fp32", 0, 1), False),
        ("bf16_gops", ("bf16", 0, 0), True),
        ("bf16_gops", ("fp32", 0, 0), False),
        ("int8_gops", ("fp32", 2, 2), True),
        ("int8_gops", ("fp32", 2, 1), False),
        ("int8_gops", ("fp32", 0, 0), False),
        ("cache_gb_s", ("fp32", 0, 0), True),
    ],
)
def test_a_figure_counts_only_in_its_precision(figure: Any, ran: tuple[str, int, int], meant: bool) -> None:
    assert as_meant(figure, ExecutedPrecision(*ran, {})) is meant


def test_what_others_take_of_the_machine_does_not_lower_the_peak() -> None:
    assert fastest_ns([5000] * 90 + [100, 102, 101]) == 102
    assert fastest_ns([1, 100, 100, 100]) == 100  # a clock that jumped
    assert fastest_ns([7]) == 7


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_real_one_on_this_machine(runtime: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(runtime)
    monkeypatch.setattr(machine, "RUNTIMES", (runtime,))
    monkeypatch.setattr(machine, "_MOST_BYTES", 16 << 20)
    Store(tmp_path).open()
    found = peaks(tmp_path, 1, screen=Silent(), duration_s=0.02)
    assert found is not None
    assert found.int8_gops is not None
    assert found.cache_gb_s is not None
    assert 1 < found.fp32_gops < 10_000  # one core: between the slowest ever sold and what none does
    assert 1 < found.int8_gops < 40_000
    assert 0.1 < found.bandwidth_gb_s < 1000
    assert set(found.kernels) >= {"fp32_gops", "int8_gops", "cache_gb_s", "bandwidth_gb_s"}
    assert all(kernel.endswith(f"on {runtime}") for kernel in found.kernels.values())
    assert ("bf16_gops" in found.kernels) == (found.bf16_gops is not None)
    if runtime == "onnxruntime":
        assert found.bf16_gops is None  # it runs what the file has
    assert list(tmp_path.glob("scratch/*")) == []
