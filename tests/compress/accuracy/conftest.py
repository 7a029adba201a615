"""A network built to break: in INT8 one of its layers, and no other, reads and weighs next to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from accel.compress.export_onnx import ExportOnnx
from accel.contracts import AnswerKind, Batch, Job, NumberFormat, Predict, Score, Split
from accel.errors import PassFault
from accel.model import Model, OnnxModel, Signature, TensorSpec, TorchModel

Array = NDArray[Any]
LARGER = 1000.0


class Breakable(nn.Module):
    """Channel 0 of what ``second`` gives is a thousand times larger than the others, and ``third`` weighs it a thousand times
    less: one scale for all of it leaves nothing of the others, and one for a filter nothing of its weight."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.third = nn.Conv2d(width, width, 3, padding=1)
        self.fourth = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(36 * width, classes)
        with torch.no_grad():
            assert self.second.bias is not None
            self.second.weight[0] *= LARGER
            self.second.bias[0] *= LARGER
            self.third.weight[:, 0] /= LARGER

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(image))))
        x = torch.relu(self.third(x))
        logits: torch.Tensor = self.head(torch.relu(x + self.fourth(x)).flatten(1))
        return logits


def breakable() -> TorchModel:
    torch.manual_seed(11)
    signature = Signature(
        (TensorSpec("image", ("batch", 3, 12, 12), "float32"),), (TensorSpec("logits", ("batch", 4), "float32"),)
    )
    return TorchModel(module=Breakable().eval(), signature=signature)


def images(count: int, seed: int) -> Array:
    """(count, 3, 12, 12) float32: noise, each sample on a brightness of its own."""
    chance = np.random.default_rng(seed)
    level = chance.normal(0, 1.5, (count, 3, 1, 1))
    return (chance.standard_normal((count, 3, 12, 12)) + level).astype(np.float32)


class Task:
    """Noise, labelled with what the float model answers; of twice as many samples those whose answer is clear.

    ``closeness``: how near the outputs are to the float model's, 0 at best: what nothing in INT8 reaches.
    """

    def __init__(
        self,
        model: TorchModel,
        labelled: bool = True,
        splits: tuple[Split, ...] = ("calibration", "selection"),
        count: int = 128,
        answers: AnswerKind = "classes",
    ) -> None:
        self.answers = answers
        drawn = images(2 * count, 1)
        with torch.no_grad():
            logits = model.module(torch.from_numpy(drawn)).numpy()
        best = np.sort(logits, axis=1)
        clear = np.sort(np.argsort(best[:, -2] - best[:, -1])[:count])
        self.images, self.logits = drawn[clear], logits[clear]
        self.labels = self.logits.argmax(1).astype(np.int64)
        self.labelled = labelled
        self.splits = splits
        self.read: set[str] = set()

    def calibration(self) -> Iterable[Batch]:
        self.read.add("calibration")
        yield Batch({"image": images(64, 2)})

    def selection(self) -> Iterator[Batch]:
        self.read.add("selection")
        for first in range(0, len(self.images), 48):
            labels = self.labels[first : first + 48] if self.labelled else None
            yield Batch({"image": self.images[first : first + 48]}, labels)

    def training(self) -> Iterable[Batch]:
        raise AssertionError("nothing is trained")

    def validation(self) -> Iterable[Batch]:
        raise AssertionError("validation is read once, for the result")

    def has(self, split: Split) -> bool:
        return split in self.splits

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        assert split == "selection"
        assert self.labelled, "who has no labels is not asked for a score"
        found = np.concatenate([predict(batch.inputs)[0] for batch in self.selection()])
        right = (found.argmax(1) == self.labels).astype(np.float64)
        if self.answers == "embeddings":
            return {}
        distance = -np.abs(found - self.logits).mean(1)
        return {"top1": Score(float(right.mean()), right), "closeness": Score(float(distance.mean()), distance)}


class SessionProbe:
    """Compiles in this process, on ONNX Runtime. ``refuses``: of the nodes that read float weights, whether that candidate
    cannot be compiled; ``ms``: of the same, its latency."""

    precision: NumberFormat = "int8"
    identity: Mapping[str, Any] = {"target": "this process"}

    def __init__(
        self, refuses: Callable[[set[str]], bool] = lambda nodes: False, ms: Callable[[set[str]], float] = len
    ) -> None:
        self.refuses = refuses
        self.ms = ms
        self.compiled: list[set[str]] = []
        self.timed: list[set[str]] = []

    def latencies_ms(self, models: Sequence[Model], precision: NumberFormat | None = None) -> list[float]:
        assert precision == "fp32", "files are timed as they are"
        nodes = [floating(model) for model in models]
        self.timed += nodes
        return [float(self.ms(each)) for each in nodes]

    @contextmanager
    def compiling(self) -> Iterator[Any]:
        yield self._compiled

    @contextmanager
    def _compiled(self, model: Model) -> Iterator[Predict]:
        assert isinstance(model, OnnxModel)
        self.compiled.append(floating(model))
        if self.refuses(self.compiled[-1]):
            raise PassFault("the candidate cannot be compiled for npu: no kernel")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
        yield lambda inputs: session.run(None, dict(inputs))


def floating(model: Model) -> set[str]:
    """The nodes with weights that read them in floating point."""
    assert isinstance(model, OnnxModel)
    graph = onnx.load(str(model.path)).graph
    weights = {weight.name for weight in graph.initializer}
    return {node.name for node in graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in weights}


@pytest.fixture(scope="package")
def breakable_module() -> TorchModel:
    return breakable()


@pytest.fixture(scope="package")
def breakable_file(breakable_module: TorchModel, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """As ``export_onnx`` writes it; not to be changed."""
    return ExportOnnx()(breakable_module, Job.local(tmp_path_factory.mktemp("float")))


@pytest.fixture(scope="session")
def make_task() -> type[Task]:
    return Task


@pytest.fixture(scope="session")
def make_probe() -> type[SessionProbe]:
    return SessionProbe


@pytest.fixture(scope="session")
def nodes_in_float() -> Callable[[Model], set[str]]:
    return floating
