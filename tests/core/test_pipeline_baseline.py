"""A target whose backend refuses the untouched model keeps its result: the passes may be what makes it fit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from accel import pipeline
from accel.errors import BackendFault
from accel.model import Target


def test_a_baseline_that_cannot_be_built_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = SimpleNamespace(benchmark=SimpleNamespace(batch_sizes=(1,)))
    store = SimpleNamespace(find=lambda key: None)
    running = pipeline._Run(cast("Any", recipe), cast("Any", store), tmp_path, (), cast("Any", None), [])

    def call(method: str, **arguments: Any) -> dict[str, Any]:
        if method == "baseline":
            raise BackendFault("node n: TensorRT has no such operator")
        made = {"model": {"kind": "onnx", "main": "model.onnx"}, "folder": str(tmp_path), "key": "k"}
        return {**made, "steps": [], "notes": ["as built"], "seconds": 1.0}

    monkeypatch.setattr(running, "_call", call)
    (subject,) = running._build(Target("edge", "tensorrt", "gpu"))
    assert (subject.role, subject.name, subject.notes) == ("result", "edge", ("as built",))
    assert running.built.keys() == {"edge"}
    (warning,) = running.warnings
    assert warning.startswith("edge has no baseline")
    assert "TensorRT has no such operator" in warning
