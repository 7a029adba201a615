"""The pass ``quantize`` with approach ``qat``, and the same from training code."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from accel.compress.export_onnx import ExportOnnx
from accel.compress.loss_settings import LossTerm
from accel.compress.qat.module import QuantizeAwareModule
from accel.compress.qat.training import FreezeSchedule
from accel.compress.quantize_aware import (
    PROFILES,
    IgnoredModules,
    QuantizeAwareTraining,
    RangeCalibration,
    convert_qat,
    prepare_qat,
)
from accel.compress.train_settings import Train
from accel.contracts import Batch, Job, Predict, Score, Split
from accel.errors import DataFault, MissingBackend, PassFault, UsageError
from accel.model import QuantizeAware, Signature, TensorSpec, TorchModel

Array = NDArray[Any]
MakeJob = Callable[..., Job]
SIGNATURE = Signature((TensorSpec("image", ("batch", 2, 8, 8), "float32"),), (TensorSpec("logits", ("batch", 4), "float32"),))
SHORT = Train(steps=4, lr=0.01)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def drawn(count: int, seed: int) -> tuple[Array, Array]:
    """Four classes: which quarter of the image is brighter."""
    noise = np.random.default_rng(seed)
    labels = noise.integers(0, 4, count)
    images = noise.standard_normal((count, 2, 8, 8)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[:, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 0.9
    return images, labels


class Quarters:
    """All splits but validation."""

    def __init__(self, splits: tuple[str, ...] = ("training", "calibration", "selection")) -> None:
        self.splits = splits
        self.images, self.labels = drawn(256, 1)

    def training(self) -> Iterable[Batch]:
        for start in range(0, 256, 32):
            yield Batch({"image": self.images[start : start + 32]}, self.labels[start : start + 32])

    calibration = selection = training

    def validation(self) -> Iterable[Batch]:
        raise AssertionError("no pass may read it")

    def has(self, split: Split) -> bool:
        return split in self.splits

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        assert split == "selection", "nothing else may be judged"
        right = predict({"image": self.images})[0].argmax(1) == self.labels
        return {"top1": Score(float(right.mean()), right.astype(np.float64))}


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.down = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(128, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        out: Tensor = self.head(torch.relu(self.down(x)).flatten(1))
        return out


def fitted() -> nn.Module:
    """Trained to 99 % in floating point."""
    net = Wide().train()
    images, labels = map(torch.from_numpy, drawn(256, 1))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(40):
        loss: Tensor = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return net.eval()


def hurt(net: nn.Module) -> nn.Module:
    """The same function, but one channel is 3000 times as large: one scale for all channels rounds the others to zero."""
    net = copy.deepcopy(net)
    assert isinstance(net, Wide)
    with torch.no_grad():
        for parameter in (net.norm.weight, net.norm.bias):
            parameter[0] *= 3000
        net.down.weight[:, 0] /= 3000
    return net


def accuracy(module: nn.Module) -> float:
    images, labels = map(torch.from_numpy, drawn(400, 2))
    with torch.no_grad():
        return float((module(images).argmax(1) == labels).float().mean())


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return fitted()


@pytest.fixture
def model(net: nn.Module) -> TorchModel:
    return TorchModel(module=net, signature=SIGNATURE)


def test_training_wins_back_what_post_training_ranges_lose(net: nn.Module, make_job: MakeJob) -> None:
    model = TorchModel(module=hurt(net), signature=SIGNATURE)
    images, _ = drawn(256, 1)
    ranges_only = prepare_qat(model.module, torch.from_numpy(images))
    before, untouched = accuracy(ranges_only), accuracy(model.module)
    job = make_job(task=Quarters())
    state = {name: value.clone() for name, value in model.module.state_dict().items()}
    step = QuantizeAwareTraining(train=Train(epochs=6, lr=0.02, clip_norm=1.0))
    trained = step(model, job)
    after = accuracy(trained.module)
    assert untouched > 0.95 and before < 0.5
    assert after > 0.75
    assert all(torch.equal(value, state[name]) for name, value in model.module.state_dict().items())
    assert "fake-quantized: 3 layers" in trained.notes
    (edit,) = trained.edits
    assert isinstance(edit, QuantizeAware) and edit.profile["activation"] == "uint8"
    module = trained.module
    assert isinstance(module, QuantizeAwareModule) and not module.training
    assert module.batch_norm_frozen and module.observers_frozen
    file = ExportOnnx()(trained, make_job(folder="exported", task=Quarters()))
    assert job.execute is not None
    images, labels = drawn(400, 2)
    found = job.execute(file.path, {"image": images})[0].argmax(1)
    assert abs(float((found == labels).mean()) - after) < 0.01


def test_it_learns_from_a_teacher(model: TorchModel, make_job: MakeJob) -> None:
    step = QuantizeAwareTraining(train=SHORT, losses=(LossTerm("logits"),), teacher="baseline")
    assert step.needs == {"training", "calibration", "profile", "teacher"}
    trained = step(model, make_job(task=Quarters(), teacher=model))
    assert accuracy(trained.module) > 0.9


def test_batch_norms_and_observers_freeze_at_their_fraction(model: TorchModel, make_job: MakeJob) -> None:
    never = QuantizeAwareTraining(train=SHORT, freeze_batch_norm=1.0, freeze_observers=1.0)
    at_once = replace(never, freeze_batch_norm=0.0, freeze_observers=0.0)
    found = {}
    for name, step in (("never", never), ("at once", at_once)):
        module = step(model, make_job(task=Quarters(), folder=name.replace(" ", "_"))).module
        assert isinstance(module, QuantizeAwareModule)
        found[name] = module
        assert bool(module.batch_norm_frozen) is bool(module.observers_frozen) is (name == "at once")
    mean = model.module.state_dict()["norm.running_mean"]
    assert torch.equal(found["at once"].state_dict()["graph.norm.running_mean"], mean)
    assert not torch.equal(found["never"].state_dict()["graph.norm.running_mean"], mean)


def test_the_same_seed_gives_the_same_weights(model: TorchModel, make_job: MakeJob) -> None:
    step = QuantizeAwareTraining(train=SHORT)
    first, again = (step(model, make_job(task=Quarters(), folder=name)).module.state_dict() for name in ("a", "b"))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_a_stopped_training_goes_on_to_the_same_weights(
    model: TorchModel, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the observers froze, and before: both states and the ranges come back with the checkpoint."""
    step = QuantizeAwareTraining(train=Train(epochs=4, lr=0.01, checkpoint_every_s=0), freeze_observers=0.5)
    whole = step(model, make_job(task=Quarters(), folder="whole")).module.state_dict()

    before_step = FreezeSchedule.before_step
    begun: list[int] = []
    for at in (10, 22, -1):
        seen: list[int] = []

        def stopping(schedule: FreezeSchedule, step: int, total: int, at: int = at, seen: list[int] = seen) -> None:
            if step == at:
                raise KeyboardInterrupt
            seen.append(step)
            before_step(schedule, step, total)

        monkeypatch.setattr(FreezeSchedule, "before_step", stopping)
        with pytest.raises(KeyboardInterrupt) if at > 0 else nullcontext():
            resumed = step(model, make_job(task=Quarters(), folder="stopped"))
        begun.append(seen[0])
    assert begun == [0, 10, 22]
    assert all(torch.equal(value, whole[name]) for name, value in resumed.module.state_dict().items())


def test_ignored_modules_by_name_and_pattern(model: TorchModel, make_job: MakeJob) -> None:
    step = QuantizeAwareTraining(train=SHORT, ignored_scope=IgnoredModules(names=("head",), patterns=("d.*n",)))
    trained = step(model, make_job(task=Quarters()))
    assert "fake-quantized: 1 layers" in trained.notes
    assert {note.partition(" ")[0] for note in trained.notes if "ignored_scope" in note} == {"head", "down"}
    with pytest.raises(PassFault, match=r"ignored_scope: 'haed' matches no module .*did you mean 'head'"):
        replace(step, ignored_scope=IgnoredModules(names=("haed",)))(model, make_job(task=Quarters()))


def test_calibration_reads_as_many_samples_as_it_is_told(model: TorchModel, make_job: MakeJob) -> None:
    task = Quarters()
    step = QuantizeAwareTraining(train=SHORT, calibration=RangeCalibration(num_samples=10))
    assert not [note for note in step(model, make_job(task=task)).notes if note.startswith("calibration")]
    with pytest.raises(DataFault, match="first ranges come from calibration data, and there is none"):
        step(model, make_job(task=Quarters(("training",))))
    with pytest.raises(PassFault, match="the job has no profile"):
        step(model, make_job(task=task, profile=None))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": [{"type": "feature", "student_layer": "conv"}], "teacher": "baseline"}, "has operators, no layers"),
        ({"losses": [{"type": "logits"}]}, "learn from a teacher, and there is none"),
        ({"train": {"amp": "bf16"}}, "computes in float32"),
        ({"freeze_observers": 1.5}, "less than or equal to 1"),
        ({"ignored_scope": {"patterns": ["("]}}, "not a regular expression"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QuantizeAwareTraining(**settings)


def test_without_torchao_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, net: nn.Module) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchao"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "accel.compress.qat.pt2e", raising=False)
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingBackend, match=r"pip install 'accel-toolkit\[qat\]'"):
        prepare_qat(net, torch.zeros(2, 2, 8, 8))


def test_in_anybodys_own_loop(tmp_path: Path) -> None:
    net = Wide().eval()
    images, labels = map(torch.from_numpy, drawn(128, 3))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    prepared = prepare_qat(net, images, "tensorrt", ignored=["head"]).train()
    optimizer = torch.optim.SGD(prepared.parameters(), 0.05)
    first = last = 0.0
    for step in range(6):
        loss: Tensor = nn.functional.cross_entropy(prepared(images), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        first, last = first or loss.item(), loss.item()
        if step == 3:
            assert isinstance(prepared, QuantizeAwareModule)
            prepared.freeze_batch_norm_()
    assert last < first
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    converted = convert_qat(prepared)
    with torch.no_grad():
        assert torch.allclose(converted(images), prepared.eval()(images), atol=0.05)
    assert any(value.dtype is torch.int8 for value in converted.state_dict().values())
    again = ExportOnnx()(TorchModel(module=converted, signature=SIGNATURE), Job.local(tmp_path))
    assert again.path.exists(), "compared with what the module computes"


def test_what_is_no_example_profile_or_prepared_module_is_refused(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="there is no profile 'gpu'; there are cpu, tensorrt"):
        prepare_qat(net, torch.zeros(2, 2, 8, 8), "gpu")
    with pytest.raises(UsageError, match="at least one sample"):
        prepare_qat(net, torch.zeros(0, 2, 8, 8))
    with pytest.raises(UsageError, match="a module of prepare_qat expected, found Wide"):
        convert_qat(net)


def test_the_profile_for_training_code_is_the_backends_own() -> None:
    from accel.accelerate.onnxruntime_session import OnnxRuntime
    from accel.accelerate.openvino_model import OpenVino

    assert PROFILES["cpu"] == OnnxRuntime.quantization == OpenVino.quantization
