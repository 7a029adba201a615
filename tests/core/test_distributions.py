"""One list of the names that a library is published under, and the two places that read it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest

from accel import catalog, distributions
from accel.steps import library_version


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that these distributions (``_`` for ``-``) are installed, and no other."""
    here = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in here:
            raise PackageNotFoundError(name)
        return here[name]

    monkeypatch.setattr(distributions, "version", version)


def test_the_usual_name_comes_first() -> None:
    for name, flavours in distributions.FLAVOURS.items():
        assert flavours[0] == name
        assert len(set(flavours)) == len(flavours)
    assert distributions.flavours("numpy") == ("numpy",)


@pytest.mark.parametrize("flavour", distributions.flavours("onnxruntime"))
def test_every_flavour_is_known_to_steps_and_backend(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, **{flavour: "1.30.0"})
    assert distributions.installed("onnxruntime") == (flavour, "1.30.0")
    assert library_version("onnxruntime") == ("1.30.0" if flavour == "onnxruntime" else f"1.30.0 ({flavour})")
    backend = catalog.backend("onnxruntime")
    assert backend.installed_distribution() == flavour
    assert backend.versions() == {flavour: "1.30.0"}


def test_two_flavours_at_once_are_both_told(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime="1.30.0", onnxruntime_gpu="1.29.0")
    assert distributions.versions("onnxruntime") == {"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.29.0"}
    assert distributions.installed("onnxruntime") == ("onnxruntime", "1.30.0")


def test_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    assert distributions.installed("onnxruntime") is None
    assert distributions.versions("openvino") == {}
    assert library_version("nncf") is None
