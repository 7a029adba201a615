"""Fault 42: a backend's library is absent, too old, or does not load. One case each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from accel import catalog, distributions
from accel.accelerate.installed import Library, installed_distribution, problem, require, versions
from accel.errors import MissingBackend
from accel.model import OnnxModel, Signature, Target, TensorSpec

MODEL = OnnxModel(path=Path("absent.onnx"), signature=Signature((TensorSpec("x", (1,), "float32"),), ()))
RUNTIMES = ["onnxruntime", "openvino"]


def library(module: str, minimum: tuple[int, ...] = (1,)) -> Library:
    return Library(module=module, distribution=module, minimum=minimum, extra="some")


@pytest.mark.parametrize("name", RUNTIMES)
def test_not_installed(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    backend = catalog.backend(name)
    sentence = backend.unavailable()
    assert sentence == f"{name} is not installed; get it with: pip install --upgrade 'accel-toolkit[{name}]'"
    with pytest.raises(MissingBackend, match="is not installed"):
        backend.compile(MODEL, Target(name="t", backend=name), tmp_path)


@pytest.mark.parametrize("name", RUNTIMES)
def test_too_old(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip(name)
    monkeypatch.setattr(distributions, "version", lambda distribution: "0.9.1")
    backend = catalog.backend(name)
    sentence = backend.unavailable()
    assert sentence is not None
    assert "0.9.1 is too old" in sentence
    assert f"accel-toolkit[{name}]" in sentence
    with pytest.raises(MissingBackend, match="too old"):
        backend.compile(MODEL, Target(name="t", backend=name), tmp_path)


def test_installed_but_does_not_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken_runtime.py").write_text("raise ImportError('libsomething.so.1: cannot open\\nshared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    sentence = problem(library("broken_runtime"))
    assert sentence is not None
    assert "cannot be loaded (libsomething.so.1: cannot open shared object file)" in sentence
    assert "\n" not in sentence


def test_a_library_that_is_here_has_no_problem() -> None:
    assert problem(library("numpy", minimum=(1, 26))) is None
    require(library("numpy"))
    with pytest.raises(MissingBackend, match="no_such_module_here is not installed"):
        require(library("no_such_module_here"))


@pytest.mark.parametrize(
    ("version", "old"),
    [("1.19.2", True), ("1.20", False), ("1.20.0rc1", False), ("1.21.0+cu128", False), ("2026.4.1-22982-abc", False)],
)
def test_versions_are_compared_as_numbers(version: str, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "version", lambda distribution: version)
    assert (problem(library("numpy", minimum=(1, 20))) is not None) is old


def test_flavours_are_found_under_their_own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributions, "FLAVOURS", {"number-arrays": ("number-arrays", "numpy-that-nobody-published", "numpy")})
    flavours = Library(module="numpy", distribution="number-arrays", minimum=(1,), extra="some")
    assert installed_distribution(flavours) == "numpy"
    assert list(versions(flavours)) == ["numpy"]
    assert installed_distribution(library("nothing_at_all_here")) is None


@pytest.mark.parametrize("name", [*RUNTIMES, "eager"])
def test_backends_tell_their_version(name: str) -> None:
    backend = catalog.backend(name)
    if backend.unavailable():
        pytest.skip(backend.unavailable())
    assert backend.installed_distribution() in backend.versions()
    assert backend.versions()[backend.installed_distribution()][0].isdigit()
