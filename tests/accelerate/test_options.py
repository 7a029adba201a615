"""What a target may ask of a backend: every refusal names the target, what was found and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from accel import catalog
from accel.errors import UsageError
from accel.model import Target


def refused(backend: str, **changes: Any) -> str:
    with pytest.raises(UsageError) as caught:
        catalog.backend(backend).check_options(Target(name="edge", backend=backend, **changes))
    message = str(caught.value)
    assert message.startswith("target edge")
    return message


@pytest.mark.parametrize(
    ("backend", "options", "said"),
    [
        ("openvino", {"performnce_hint": "latency"}, "did you mean 'performance_hint'?"),
        ("openvino", {"format": "irr"}, "did you mean 'ir'?"),
        ("openvino", {"format": 1}, "must be a name"),
        ("openvino", {"performance_hint": "fast"}, "must be one of latency, throughput"),
        ("openvino", {"num_streams": 0}, "must be a whole number, at least 1"),
        ("openvino", {"num_streams": True}, "must be a whole number, at least 1"),
        ("openvino", {"num_streams": "2"}, "must be a whole number, at least 1"),
        ("onnxruntime", {"graph_optimisation_level": "all"}, "did you mean 'graph_optimization_level'?"),
        ("onnxruntime", {"graph_optimization_level": "some"}, "disable, basic, extended, all"),
        ("onnxruntime", {"allow_fallback": "no"}, "must be true or false"),
        ("onnxruntime", {"execution_providers": "CPUExecutionProvider"}, "must be a list of names"),
        ("onnxruntime", {"execution_providers": []}, "must be a list of names"),
        ("onnxruntime", {"execution_providers": [1]}, "must be a name"),
        ("onnxruntime", {"execution_providers": ["CPU"]}, "did you mean 'CPUExecutionProvider'?"),
        ("eager", {"compile": True}, "it has mode, cuda_graphs, channels_last"),
    ],
)
def test_options(backend: str, options: dict[str, Any], said: str) -> None:
    assert said in refused(backend, options=options)


def test_device() -> None:
    assert "it has cpu, gpu, npu" in refused("openvino", device="vpu")
    assert "did you mean 'gpu'?" in refused("openvino", device="gpuu")
    assert "has no device 'npu'" in refused("onnxruntime", device="npu")


def test_providers_that_contradict_the_device() -> None:
    message = refused("onnxruntime", device="gpu", options={"execution_providers": ["CPUExecutionProvider"]})
    assert "device is gpu" in message


@pytest.mark.parametrize(("backend", "precision", "said"), [("openvino", "int8", "quantize"), ("onnxruntime", "fp16", "file")])
def test_precision(backend: str, precision: str, said: str) -> None:
    assert said in refused(backend, precision=precision)


def test_numbers() -> None:
    assert "threads is 0" in refused("onnxruntime", threads=0)
    assert "batch is -1" in refused("openvino", batch=-1)


@pytest.mark.parametrize(
    ("backend", "changes"),
    [
        ("onnxruntime", {"options": {"execution_providers": ["CUDAExecutionProvider", "CPUExecutionProvider"]}}),
        ("onnxruntime", {"options": {"graph_optimization_level": "basic", "allow_fallback": True}, "device": "gpu"}),
        ("openvino", {"options": {"format": "ir", "performance_hint": "throughput", "num_streams": 2}, "device": "npu"}),
        ("openvino", {"precision": "bf16"}),
        ("openvino", {"precision": "fp16", "device": "gpu"}),
        ("eager", {"device": "gpu", "threads": 4}),
    ],
)
def test_what_is_allowed_passes(backend: str, changes: dict[str, Any]) -> None:
    asked = Target(name="edge", backend=backend, **changes)
    assert catalog.backend(backend).check_options(asked) is None
