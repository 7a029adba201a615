"""CUDA graphs: the order of the calls, on a stand-in for CUDA; on a GPU, test_eager_modes runs the real thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from accel.accelerate.eager_graphs import KEPT, WARM_UP, Captured
from accel.accelerate.eager_module import EagerRunner
from accel.errors import BackendFault
from accel.model import Signature, TensorSpec, TorchModel

CPU = torch.device("cpu")


class Cuda:
    """Tensors stay on the CPU. A capture runs nothing: ``replay`` does what was called inside, in the same buffers."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing: list[Callable[[], None]] | None = None
        self.where = "main"

    def stream(self, device: torch.device | None = None) -> Cuda.Stream:
        return Cuda.Stream(self, "side")

    def current_stream(self, device: torch.device | None = None) -> Cuda.Stream:
        return Cuda.Stream(self, self.where)

    @contextmanager
    def on(self, stream: Cuda.Stream) -> Iterator[None]:
        before, self.where = self.where, stream.name
        yield
        self.where = before

    @contextmanager
    def graph(self, graph: Cuda.Graph) -> Iterator[None]:
        self.calls.append("capture")
        self.capturing = graph.work
        yield
        self.capturing = None

    class Stream:
        def __init__(self, cuda: Cuda, name: str) -> None:
            self.cuda, self.name = cuda, name

        def wait_stream(self, other: Cuda.Stream) -> None:
            self.cuda.calls.append(f"{self.name} waits for {other.name}")

        def synchronize(self) -> None:
            self.cuda.calls.append(f"synchronize {self.name}")

    class Graph:
        def __init__(self, cuda: Cuda) -> None:
            self.cuda = cuda
            self.work: list[Callable[[], None]] = []

        def replay(self) -> None:
            self.cuda.calls.append("replay")
            for step in self.work:
                step()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    made = Cuda()
    monkeypatch.setattr(torch.cuda, "Stream", made.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", made.current_stream)
    monkeypatch.setattr(torch.cuda, "stream", made.on)
    monkeypatch.setattr(torch.cuda, "graph", made.graph)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: made.Graph(made))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor.clone())
    return made


def doubling(cuda: Cuda) -> Callable[[torch.Tensor], list[torch.Tensor]]:
    def double(x: torch.Tensor) -> list[torch.Tensor]:
        y = torch.empty_like(x)

        def work() -> None:
            torch.mul(x, 2, out=y)

        if cuda.capturing is None:
            cuda.calls.append(f"run on {cuda.where}")
            work()
        else:
            cuda.capturing.append(work)
        return [y]

    return double


def array(*values: float) -> np.ndarray[Any, Any]:
    return np.array(values, np.float32)


def test_warm_up_on_a_side_stream_then_capture_then_replays(cuda: Cuda) -> None:
    captured = Captured(doubling(cuda), CPU)
    (first,) = captured([array(1, 2)])
    assert cuda.calls == [
        "side waits for main",
        *["run on side"] * WARM_UP,
        "main waits for side",
        "capture",
        "replay",
        "synchronize main",
    ]
    cuda.calls.clear()
    given = array(5, 6)
    given.flags.writeable = False
    (second,) = captured([given])
    assert cuda.calls == ["replay", "synchronize main"]
    np.testing.assert_array_equal(first, [2, 4])  # the caller's to keep
    np.testing.assert_array_equal(second, [10, 12])


def test_each_shape_has_its_graph_and_few_are_kept(cuda: Cuda) -> None:
    captured = Captured(doubling(cuda), CPU)
    for size in range(1, KEPT + 3):
        captured([array(*range(size))])
    assert cuda.calls.count("capture") == KEPT + 2
    captured([array(1, 2, 3)])
    assert cuda.calls.count("capture") == KEPT + 2  # still kept
    captured([array(1)])
    assert cuda.calls.count("capture") == KEPT + 3  # the oldest had to go
    assert len(captured._graphs) == KEPT


def test_what_cannot_be_captured_is_told_with_the_way_out(cuda: Cuda) -> None:
    def fails(x: torch.Tensor) -> list[torch.Tensor]:
        if cuda.capturing is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return [x]

    with pytest.raises(BackendFault, match=r"\(CUDA error: operation not permitted.*leave option cuda_graphs out"):
        Captured(fails, CPU)([array(1)])


def test_an_error_of_the_module_itself_is_not_the_captures(cuda: Cuda) -> None:
    def fails(x: torch.Tensor) -> list[torch.Tensor]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Captured(fails, CPU)([array(1)])
    assert "capture" not in cuda.calls


def test_the_runner_goes_through_the_graph(cuda: Cuda) -> None:
    """The whole runner on the stand-in: outputs, notes, and nothing held after it is closed."""

    class Doubles(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return doubling(cuda)(x)

    signature = Signature((TensorSpec("x", ("n",), "float32"),), (TensorSpec("y", ("n",), "float32"),))
    settings = {"device": "cpu", "num_threads": 1, "float32_matmul_precision": "highest", "cuda_graphs": True}
    with EagerRunner(TorchModel(module=Doubles().eval(), signature=signature), settings) as runner:
        for value in (3.0, 4.0):
            (found,) = runner({"x": array(value)})
            np.testing.assert_array_equal(found, [2 * value])
        assert "one CUDA graph" in runner.executed_precision().notes[0]
    assert cuda.calls.count("capture") == 1
    with pytest.raises(BackendFault, match="closed"):
        runner({"x": array(1)})
