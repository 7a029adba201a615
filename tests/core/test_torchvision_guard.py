from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import pytest

from accel.errors import EnvironmentFault, MissingBackend
from accel.torchvision_guard import import_torchvision


def test_gives_the_real_module_each_time() -> None:
    pytest.importorskip("torch")
    found = import_torchvision()
    assert found.__name__ == "torchvision" and found.datasets.MNIST.__name__ == "MNIST"
    assert import_torchvision() is found


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), MissingBackend, r"accel-toolkit\[vision\]"),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), EnvironmentFault, "needs 'PIL', which is not installed"),
        (RuntimeError("some other trouble"), EnvironmentFault, "cannot be imported: some other trouble"),
        (RuntimeError("operator torchvision::nms does not exist"), EnvironmentFault, "does not match the installed torch"),
    ],
)
def test_an_import_that_fails_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[EnvironmentFault], message: str
) -> None:
    pytest.importorskip("torch")
    kept = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "torchvision"}
    for name in kept:
        monkeypatch.delitem(sys.modules, name)

    def failing(name: str, *rest: Any) -> ModuleType:
        raise error

    monkeypatch.setattr(importlib, "import_module", failing)
    with pytest.raises(kind, match=message) as raised:
        import_torchvision()
    assert type(raised.value) is kind
