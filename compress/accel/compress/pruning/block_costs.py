"""What a network is worth without some of its blocks: on the selection data, else by agreement with itself unpruned."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from accel.compress.output_likeness import Compared, Remembered, answers_of
from accel.compress.pruning.latency_table import structure
from accel.compress.quiet_library import quiet
from accel.compress.training.state import state_digest, tensors_of
from accel.contracts import Job
from accel.errors import DataFault
from accel.model import TorchModel

Array = NDArray[Any]
AGREEMENT_SAMPLES = 512
"""Without labels: how many samples the outputs are compared on."""


@dataclass(frozen=True)
class Worth:
    """``score``: higher is better, None where outputs are not numbers. ``noise``: squared error over squared output."""

    score: float | None
    noise: float


class Judge:
    """Scores ``module`` with blocks removed; removes them for the time of one scoring only. Answers are kept by the job's memo.

    ``measure``: what the score is, for notes.
    """

    def __init__(self, model: TorchModel, module: nn.Module, job: Job) -> None:
        """``module``: a copy of the model's that may be worked on. Raises DataFault without selection and calibration data."""
        task = job.task
        if task is None or not (task.has("selection") or task.has("calibration")):
            raise DataFault(
                "prune: method depth chooses blocks by what their removal costs on data, and there is none; "
                "set data.training or data.calibration"
            )
        self._model = model
        self._module = module
        self._job = job
        self._task = task
        self._split: Literal["selection", "calibration"] = "selection" if task.has("selection") else "calibration"
        first = next(iter(task.selection()), None) if self._split == "selection" else None
        self._labelled = first is not None and first.labels is not None
        self._sign = 1.0
        self._asked = 0
        self._reference: Remembered | None = None
        self._digest = digest_of(model)
        self._data = task.digest(self._split)
        self._kind = answers_of(task)
        self._alike = {"classes": "agreement with the unpruned network", "embeddings": "cosine to the unpruned network"}[
            self._kind
        ]
        self.measure = self._alike

    def worth(self, removed: Iterable[str]) -> Worth:
        """Of the network without the blocks ``removed``."""
        paths = sorted(removed)
        key = {
            "what": "cost of removing blocks",
            "version": 2,
            "model": self._digest,
            "removed": paths,
            "split": self._split,
            "data": self._data,
            "torch": torch.__version__,
        }
        name, sign, score, noise = self._job.memo(key, lambda: self._measured(paths))
        self.measure, self._sign = name, sign
        self._asked += 1
        self._job.progress(self._asked, 0, "block removals tried")
        return Worth(score, float("inf") if noise is None else noise)

    def said(self, worth: Worth) -> str:
        """``selection top1 0.9150, output SQNR 23.1 dB``: as it goes into a note."""
        ratio = "" if worth.noise == 0 else f", output SQNR {-10 * np.log10(worth.noise):.1f} dB"
        return f"{self.measure} {'not a number' if worth.score is None else format(self._sign * worth.score, '.4f')}{ratio}"

    def _measured(self, removed: Sequence[str]) -> tuple[str, float, float | None, float | None]:
        """Name of the score, its sign (-1 where lower is better), signed score, noise; None where not a finite number."""
        if self._reference is None and removed:
            self._reference = Remembered()
            self._scored(self._reference, ())
        batches = [] if self._reference is None else self._reference.batches
        outputs = Compared(batches, self._kind, "prune: without a block the network")
        name, sign, score = self._scored(outputs, removed)
        noise = outputs.noise()
        return name, sign, score if np.isfinite(score) else None, noise

    def _scored(self, outputs: Remembered | Compared, removed: Sequence[str]) -> tuple[str, float, float]:
        """Name, sign and signed value of the score; what the network gives is appended to ``outputs`` batch by batch."""
        with without(self._module, removed):
            if not self._labelled:
                for given in self._batches():
                    outputs.append(self._predict(given)[0])
                return self._alike, 1.0, _likeness(outputs)

            finite = True

            def predict(given: Mapping[str, Array]) -> Sequence[Array]:
                nonlocal finite
                found = self._predict(given)
                finite = finite and bool(np.isfinite(found[0]).all())
                outputs.append(found[0])
                return found

            try:
                metrics = self._task.score(predict, "selection")
            except DataFault:  # a task may refuse to judge what is no number: without these blocks the network is worth nothing
                if finite or not removed:
                    raise
                return self.measure, self._sign, float("nan")
        if not metrics:  # of embeddings, which are held against the unpruned network's
            return self._alike, 1.0, _likeness(outputs)
        name, first = next(iter(metrics.items()))
        sign = 1.0 if first.higher_is_better else -1.0
        return f"selection {name}", sign, sign * first.value

    def _batches(self) -> Iterator[Mapping[str, Array]]:
        left = AGREEMENT_SAMPLES
        for batch in self._task.selection() if self._split == "selection" else self._task.calibration():
            size = len(next(iter(batch.inputs.values())))
            yield {name: array[:left] for name, array in batch.inputs.items()}
            left -= size
            if left <= 0:
                return

    def _predict(self, given: Mapping[str, Array]) -> list[Array]:
        device = next((parameter.device for parameter in self._module.parameters()), torch.device("cpu"))
        names = [spec.name for spec in self._model.signature.inputs]
        missing = [name for name in names if name not in given]
        if missing:
            raise DataFault(f"prune: batches hold {sorted(given)} but the model takes {missing} too")
        tensors = [torch.from_numpy(np.array(given[name])).to(device) for name in names]
        with torch.inference_mode(), quiet():
            leaves = pytree.tree_leaves(self._module(*tensors))
        return [leaf.cpu().numpy() for leaf in leaves if isinstance(leaf, Tensor)]


def _likeness(outputs: Remembered | Compared) -> float:
    """Where nothing can be alike 1, and ties decide; NaN where outputs are no numbers."""
    found = outputs.likeness() if isinstance(outputs, Compared) else 1.0
    if found is None and isinstance(outputs, Compared) and outputs.noise() is not None:
        return 1.0
    return float("nan") if found is None else found


@contextmanager
def without(module: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """``module`` without these blocks for the time of a block, and as it was afterwards."""
    taken: list[tuple[nn.Module, str, nn.Module]] = []
    try:
        for path in paths:
            parent, _, leaf = path.rpartition(".")
            owner = module.get_submodule(parent)
            taken.append((owner, leaf, owner.get_submodule(leaf)))
            setattr(owner, leaf, nn.Identity())
        yield
    finally:
        for owner, leaf, part in taken:
            setattr(owner, leaf, part)


def objections(module: nn.Module, paths: Iterable[str], run: Callable[[], Sequence[Tensor]]) -> dict[str, str]:
    """Path to why the network does not run, or gives other shapes, without it; those that can go are left out."""
    whole = [output.shape for output in run()]
    found = {}
    for path in paths:
        with without(module, [path]):
            try:
                shapes = [output.shape for output in run()]
            except Exception as error:  # noqa: BLE001  whatever the user's forward raises without the block is the answer
                found[path] = f"the network does not run without it ({type(error).__name__}: {error})"
                continue
        if shapes != whole:
            found[path] = f"the network gives {shapes} without it instead of {whole}"
    return found


def digest_of(model: TorchModel) -> str:
    """What decides a network's answers: its structure and code, where its factory's code lies, and its weights."""
    code = model.origin.digest if model.origin is not None else ""
    return hashlib.sha256(f"{structure(model)} {state_digest(tensors_of(model.module))} {code}".encode()).hexdigest()
