"""Memory, streams, events and graphs: the same promises by PyTorch and by cuda-python, and CUDA's errors told by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.accelerate.engines.fake_cuda import CudaRuntime, TorchWorld, cudaError_t

from accel.accelerate.engines import buffers as tensorrt_buffers
from accel.accelerate.engines import buffers_cuda as tensorrt_buffers_cuda
from accel.accelerate.engines import buffers_torch as tensorrt_buffers_torch
from accel.accelerate.engines.buffers import Gpu, Held, first_gpu, out_of_memory
from accel.accelerate.engines.buffers_cuda import CudaGpu
from accel.accelerate.engines.buffers_torch import TorchGpu
from accel.errors import BackendFault, MissingBackend


@pytest.fixture
def runtime() -> CudaRuntime:
    return CudaRuntime()


@pytest.fixture(params=["cuda-python", "torch"])
def gpu(request: pytest.FixtureRequest, runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    if request.param == "cuda-python":
        return CudaGpu(runtime)
    TorchWorld(monkeypatch)
    return TorchGpu()


def test_says_where_it_is_and_what_is_free(gpu: Gpu) -> None:
    assert gpu.bus_id == "0000:65:00.0"
    assert gpu.free_bytes() == (5 << 20, 9 << 20)
    assert gpu.name in ("cuda-python", "torch")


def test_what_is_copied_in_comes_out(gpu: Gpu, runtime: CudaRuntime) -> None:
    there, here, back = gpu.allocate(16, "a"), gpu.allocate_host(16, "b"), gpu.allocate_host(16, "c")
    stream = gpu.stream()
    assert here.array.dtype == np.uint8
    assert here.array.shape == (16,)
    here.array.view(np.float32)[...] = [1, 2, 3, 4]
    back.array[...] = 0
    with gpu.on(stream):
        gpu.copy_in(here, there, stream)
        gpu.copy_out(there, back, stream)
        gpu.synchronize(stream)
    np.testing.assert_array_equal(back.array.view(np.float32), [1, 2, 3, 4])
    assert there.handle != 0
    for held in (there, here, back, stream):
        held.release()
        held.release()
    assert runtime.alive == []
    with pytest.raises(AttributeError, match="array"):
        back.array  # noqa: B018 - what it showed is somebody else's memory now


def test_nothing_at_all_can_be_held(gpu: Gpu) -> None:
    assert len(gpu.allocate_host(0, "nothing").array) == 1
    assert gpu.allocate(0, "nothing").handle != 0


def test_events_tell_the_time(gpu: Gpu, runtime: CudaRuntime) -> None:
    start, end, stream = gpu.event(), gpu.event(), gpu.stream()
    with gpu.on(stream):
        gpu.record(start, stream)
        gpu.record(end, stream)
    assert gpu.elapsed_ms(start, end) == 1.5
    for held in (start, end, stream):
        held.release()
    assert runtime.alive == []


def test_work_is_captured_and_launched(gpu: Gpu, runtime: CudaRuntime) -> None:
    stream = gpu.stream()
    done: list[str] = []
    with gpu.on(stream):
        graph = gpu.capture(stream, lambda: done.append("captured"))
        gpu.launch(graph, stream)
    assert done == ["captured"]
    graph.release()
    stream.release()
    assert runtime.alive == []


def test_capturing_ends_where_the_work_fails(gpu: Gpu, runtime: CudaRuntime) -> None:
    stream = gpu.stream()

    def work() -> None:
        raise KeyError("the work's own")

    for broken in (False, True):
        if broken:
            runtime.fail["cudaStreamEndCapture"] = cudaError_t.cudaErrorStreamCaptureInvalidated
        with gpu.on(stream), pytest.raises(KeyError, match="the work's own"):
            gpu.capture(stream, work)
    stream.release()
    assert runtime.alive == []


def test_capture_that_torch_cannot_end_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    world = TorchWorld(monkeypatch)
    gpu = TorchGpu()
    stream = gpu.stream()
    world.fail["capture_end"] = RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore")
    with gpu.on(stream), pytest.raises(BackendFault, match=r"previous error during capture$"):
        gpu.capture(stream, lambda: None)
    with gpu.on(stream), pytest.raises(KeyError):
        gpu.capture(stream, raise_key_error)
    assert world.calls.count("capture_end") == 2


def raise_key_error() -> None:
    raise KeyError("the work's own")


# -- CUDA's errors ------------------------------------------------------------------------------------------------------

USES: dict[str, Callable[[Gpu], Any]] = {
    "cudaMemGetInfo": lambda gpu: gpu.free_bytes(),
    "cudaMalloc": lambda gpu: gpu.allocate(1, "it"),
    "cudaMallocHost": lambda gpu: gpu.allocate_host(1, "it"),
    "cudaFree": lambda gpu: gpu.allocate(1, "it").release(),
    "cudaFreeHost": lambda gpu: gpu.allocate_host(1, "it").release(),
    "cudaStreamCreateWithFlags": lambda gpu: gpu.stream(),
    "cudaStreamSynchronize": lambda gpu: gpu.synchronize(gpu.stream()),
    "cudaMemcpyAsync": lambda gpu: gpu.copy_in(gpu.allocate_host(1, "it"), gpu.allocate(1, "it"), gpu.stream()),
    "cudaEventElapsedTime": lambda gpu: gpu.elapsed_ms(gpu.event(), gpu.event()),
    "cudaStreamBeginCapture": lambda gpu: gpu.capture(gpu.stream(), lambda: None),
    "cudaStreamEndCapture": lambda gpu: gpu.capture(gpu.stream(), lambda: None),
    "cudaGraphInstantiate": lambda gpu: gpu.capture(gpu.stream(), lambda: None),
    "cudaGraphLaunch": lambda gpu: gpu.launch(gpu.capture(gpu.stream(), lambda: None), gpu.stream()),
}


@pytest.mark.parametrize("function", USES)
def test_every_error_of_cuda_is_told_by_its_name(runtime: CudaRuntime, function: str) -> None:
    gpu = CudaGpu(runtime)
    runtime.fail[function] = cudaError_t.cudaErrorIllegalAddress
    with pytest.raises(BackendFault, match=f"^{function}: cudaErrorIllegalAddress, what CUDA says$"):
        USES[function](gpu)
    if function.startswith("cudaGraphInst"):
        assert not any(kind == "graph" for kind, _ in runtime.alive)


def test_errors_of_torch_are_told_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    world = TorchWorld(monkeypatch)
    gpu = TorchGpu()
    error: Any = torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nFor debugging ...")
    error.error_code = 700
    stream = gpu.stream()
    uses: dict[str, Callable[[], Any]] = {
        "synchronize": lambda: gpu.synchronize(stream),
        "memory": lambda: gpu.allocate(1, "it"),
        "pinned": lambda: gpu.allocate_host(1, "it"),
        "stream": gpu.stream,
        "record": lambda: gpu.record(gpu.event(), stream),
        "reset": lambda: captured(gpu, stream).release(),
    }
    for what, use in uses.items():
        world.fail = {what: error}
        with pytest.raises(BackendFault, match=r"^CUDA error: an illegal memory access was encountered \(cudaError 700\)$"):
            use()


def captured(gpu: Gpu, stream: Held) -> Held:
    with gpu.on(stream):
        return gpu.capture(stream, lambda: None)


@pytest.mark.parametrize("library", ["cuda-python", "torch"])
def test_too_little_memory_says_what_for_and_how_much(
    library: str, runtime: CudaRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"out of GPU memory: input x needs 7\.0 MiB, and 5\.0 MiB of 9\.0 MiB are free; take a smaller batch"
    if library == "torch":
        TorchWorld(monkeypatch).fail["memory"] = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate ...")
        gpu: Gpu = TorchGpu()
    else:
        gpu = CudaGpu(runtime)
        runtime.fail["cudaMalloc"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(BackendFault, match=said):
        gpu.allocate(7 << 20, "input x")


def test_too_little_memory_of_the_host_is_another_sentence(runtime: CudaRuntime) -> None:
    runtime.fail["cudaMallocHost"] = cudaError_t.cudaErrorMemoryAllocation
    with pytest.raises(BackendFault, match="output y needs 64 bytes of page-locked memory"):
        CudaGpu(runtime).allocate_host(64, "output y")


def test_small_sizes_are_told_in_bytes() -> None:
    assert "x needs 12 bytes, and 0 bytes of 2.0 MiB are free" in str(out_of_memory(12, (0, 2 << 20), "x"))


# -- which of the two ---------------------------------------------------------------------------------------------------


def test_torch_comes_first_where_it_sees_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    TorchWorld(monkeypatch)
    assert first_gpu().name == "torch"


def importing(monkeypatch: pytest.MonkeyPatch, cuda: Any) -> None:
    """As if the module ``cuda.bindings.runtime`` were ``cuda``; None: not installed."""
    whole = importlib.import_module

    def found(name: str, package: str | None = None) -> Any:
        if name.partition(".")[0] != "cuda":
            return whole(name, package)
        if cuda is None:
            raise ModuleNotFoundError("No module named 'cuda'")
        return cuda

    monkeypatch.setattr(tensorrt_buffers, "import_module", found)
    monkeypatch.setattr(tensorrt_buffers_cuda, "import_module", found)


def test_cuda_python_comes_second(monkeypatch: pytest.MonkeyPatch, runtime: CudaRuntime) -> None:
    monkeypatch.setattr(tensorrt_buffers_torch, "find", lambda: "torch 2.13 is built without CUDA")
    importing(monkeypatch, runtime)
    assert first_gpu().name == "cuda-python"


def test_none_at_all_says_why_of_each_and_how_to_get_one(monkeypatch: pytest.MonkeyPatch, runtime: CudaRuntime) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    importing(monkeypatch, None)
    with pytest.raises(
        MissingBackend, match=r"torch \S+ is built without CUDA; cuda cannot be imported .*accel-toolkit\[cuda\]"
    ):
        first_gpu()
    importing(monkeypatch, runtime)
    runtime.fail["cudaGetDeviceCount"] = cudaError_t.cudaErrorNoDevice
    with pytest.raises(MissingBackend, match="cuda-python sees no GPU \\(cudaErrorNoDevice, what CUDA says\\)"):
        first_gpu()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingBackend, match=r"torch \S+ sees no GPU"):
        first_gpu()


def test_what_the_fake_runtime_has_the_real_one_has_too() -> None:
    real: Any = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    for name in dir(CudaRuntime):
        if name.startswith("cuda"):
            assert hasattr(real, name), name
    for enum in (CudaRuntime.cudaError_t, CudaRuntime.cudaMemcpyKind, CudaRuntime.cudaStreamCaptureMode):
        for member in enum:
            assert int(getattr(getattr(real, enum.__name__), member.name)) == int(member)
