"""One execution context of an engine with its stream, its buffers and, where asked, its CUDA graph.

Order of calls, as TensorRT's "Performing Inference" has it: profile, shapes of the inputs, shapes of the outputs, addresses,
and only then execution. A graph is of one set of shapes and addresses: with other shapes it is captured again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from accel.accelerate.engines.options import Shape
from accel.accelerate.engines.tensors import EngineTensors, choose_profile
from accel.errors import AccelError, BackendFault
from accel.model import Signature

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from accel.accelerate.engines.buffers import Gpu, Held, HostMemory
    from accel.contracts import Array


class Lane:
    """``capture``: from the second execution of the same shapes on, replay a graph. Everything runs inside ``with lane.on()``.

    Raises BackendFault without the engine's name: the runner adds it, and what the library logged.
    """

    def __init__(
        self, context: Any, stream: Held, tensors: EngineTensors, signature: Signature, gpu: Gpu, *, capture: bool
    ) -> None:
        self.context = context
        self.stream = stream
        self._tensors = tensors
        self._signature = signature
        self._gpu = gpu
        self._capture = capture
        self._shapes: Mapping[str, Shape] | None = None
        self._views: dict[str, NDArray[Any]] = {}
        self._host: dict[str, HostMemory] = {}
        self._device: dict[str, Held] = {}
        self._graph: Held | None = None
        self._executed = False

    def on(self) -> Any:
        """Makes the stream the one that everything goes to."""
        return self._gpu.on(self.stream)

    @property
    def shapes(self) -> Mapping[str, Shape] | None:
        """Of the inputs, as last prepared; None before that."""
        return self._shapes

    def takes(self, inputs: Mapping[str, Array]) -> bool:
        """Whether it is prepared for arrays like these."""
        if self._shapes is None or len(inputs) != len(self._shapes):
            return False
        try:
            return all(
                inputs[name].shape == shape and inputs[name].dtype == self._views[name].dtype
                for name, shape in self._shapes.items()
            )
        except (KeyError, AttributeError):  # another name, or no array
            return False

    def output_shapes(self, shapes: Mapping[str, Shape]) -> dict[str, Shape]:
        """Those that follow from ``shapes`` of the inputs; BackendFault where they depend on the values too."""
        index = choose_profile(self._tensors.profiles, shapes, self._signature)
        if self.context.active_optimization_profile != index:
            if not self.context.set_optimization_profile_async(index, self.stream.handle):
                raise BackendFault(f"the library does not take optimization profile {index}")
            self._gpu.synchronize(self.stream)
        for name, shape in shapes.items():
            if not self.context.set_input_shape(name, shape):
                raise BackendFault(f"input {name}: the library does not take the shape {shape}")
        unknown = self.context.infer_shapes()
        if unknown:
            raise BackendFault(f"the library cannot tell shapes without {', '.join(unknown)}")
        found = {name: tuple(self.context.get_tensor_shape(name)) for name in self._tensors.outputs}
        for name, shape in found.items():
            if any(axis < 0 for axis in shape):
                raise BackendFault(
                    f"output {name}: its size depends on the values of the inputs, which accel does not run; leave the operator"
                    " that makes it (NonZero, NonMaxSuppression and their like) out of the ONNX file"
                )
        return found

    def prepare(self, shapes: Mapping[str, Shape]) -> None:
        """Buffers for ``shapes``; the old ones are given back first, so that both need not fit at once.

        DataFault for shapes outside every profile, and then nothing has changed.
        """
        choose_profile(self._tensors.profiles, shapes, self._signature)
        self.release_graph()
        self.release_buffers()
        outputs = self.output_shapes(shapes)
        for name, shape in (*shapes.items(), *outputs.items()):
            side, word = (self._tensors.inputs, "input") if name in shapes else (self._tensors.outputs, "output")
            dtype = np.dtype(side[name][0])
            size = math.prod(shape) * dtype.itemsize
            what = f"{word} {name} ({'x'.join(map(str, shape)) or '()'} {dtype})"
            device = self._device[name] = self._gpu.allocate(size, what)
            host = self._host[name] = self._gpu.allocate_host(size, what)
            self._views[name] = host.array[:size].view(dtype).reshape(shape)
            if not self.context.set_tensor_address(name, device.handle):
                raise BackendFault(f"{word} {name}: the library does not take its address")
        self._shapes = dict(shapes)

    def write(self, inputs: Mapping[str, Array] | None) -> None:
        """Put ``inputs`` (zeros for None) into the page-locked memory; nothing may be running."""
        for name in self._tensors.inputs:
            self._views[name][...] = 0 if inputs is None else inputs[name]

    def read(self) -> list[Array]:
        """The outputs as arrays of the caller's own, in the signature's order; the stream must be at rest."""
        return [self._views[spec.name].copy() for spec in self._signature.outputs]

    def copy_in(self) -> None:
        for name in self._tensors.inputs:
            self._gpu.copy_in(self._host[name], self._device[name], self.stream)

    def copy_out(self) -> None:
        for name in self._tensors.outputs:
            self._gpu.copy_out(self._device[name], self._host[name], self.stream)

    def execute(self) -> None:
        """One inference into the stream, from and to the GPU's memory.

        The first of its shapes is never captured: the library may still allocate and compile.
        """
        if self._graph is None and self._capture and self._executed:
            self._graph = self._captured()
        if self._graph is not None:
            self._gpu.launch(self._graph, self.stream)
        else:
            self._enqueue()
            self._executed = True

    def synchronize(self) -> None:
        self._gpu.synchronize(self.stream)

    def settle(self) -> None:
        """After a fault: wait for what was already queued. The fault on its way says more than one here would."""
        with suppress(AccelError):
            self._gpu.synchronize(self.stream)

    # -- giving back, in this order: graph, context, buffers, stream ---------------------------------------------------

    def release_graph(self) -> None:
        graph, self._graph = self._graph, None
        self._executed = False
        if graph is not None:
            graph.release()

    def release_context(self) -> None:
        self.context = None

    def release_buffers(self) -> None:
        """Each is tried, whatever happens to the others; raises the first fault."""
        self._shapes = None
        self._views = {}
        held = [*self._device.values(), *self._host.values()]
        self._device, self._host = {}, {}
        release_all(held)

    def _captured(self) -> Held:
        self._gpu.synchronize(self.stream)
        try:
            return self._gpu.capture(self.stream, self._enqueue)
        except BackendFault as error:
            raise BackendFault(f"its execution cannot be captured as a CUDA graph ({error}); set cuda_graphs: false") from error

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self.stream.handle):
            raise BackendFault("the library refused to execute it")


def release_all(held: list[Held]) -> None:
    """Each is tried, whatever happens to the others; raises the first fault."""
    first: AccelError | None = None
    for each in held:
        try:
            each.release()
        except AccelError as error:
            first = first or error
    if first is not None:
        raise first
