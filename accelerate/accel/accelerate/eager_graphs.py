"""A function of GPU tensors as a CUDA graph: one launch for the whole call, in buffers that stay where they are.

Source of the steps: PyTorch documentation, "CUDA semantics", section "CUDA Graphs": warm-up on a side stream, capture, replay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from accel.accelerate.compile_faults import shortened
from accel.errors import BackendFault

if TYPE_CHECKING:
    from accel.contracts import Array

WARM_UP = 3
"""Calls before the capture, in which libraries choose algorithms and take their workspaces: neither may happen inside."""

KEPT = 8
"""At most this many graphs, one for each set of input shapes, are kept; each holds the memory of a whole call."""


@dataclass(frozen=True)
class _Graph:
    """``sent`` and ``received`` are pinned: only from and to such memory the GPU copies by itself."""

    replay: Callable[[], None]
    sent: list[Tensor]
    inputs: list[Tensor]
    outputs: list[Tensor]
    received: list[Tensor]


class Captured:
    """``function``, of tensors on ``device`` to tensors there, for arrays of the host. Call it in inference mode.

    The copies to and from the GPU are part of a call, which ends when the last of them has.
    """

    def __init__(self, function: Callable[..., list[Tensor]], device: torch.device) -> None:
        self._function = function
        self._device = device
        self._graphs: dict[tuple[tuple[int, ...], ...], _Graph] = {}

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs are copies, the caller's to keep. Raises BackendFault where the function cannot be captured."""
        shapes = tuple([array.shape for array in arrays])
        graph = self._graphs.get(shapes)
        if graph is None:
            graph = self._capture(arrays)
            if len(self._graphs) >= KEPT:
                del self._graphs[next(iter(self._graphs))]
            self._graphs[shapes] = graph
        for host, tensor, array in zip(graph.sent, graph.inputs, arrays, strict=True):
            np.copyto(host.numpy(), array)
            tensor.copy_(host, non_blocking=True)
        graph.replay()
        for host, tensor in zip(graph.received, graph.outputs, strict=True):
            host.copy_(tensor, non_blocking=True)
        torch.cuda.current_stream(self._device).synchronize()
        return [host.numpy().copy() for host in graph.received]

    def _capture(self, arrays: Sequence[Array]) -> _Graph:
        sent = [torch.tensor(array).pin_memory() for array in arrays]
        inputs = [host.to(self._device) for host in sent]
        side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._function(*inputs)
        torch.cuda.current_stream(self._device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                outputs = self._function(*inputs)
        except Exception as error:  # whatever the module or the driver says to a call that a capture does not allow
            raise BackendFault(
                f"the module cannot be captured as a CUDA graph ({shortened(str(error)) or type(error).__name__}): what it "
                "does may neither depend on values nor wait for the GPU; leave option cuda_graphs out"
            ) from error
        received = [torch.empty(tensor.shape, dtype=tensor.dtype).pin_memory() for tensor in outputs]
        return _Graph(graph.replay, sent, inputs, outputs, received)
