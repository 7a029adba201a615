"""The first layer where two ONNX files, two backends, or an ONNX file and the torch module it came from disagree.

Each side is looked into in a child. What an ONNX file should give comes from ONNX Runtime with all its optimizations off, which
computes node by node what the file says, unless another backend is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog, onnx_exposed, onnx_file
from accel.benchmarks.divergence import Divergence, first_divergence
from accel.errors import MissingBackend
from accel.imports import ImportPolicy
from accel.model import Target
from accel.timed_inputs import Sample
from accel.worker import Emit, Worker

if TYPE_CHECKING:
    from accel.contracts import Array, Backend
    from accel.model import TorchModel

PLAIN = Target("as the file says", "onnxruntime", options={"graph_optimization_level": "disable"})
"""No optimization: what the file says, node by node."""

_LIMIT_S = 600.0


@dataclass(frozen=True)
class File:
    """An ONNX file, and where it runs."""

    path: Path
    target: Target


@dataclass(frozen=True)
class Module:
    """The untouched torch module of a recipe. ``document``: the recipe's; ``allowed``: packages it may import."""

    path: Path
    document: Mapping[str, Any]
    allowed: tuple[str, ...] = ()


def divergence(expected: File | Module, found: File, sample: Sample, folder: Path, *, below_db: float) -> Divergence:
    """Nodes are matched by name, those of a module by its path; the last that both have makes the result.

    ``folder``: for what the children write. DataFault where no name is in both; else raises as the backends, which are asked in
    children, and as the recipe's code.
    """
    ours = {value.node: value for value in onnx_exposed.values(found.path)}
    with ExitStack() as stack:
        if isinstance(expected, File):
            theirs = {value.node: value.tensor for value in onnx_exposed.values(expected.path)}
            wanted = stack.enter_context(_Side(_worker(expected, sample, folder / "expected"), theirs))
            common = [node for node in ours if node in theirs]
        else:
            worker = _torch_worker(expected, sample, folder / "expected")
            wanted = stack.enter_context(_Side(worker, {node: node for node in ours}))
            known = set(worker.call("known", timeout_s=_LIMIT_S, nodes=list(ours)))
            common = [node for node in ours if node in known]
        given = _Side(_worker(found, sample, folder / "found"), {node: value.tensor for node, value in ours.items()})
        reads = {node: [each for each in ours[node].reads if each in common] for node in common}
        return first_divergence(common, wanted, stack.enter_context(given), below_db=below_db, reads=reads)


class _Side:
    """A child, asked by the names of nodes."""

    def __init__(self, worker: Worker, names: Mapping[str, str]) -> None:
        self._worker = worker
        self._names = names

    def __call__(self, nodes: Sequence[str]) -> Sequence[Array]:
        import numpy as np

        files = self._worker.call("values", timeout_s=_LIMIT_S, names=[self._names[node] for node in nodes])
        return [np.load(file, allow_pickle=False) for file in files]

    def __enter__(self) -> _Side:
        """Waits until the child is ready."""
        try:
            self._worker.result(timeout_s=_LIMIT_S)
        except BaseException:  # an interrupt too: no child is left behind
            self._worker.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._worker.close()


def _worker(side: File, sample: Sample, folder: Path) -> Worker:
    folder.mkdir(parents=True)
    arguments = {"path": str(side.path), "target": asdict(side.target), "folder": str(folder), "sample": asdict(sample)}
    label = f"{side.path.name} on {side.target.backend}"
    return Worker(label, "accel.diverging:open_file", arguments, log=folder / "log.txt")


def _torch_worker(side: Module, sample: Sample, folder: Path) -> Worker:
    folder.mkdir(parents=True)
    arguments = {
        "document": side.document,
        "path": str(side.path),
        "allowed": list(side.allowed),
        "folder": str(folder),
        "sample": asdict(sample),
    }
    return Worker(f"{side.path.name} in torch", "accel.diverging:open_module", arguments, log=folder / "log.txt")


def open_file(emit: Emit, path: str, target: Mapping[str, Any], folder: str, sample: Mapping[str, Any]) -> LookedFile:
    """Entry point of the child process; arguments are JSON: the fields of a Target and of a Sample, and where to write."""
    chosen = Target(**target)
    backend: Backend = catalog.backend(chosen.backend)
    reason = backend.unavailable(chosen.device)
    if reason is not None:
        raise MissingBackend(f"{path}: {reason}")
    return LookedFile(emit, Path(path), backend, chosen, Path(folder), Sample(**sample))


class LookedFile:
    """One file on one backend. Takes and gives JSON."""

    def __init__(self, emit: Emit, path: Path, backend: Backend, target: Target, folder: Path, sample: Sample) -> None:
        self._emit = emit
        self._path = path
        self._backend = backend
        self._target = target
        self._folder = folder
        self._inputs = sample.inputs(onnx_file.read(path).signature.inputs)

    def values(self, names: Sequence[str]) -> list[str]:
        """What the values called ``names`` are when they alone are looked at: a ``.npy`` file for each."""
        self._emit({"doing": f"looking at {len(names)} values on {self._target.backend}"})
        place = self._folder / "exposed.onnx"
        onnx_exposed.write_exposed(self._path, names, place)
        with self._backend.compile(onnx_file.read(place), self._target, self._folder) as runner:
            return _saved(runner(self._inputs)[: len(names)], self._folder)


def open_module(
    emit: Emit, document: Mapping[str, Any], path: str, allowed: Sequence[str], folder: str, sample: Mapping[str, Any]
) -> LookedModule:
    """Entry point of the child process; ``document``: the recipe's."""
    from accel.rebuilding import untouched_module
    from accel.recipe.reader import from_document

    emit({"doing": "building the torch model"})
    policy = ImportPolicy(Path(path).parent, tuple(allowed))
    model = untouched_module(from_document(document, path=Path(path)), policy)
    return LookedModule(model, Path(folder), Sample(**sample))


class LookedModule:
    """A torch module. Takes and gives JSON."""

    def __init__(self, model: TorchModel, folder: Path, sample: Sample) -> None:
        self._model = model
        self._folder = folder
        self._inputs = sample.inputs(model.signature.inputs)
        self._found: dict[str, Array] = {}

    def known(self, nodes: Sequence[str]) -> list[str]:
        """Those of ``nodes``, all of a file, that a module is known to make."""
        from accel.accelerate.eager_values import node_values

        self._found = node_values(self._model.module, self._inputs, nodes)
        return list(self._found)

    def values(self, names: Sequence[str]) -> list[str]:
        """Of nodes that are known: a ``.npy`` file for each."""
        return _saved([self._found[name] for name in names], self._folder)


def _saved(values: Sequence[Array], folder: Path) -> list[str]:
    import numpy as np

    files = []
    for index, value in enumerate(values):
        files.append(str(folder / f"{index}.npy"))
        np.save(files[-1], value)
    return files
