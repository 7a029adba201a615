from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from accel.accelerate import cuda_driver
from accel.accelerate.onnxruntime_providers import (
    CPU,
    CUDA,
    RTX,
    TENSORRT,
    Asked,
    check,
    compiling,
    held_against,
    notes,
    settings,
    why_not,
)
from accel.errors import BackendFault, MissingBackend, UsageError
from accel.model import Target


def target(**options: Any) -> Target:
    return Target(name="edge", backend="onnxruntime", device="gpu", options=options)


def refused(**options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        check(target(**options))
    return str(caught.value)


def test_what_cannot_be_asked_for_is_refused_with_a_way_out() -> None:
    assert "did you mean 'TensorrtExecutionProvider'?" in refused(execution_providers=["TensorRT"])
    assert "leave one out" in refused(execution_providers=[TENSORRT, RTX])
    assert "names only CPUExecutionProvider" in refused(execution_providers=[CPU])
    assert f"{CUDA}: {{device_id: 1}}" in refused(provider_options=[1])
    assert "name it in execution_providers too" in refused(provider_options={TENSORRT: {"trt_fp16_enable": True}})
    assert f"did you mean {CUDA!r}?" in refused(provider_options={"CudaExecutionProvider": {}})
    assert f"{CUDA} is 1; it must map options to values" in refused(provider_options={CUDA: 1})
    assert "'device_id' is [1]; it must be a word, a number" in refused(provider_options={CUDA: {"device_id": [1]}})
    check(target(execution_providers=[RTX, CUDA, CPU], provider_options={RTX: {"nv_cuda_graph_enable": True}}))


def test_the_order_and_the_options_are_the_recipes() -> None:
    asked = target(execution_providers=[TENSORRT, CUDA], provider_options={TENSORRT: {"trt_int8_enable": True}, CUDA: {"a": 2}})
    assert settings(asked) == [
        [TENSORRT, {"trt_engine_cache_enable": "0", "trt_timing_cache_enable": "0", "trt_int8_enable": "1"}],
        [CUDA, {"use_tf32": "0", "a": "2"}],
    ]
    assert settings(target()) == [[CUDA, {"use_tf32": "0"}]]
    assert settings(Target("edge", "onnxruntime")) == [[CPU, {}]]


def test_what_makes_engines_is_known() -> None:
    assert compiling([CUDA, CPU]) == []
    assert compiling([RTX, CUDA]) == [RTX]
    assert notes(Target("edge", "onnxruntime"), [CPU]) == ()


@dataclass
class Node:
    name: str
    op_type: str = "Conv"


@dataclass
class Part:
    ep_name: str
    nodes: list[Node]

    def get_nodes(self) -> list[Node]:
        return self.nodes


@dataclass
class Session:
    """What a session on a GPU build tells; there is no GPU where these tests have to run."""

    providers: list[str]
    parts: list[Part] = field(default_factory=list)

    def get_providers(self) -> list[str]:
        return self.providers

    def get_provider_graph_assignment_info(self) -> list[Part]:
        return self.parts


class OldSession:
    def get_providers(self) -> list[str]:
        return [CUDA, CPU]


def held(session: Any, *providers: str, allow_fallback: bool = False, why: str | None = None) -> tuple[str, ...]:
    return held_against(session, Asked(providers, allow_fallback, "net.onnx", Path()), lambda provider, folder: why)


MIXED = Session([CUDA, CPU], [Part(CUDA, [Node("a")]), Part(CPU, [Node("b"), Node("", "Gather")])])


def test_nodes_that_stray_to_the_cpu_are_named() -> None:
    with pytest.raises(BackendFault, match=f"^net.onnx: onnxruntime: 2 nodes do not run on {CUDA}: b, Gather; name {CPU} in"):
        held(MIXED, CUDA)
    assert held(MIXED, CUDA, allow_fallback=True) == (f"2 nodes do not run on {CUDA}: b, Gather (allowed)",)


def test_nodes_that_may_run_elsewhere_are_a_note() -> None:
    assert held(MIXED, CUDA, CPU) == (f"2 of 3 nodes run on {CPU}: b, Gather",)
    all_on_first = Session([TENSORRT, CUDA, CPU], [Part(TENSORRT, [Node("a")]), Part(TENSORRT, [Node("b")])])
    assert held(all_on_first, TENSORRT, CUDA, CPU) == ()


def test_three_providers() -> None:
    parts = [Part(TENSORRT, [Node("a"), Node("b")]), Part(CUDA, [Node("c")]), Part(CPU, [Node("d")]), Part(CUDA, [Node("e")])]
    session = Session([TENSORRT, CUDA, CPU], parts)
    assert held(session, TENSORRT, CUDA, CPU) == (f"2 of 5 nodes run on {CUDA}: c, e", f"1 of 5 nodes run on {CPU}: d")
    with pytest.raises(BackendFault, match=f"1 nodes do not run on {TENSORRT}, {CUDA}: d"):
        held(session, TENSORRT, CUDA)


def test_the_first_must_run_something_the_others_take_what_is_left() -> None:
    with pytest.raises(BackendFault, match=f"{TENSORRT} asked for, but no node runs there; all run on {CUDA}"):
        held(Session([TENSORRT, CUDA, CPU], [Part(CUDA, [Node("a")])]), TENSORRT, CUDA)


def test_a_provider_that_did_not_load_is_named_with_the_reason() -> None:
    why = "libcudnn.so.9: cannot open shared object file"
    with pytest.raises(MissingBackend) as caught:
        held(Session([CPU]), CUDA, CPU, why=why)
    assert f"{CUDA} is in this build of onnxruntime but was not loaded ({why}), and the session runs on {CPU}" in str(
        caught.value
    )
    with pytest.raises(MissingBackend, match="the library does not say why"):
        held(Session([CUDA, CPU]), TENSORRT, CUDA)
    (note,) = held(Session([CPU]), CUDA, allow_fallback=True, why=why)
    assert why in note
    assert note.endswith("(allowed)")


def test_an_older_release_says_that_it_does_not_tell() -> None:
    assert held(OldSession(), CUDA) == ("this release of onnxruntime does not tell which nodes run where",)


def test_the_reason_is_the_dynamic_linkers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "problem", lambda: "no driver")
    assert why_not(CPU, tmp_path) is None
    assert why_not(CUDA, tmp_path) == "no driver"
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    found = why_not(CUDA, tmp_path)
    assert found is not None
    assert "libonnxruntime_providers_cuda.so: " in found
    assert "\n" not in found
    assert found.endswith("install the CUDA, cuDNN or TensorRT that this build needs")
