"""Naming another torch model in a setting."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from accel.model_source import ModelSource

ADAPTER = TypeAdapter(ModelSource)


@pytest.mark.parametrize(
    "given",
    [
        {"factory": "nets.py:resnet56"},
        {"factory": "package.nets:wide", "kwargs": {"width": 2, "blocks": [3, 3]}, "weights": "wide.safetensors"},
        {"torchvision": "resnet18", "weights": "resnet18.pt"},
    ],
)
def test_a_source_survives_a_round_trip_and_has_a_hash(given: dict[str, Any]) -> None:
    source = ADAPTER.validate_python(given)
    assert {key: getattr(source, key) for key in given} == given
    assert ADAPTER.validate_json(ADAPTER.dump_json(source), strict=True) == source
    assert hash(source) == hash(ADAPTER.validate_python(given))


def test_kwargs_tell_sources_apart() -> None:
    assert ModelSource(factory="a.py:net", kwargs={"width": 1}) != ModelSource(factory="a.py:net", kwargs={"width": 2})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "exactly one of factory, torchvision; found none"),
        ({"factory": "a.py:b", "torchvision": "resnet18"}, "found factory and torchvision"),
        ({"torchvision": "resnet18"}, "random numbers"),
        ({"torchvision": "resnet18", "weights": "w.pt", "kwargs": {"weights": "DEFAULT"}}, "nothing is downloaded"),
        ({"torchvision": "os.system", "weights": "w.pt"}, "match pattern"),
        ({"factory": "no_colon"}, "match pattern"),
        ({"factory": "a.py:b", "weights": ""}, "at least 1 character"),
        ({"factory": "a.py:b", "wieghts": "w.pt"}, "Unexpected keyword argument"),
    ],
)
def test_what_is_no_source_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        ADAPTER.validate_python(given)


def test_it_imports_no_torch() -> None:
    script = "import sys, accel.model_source; print(*[name for name in ('torch', 'numpy', 'onnx') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
