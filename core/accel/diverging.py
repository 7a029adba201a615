"""The first layer where two ONNX files, two backends, or a backend and the ONNX standard disagree: each looked into in a child.

What is expected comes from ONNX Runtime with all its optimizations off, which computes node by node what the file says, unless
another backend is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog, onnx_exposed, onnx_file
from accel.benchmarks.divergence import Divergence, Observe, first_divergence
from accel.errors import MissingBackend
from accel.model import Target
from accel.timed_inputs import Sample
from accel.worker import Emit, Worker

if TYPE_CHECKING:
    from accel.contracts import Array, Backend

PLAIN = Target("as the file says", "onnxruntime", options={"graph_optimization_level": "disable"})
"""No optimization: what the file says, node by node."""

_LIMIT_S = 600.0


@dataclass(frozen=True)
class Looked:
    """A file, and where it runs."""

    path: Path
    target: Target


def divergence(expected: Looked, found: Looked, sample: Sample, folder: Path, *, below_db: float) -> Divergence:
    """Nodes are matched by name; the last that both have makes the result. ``folder``: for what the children write.

    DataFault where no name is in both files; else as the backends, which are asked in children.
    """
    sides = (onnx_exposed.values(expected.path), onnx_exposed.values(found.path))
    common = {value.node for value in sides[0]} & {value.node for value in sides[1]}
    order = [value.node for value in sides[1] if value.node in common]
    reads = {value.node: [each for each in value.reads if each in common] for value in sides[1]}
    with ExitStack() as stack:
        observe = []
        for index, (side, looked) in enumerate(zip(sides, (expected, found), strict=True)):
            place = folder / f"looked-{index}"
            place.mkdir(parents=True)
            arguments = {
                "path": str(looked.path),
                "target": asdict(looked.target),
                "folder": str(place),
                "sample": asdict(sample),
            }
            label = f"{looked.path.name} on {looked.target.backend}"
            worker = stack.enter_context(Worker(label, "accel.diverging:open_look", arguments, log=place / "log.txt"))
            worker.result(timeout_s=_LIMIT_S)
            observe.append(_observed(worker, {value.node: value.tensor for value in side}))
        return first_divergence(order, observe[0], observe[1], below_db=below_db, reads=reads)


def against_values(
    expected: Mapping[str, Array], found: Looked, sample: Sample, folder: Path, *, below_db: float
) -> Divergence:
    """The same against values that are known: ``expected``, by node, for the inputs of ``sample``."""
    side = [value for value in onnx_exposed.values(found.path) if value.node in expected]
    arguments = {"path": str(found.path), "target": asdict(found.target), "folder": str(folder), "sample": asdict(sample)}
    with Worker(
        f"{found.path.name} on {found.target.backend}", "accel.diverging:open_look", arguments, log=folder / "log.txt"
    ) as worker:
        worker.result(timeout_s=_LIMIT_S)
        observe = _observed(worker, {value.node: value.tensor for value in side})
        return first_divergence(
            [value.node for value in side], lambda nodes: [expected[node] for node in nodes], observe, below_db=below_db
        )


def _observed(worker: Worker, tensors: Mapping[str, str]) -> Observe:
    def observe(nodes: Sequence[str]) -> Sequence[Array]:
        import numpy as np

        files = worker.call("values", timeout_s=_LIMIT_S, tensors=[tensors[node] for node in nodes])
        return [np.load(file, allow_pickle=False) for file in files]

    return observe


def open_look(emit: Emit, path: str, target: Mapping[str, Any], folder: str, sample: Mapping[str, Any]) -> Look:
    """Entry point of the child process; arguments are JSON: the fields of a Target and of a Sample, and where to write."""
    chosen = Target(**target)
    backend: Backend = catalog.backend(chosen.backend)
    reason = backend.unavailable(chosen.device)
    if reason is not None:
        raise MissingBackend(f"{path}: {reason}")
    return Look(emit, Path(path), backend, chosen, Path(folder), Sample(**sample))


class Look:
    """One file on one backend. Takes and gives JSON."""

    def __init__(self, emit: Emit, path: Path, backend: Backend, target: Target, folder: Path, sample: Sample) -> None:
        self._emit = emit
        self._path = path
        self._backend = backend
        self._target = target
        self._folder = folder
        self._inputs = sample.inputs(onnx_file.read(path).signature.inputs)

    def values(self, tensors: Sequence[str]) -> list[str]:
        """What ``tensors`` are when they alone are looked at: a ``.npy`` file for each."""
        import numpy as np

        self._emit({"doing": f"looking at {len(tensors)} values on {self._target.backend}"})
        place = self._folder / "exposed.onnx"
        onnx_exposed.write_exposed(self._path, tensors, place)
        with self._backend.compile(onnx_file.read(place), self._target, self._folder) as runner:
            outputs = runner(self._inputs)[: len(tensors)]
        files = []
        for index, value in enumerate(outputs):
            files.append(str(self._folder / f"{index}.npy"))
            np.save(files[-1], value)
        return files
