"""Which of the two libraries serves a target, and what is said where none can."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import pytest

from accel import distributions
from accel.accelerate import installed, nvidia_device
from accel.accelerate.engines import buffers as tensorrt_buffers
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.installed import Library
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.catalog import backend
from accel.contracts import AheadOfTime
from accel.errors import BackendFault, MissingBackend
from accel.model import Target

NO_GPU = "there is no GPU here"
CARDS = (
    NvidiaDevice(0, "A100", "8.0", "580.1", 1 << 30, "00000000:01:00.0"),
    NvidiaDevice(1, "H100", "9.0", "580.1", 1 << 30, "00000000:02:00.0"),
)


def target(**options: Any) -> Target:
    return Target("edge", "tensorrt", "gpu", options=options)


def pretend(monkeypatch: pytest.MonkeyPatch, *, gpu: bool = False, **versions: str) -> None:
    """These libraries are installed and load, in these versions; no other."""
    here = {tensorrt_library.LIBRARIES[name.replace("_", "-")].module: version for name, version in versions.items()}

    def problem(library: Library) -> str | None:
        return None if library.module in here else f"{library.module} is not installed"

    def found(library: Library) -> dict[str, str]:
        return {library.distribution: here[library.module]} if library.module in here else {}

    monkeypatch.setattr(installed, "problem", problem)
    monkeypatch.setattr(installed, "versions", found)
    monkeypatch.setattr(nvidia_device, "problem", lambda: None if gpu else NO_GPU)


def test_neither() -> None:
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        sentence = tensorrt_library.problem("auto")
        assert sentence is not None
        assert "accel-toolkit[tensorrt]" in sentence
        assert "accel-toolkit[tensorrt-rtx]" in sentence
        assert tensorrt_library.cannot_build(target()) == sentence
        assert tensorrt_library.cannot_run(target()) == sentence
        assert tensorrt_library.installed_distribution() is None
        with pytest.raises(MissingBackend, match="neither TensorRT nor TensorRT-RTX is installed"):
            tensorrt_library.chosen("auto")


def test_ahead_of_time_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tensorrt_rtx="1.7.1")
    assert isinstance(backend("tensorrt"), AheadOfTime)
    sentence = tensorrt_library.cannot_build(target())
    assert sentence is not None
    assert sentence.startswith(f"no GPU to build for: {NO_GPU}; or name GPUs that it is for, `compute_capabilities:")
    assert tensorrt_library.cannot_build(target(compute_capabilities=[8.6])) is None
    assert tensorrt_library.cannot_run(target()) == f"no GPU: {NO_GPU}"
    refittable = tensorrt_library.cannot_build(target(refittable=True, compute_capabilities=[8.6]))
    assert refittable is not None
    assert "a refittable engine on a GPU only" in refittable


def test_tensorrt_builds_on_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tensorrt="11.4.1")
    sentence = tensorrt_library.cannot_build(target())
    assert sentence is not None
    assert NO_GPU in sentence
    assert 'TensorRT-RTX with `compute_capabilities: ["8.9"]` builds without one' in sentence
    pretend(monkeypatch, gpu=True, tensorrt="11.4.1")
    assert tensorrt_library.cannot_build(target()) is None


@pytest.mark.parametrize(
    ("gpu", "options", "name"),
    [
        (True, {}, "tensorrt"),
        (False, {}, "tensorrt"),  # neither can, and says so
        (False, {"compute_capabilities": [8.6]}, "tensorrt-rtx"),
        (True, {"compute_capabilities": [8.6]}, "tensorrt-rtx"),
        (False, {"timing_cache": True}, "tensorrt"),  # which then says that it needs a GPU
        (False, {"library": "tensorrt"}, "tensorrt"),
        (True, {"library": "tensorrt-rtx"}, "tensorrt-rtx"),
    ],
)
def test_auto_takes_the_one_that_can(gpu: bool, options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, gpu=gpu, tensorrt="10.14.1", tensorrt_rtx="1.7.1")
    assert tensorrt_library.resolved(target(**options)) == name


def test_a_folder_of_stubs_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt_stubbed").mkdir()
    (tmp_path / "tensorrt_stubbed" / "__init__.pyi").touch()
    monkeypatch.syspath_prepend(tmp_path)
    sentence = installed.problem(Library(module="tensorrt_stubbed", distribution="none-such", minimum=(1,), extra="some"))
    assert sentence is not None
    assert "is not installed" in sentence


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-cu13", "tensorrt-cu12"])
def test_flavours_do_not_mix(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.7 of TensorRT-RTX is no old TensorRT."""
    here = {flavour: "10.14.1", "tensorrt-rtx-cu12": "1.7.1"}

    def version(name: str) -> str:
        if name not in here:
            raise PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(distributions, "version", version)
    assert installed.versions(tensorrt_library.TENSORRT) == {flavour: "10.14.1"}
    assert installed.versions(tensorrt_library.TENSORRT_RTX) == {"tensorrt-rtx-cu12": "1.7.1"}
    assert tensorrt_library.versions() == here


def test_not_importable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingBackend, match="tensorrt is not installed; get it with"):
        tensorrt_library.chosen("tensorrt")


def test_an_engine_for_other_gpus_than_the_one_here_is_not_run() -> None:
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, gpu=True, tensorrt_rtx="1.7.1")
        patch.setattr(nvidia_device, "found", lambda: CARDS)
        assert tensorrt_library.cannot_run(target(compute_capabilities=["8.9"])) == (
            "no GPU with compute capability 8.9: here is 8.0, 9.0"
        )
        assert tensorrt_library.cannot_run(target(compute_capabilities=["8.9", "9.0"])) is None
        assert tensorrt_library.cannot_run(target()) is None


def test_of_several_gpus_the_one_that_cuda_takes_decides_what_is_built() -> None:
    """Else an engine of another one would be taken from the store, and refused each time it is to run."""
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch, gpu=True, tensorrt="11.4.1")
        patch.setattr(nvidia_device, "found", lambda: CARDS)
        seen = []
        for card in CARDS:
            gpu = SimpleNamespace(bus_id=card.bus_id)
            patch.setattr(tensorrt_buffers, "first_gpu", lambda gpu=gpu: gpu)
            seen.append(tensorrt_library.built_with(target()))
        assert [found["gpu"][1] for found in seen] == ["A100", "H100"]
        patch.setattr(nvidia_device, "found", tuple)
        assert "gpu" not in tensorrt_library.built_with(target())


def test_the_real_one() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    library = tensorrt_library.chosen("tensorrt-rtx")
    assert (library.name, library.edition.library) == ("tensorrt-rtx", "tensorrt-rtx")
    assert library.version.startswith(f"{library.major}.")
    assert tensorrt_library.chosen("tensorrt-rtx") is library
    said: list[tuple[str, str]] = []
    library.logger(lambda severity, message: said.append((severity, message))).log(library.trt.ILogger.WARNING, "careful")
    assert said == [("warning", "careful")]
    for name in library.edition.capabilities:
        assert hasattr(library.trt.ComputeCapability, f"SM{name.replace('.', '')}")


class Held:
    """Something of the library."""


def test_an_error_lets_go_of_what_its_frames_held() -> None:
    alive: list[weakref.ref[Held]] = []

    def work() -> None:
        held = Held()
        alive.append(weakref.ref(held))
        assert not gc.isenabled()
        try:
            raise RuntimeError("as the library has it")
        except RuntimeError as error:
            raise BackendFault("as we have it") from error

    with pytest.raises(BackendFault) as caught, tensorrt_library.undisturbed():
        work()
    assert caught.value.__cause__ is not None  # the error is still there, with what it came from
    assert alive[0]() is None
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with tensorrt_library.undisturbed():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


COLLECTED_WHILE_LOGGING = """
import gc, sys
from pathlib import Path
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.log import Messages
from accel.accelerate.engines.parse import parsed_network
from accel.errors import BackendFault
library = tensorrt_library.chosen("tensorrt-rtx")
gc.disable()
try:
    parsed_network(library, Path(sys.argv[1]), Messages())
except BackendFault as error:
    cycle = [error]
    cycle.append(cycle)
del cycle
logger = library.logger(lambda severity, message: gc.collect())
library.trt.Builder(logger)
print("done")
"""


def test_collecting_while_the_library_logs_does_not_hang(tmp_path: Path) -> None:
    """Without ``undisturbed`` the error keeps a builder, and the child waits for ever."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    files = run_path(str(Path(__file__).with_name("tensorrt_files.py")))
    path = files["quantized"](tmp_path / "odd.onnx", zero_point=3)
    code = f"import sys; sys.path[:0] = {[entry for entry in sys.path if entry]!r}\n{COLLECTED_WHILE_LOGGING}"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "done\n", done.stderr
