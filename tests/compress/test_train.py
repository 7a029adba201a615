from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from accel.compress.edits import add_edit_
from accel.compress.train import fit_
from accel.compress.train_settings import Augmentation, Train
from accel.compress.training.checkpoint import path_in, read
from accel.compress.training.device import native_bf16
from accel.compress.training.task_loss import CrossEntropy
from accel.contracts import Batch, Job, Predict, Score, Split
from accel.errors import DataFault, ModelFault, PassFault, UsageError
from accel.model import Masks, Signature, TensorSpec, TorchModel

Array = NDArray[Any]
CLASSES = 4


class Blobs:
    """Four patterns of 1x8x8 under noise: learnt in a few steps. ``scores``: told instead of the truth, in turn."""

    def __init__(
        self, count: int = 128, *, labelled: bool = True, scores: Sequence[float] = (), selection: bool = True
    ) -> None:
        generator = np.random.default_rng(0)
        patterns = generator.standard_normal((CLASSES, 1, 8, 8))
        labels = np.arange(count + 64) % CLASSES
        images = (patterns[labels] + generator.standard_normal((count + 64, 1, 8, 8))).astype(np.float32)
        self.parts = {"training": (images[:count], labels[:count]), "selection": (images[count:], labels[count:])}
        self.labelled = labelled
        self.scores = list(scores)
        self.splits = ("training", "selection") if selection else ("training",)

    def batches(self, split: str) -> Iterator[Batch]:
        images, labels = self.parts[split]
        for start in range(0, len(images), 16):
            yield Batch({"image": images[start : start + 16]}, labels[start : start + 16] if self.labelled else None)

    def training(self) -> Iterable[Batch]:
        return self.batches("training")

    def selection(self) -> Iterable[Batch]:
        return self.batches("selection")

    def calibration(self) -> Iterable[Batch]:
        raise AssertionError("training reads no calibration data")

    def validation(self) -> Iterable[Batch]:
        raise AssertionError("training must not read what judges it")

    def has(self, split: Split) -> bool:
        return split in self.splits

    def digest(self, split: Split) -> str:
        return f"{split} {len(self.parts['training'][0])} {self.labelled}"

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        right = [predict(batch.inputs)[0].argmax(1) == batch.labels for batch in self.batches(split)]
        value = float(np.concatenate(right).mean())
        return {"top1": Score(self.scores.pop(0) if self.scores else value)}


class Net(nn.Module):
    """``dropout`` draws random numbers, batch norm keeps statistics; ``flat`` is by ``view``, which refuses channels last."""

    def __init__(self, *, by_view: bool = False, batch_norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6) if batch_norm else nn.Identity()
        self.dropout = nn.Dropout(0.1)
        self.fc = nn.Linear(6 * 64, CLASSES)
        self.by_view = by_view

    def forward(self, x: Tensor) -> Tensor:
        x = self.dropout(torch.relu(self.bn(self.conv(x))))
        out: Tensor = self.fc(x.view(len(x), -1) if self.by_view else x.flatten(1))
        return out


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def numpy_state() -> str:
    return repr(np.random.get_state())


def model_of(module: nn.Module | None = None, batch: int | str = "batch") -> TorchModel:
    if module is None:
        torch.manual_seed(0)
        module = Net()
    image, logits = TensorSpec("image", (batch, 1, 8, 8), "float32"), TensorSpec("logits", (batch, CLASSES), "float32")
    return TorchModel(module=module.eval(), signature=Signature((image,), (logits,)))


def job_in(folder: Path, task: Any = None, **settings: Any) -> Job:
    folder.mkdir(exist_ok=True)
    return Job.local(folder, Blobs() if task is None else task, **settings)


TWO = Train(epochs=2)


def train(model: TorchModel, job: Job, loss: Any = None, settings: Train = TWO, **more: Any) -> list[str]:
    return fit_(model, job, settings, loss or CrossEntropy(settings.label_smoothing), name="finetune", **more)


def weights(model: TorchModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def accuracy(model: TorchModel, split: Split = "selection") -> float:
    return Blobs().score(lambda inputs: [model.module(torch.from_numpy(inputs["image"])).detach().numpy()], split)["top1"].value


# -- what it does ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_it_learns(tmp_path: Path, optimizer: Any, amp: Any) -> None:
    model = model_of()
    before = accuracy(model)
    (note,) = train(model, job_in(tmp_path), settings=Train(epochs=4, optimizer=optimizer, amp=amp))
    assert before < 0.5
    assert accuracy(model) > 0.85
    assert f"32 steps of 16 samples (4 epochs) in {'bfloat16' if amp == 'bf16' else 'FP32'} on cpu" in note
    assert f"top1 on the selection data {accuracy(model):.4g}" in note
    assert not any(part.training for part in model.module.modules())
    assert all(value.is_contiguous() and value.grad is None for value in model.module.parameters())


def test_the_seed_decides_everything_and_the_callers_random_numbers_are_untouched(tmp_path: Path) -> None:
    settings = Train(epochs=2, augmentation=Augmentation(flip=True, crop_padding=1, mixup=0.2), ema=0.9)
    results = []
    for number, seed in enumerate([3, 3, 4]):
        torch.manual_seed(11 + number)
        np.random.seed(11 + number)
        model = model_of(Net())
        torch.manual_seed(5)
        for value in model.module.parameters():
            torch.nn.init.normal_(value, 0, 0.1)
        wanted = torch.get_rng_state(), numpy_state()
        train(model, job_in(tmp_path / str(number), seed=seed), settings=settings)
        assert torch.equal(torch.get_rng_state(), wanted[0])
        assert numpy_state() == wanted[1]
        results.append(weights(model))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_progress_tells_epoch_loss_and_metric(tmp_path: Path) -> None:
    said: list[tuple[int, int, str]] = []
    train(model_of(), job_in(tmp_path, progress=lambda *what: said.append(what)))
    steps = [what for what in said if what[1]]
    assert steps[-1][:2] == (16, 16)
    assert steps[-1][2].startswith("epoch 2/2: loss ")
    assert ", top1 " in steps[-1][2]
    assert [done for done, _, _ in steps] == sorted(done for done, _, _ in steps)


def test_only_steps_that_fill_a_batch_are_made_unless_there_is_no_other(tmp_path: Path) -> None:
    sizes: list[int] = []

    def loss(inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        sizes.append(len(inputs[0]))
        return CrossEntropy()(inputs, outputs, labels)

    train(model_of(), job_in(tmp_path / "a", Blobs(40)), loss, Train(epochs=2))
    assert sizes == [16] * 4
    sizes.clear()
    notes = train(model_of(), job_in(tmp_path / "b", Blobs(40)), loss, Train(epochs=2, batch_size=64))
    assert sizes == [40, 40]
    assert notes[1] == "finetune: train.batch_size is 64, but there are 40 samples only"
    sizes.clear()
    train(model_of(), job_in(tmp_path / "c", Blobs(40)), loss, Train(steps=3, batch_size=12))
    assert sizes == [12] * 3


def test_every_sample_is_seen_once_an_epoch_in_another_order_each_time(tmp_path: Path) -> None:
    seen: list[list[float]] = []

    def loss(inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        seen.append(inputs[0][:, 0, 0, 0].tolist())
        return CrossEntropy()(inputs, outputs, labels)

    task = Blobs()
    train(model_of(), job_in(tmp_path, task), loss)
    first, second = ([value for batch in part for value in batch] for part in (seen[:8], seen[8:]))
    wanted = sorted(task.parts["training"][0][:, 0, 0, 0].tolist())
    assert sorted(first) == sorted(second) == wanted
    assert first != second


def test_the_average_of_the_weights_is_kept(tmp_path: Path) -> None:
    class Watch:
        def __init__(self, module: nn.Module) -> None:
            self.module = module
            self.average = module.get_parameter("fc.weight").detach().clone()

        def before_step(self, step: int, total: int) -> None:
            pass

        def after_step(self, step: int, total: int) -> None:
            decay = min(0.5, (1 + step) / (10 + step))
            self.average.lerp_(self.module.get_parameter("fc.weight").detach(), 1 - decay)

        def state(self) -> Mapping[str, Tensor]:
            return {"average": self.average}

        def restore(self, state: Mapping[str, Tensor]) -> None:
            self.average = state["average"]

    model = model_of()
    watch = Watch(model.module)
    train(model, job_in(tmp_path), settings=Train(epochs=1, ema=0.5), companions=[watch])
    assert torch.allclose(model.module.get_parameter("fc.weight"), watch.average, atol=1e-6)
    assert model.module.get_buffer("bn.num_batches_tracked") == 8


def test_masks_stay_zero_also_under_momentum_and_in_the_average(tmp_path: Path) -> None:
    model = model_of()
    with torch.no_grad():
        model.module.get_parameter("fc.weight")[:, ::2] = 0
    add_edit_(model.module, Masks("unstructured", ("fc.weight",)))
    before = weights(model)
    train(model, job_in(tmp_path), settings=Train(epochs=2, ema=0.9))
    found = model.module.get_parameter("fc.weight")
    assert not found[:, ::2].any()
    assert (found[:, 1::2] != before["fc.weight"][:, 1::2]).all()


def test_what_is_frozen_stays_and_a_frozen_batch_norm_keeps_its_statistics(tmp_path: Path) -> None:
    model = model_of()
    for name in ("conv.weight", "bn.weight", "bn.bias"):
        model.module.get_parameter(name).requires_grad_(False)
    before = weights(model)
    train(model, job_in(tmp_path))
    after = weights(model)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {"conv.bias", "fc.weight", "fc.bias"}


def test_a_loss_with_parameters_of_its_own_is_trained_along(tmp_path: Path) -> None:
    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(CLASSES))
            self.teacher = nn.Linear(2, 2).requires_grad_(False)

        def forward(self, inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
            return CrossEntropy()(inputs, outputs * self.scale, labels)

    loss = Adapter()
    teacher = loss.teacher.weight.clone()
    train(model_of(), job_in(tmp_path), loss)
    assert (loss.scale != 1).all()
    assert torch.equal(loss.teacher.weight, teacher)


@pytest.mark.parametrize("higher", [True, False])
def test_the_best_epoch_is_kept(tmp_path: Path, higher: bool) -> None:
    class Told(Blobs):
        def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
            value = super().score(predict, split)["top1"].value
            states.append(weights(model))
            return {"loss": Score(value, higher_is_better=higher), "other": Score(1.0)}

    states: list[dict[str, Tensor]] = []
    model = model_of()
    scores = [0.5, 0.9, 0.7] if higher else [0.5, 0.1, 0.7]
    notes = train(model, job_in(tmp_path, Told(scores=scores)), settings=Train(epochs=3, keep="best"))
    assert same(weights(model), states[1])
    assert not same(weights(model), states[2])
    assert f"kept epoch 2 with {scores[1]}" in notes[0]


def test_a_module_that_overrides_train_and_eval_is_asked_by_them(tmp_path: Path) -> None:
    class Exported(nn.Module):
        """As a graph prepared for quantization-aware training: the mode of its parts is not for others to change."""

        def __init__(self) -> None:
            super().__init__()
            self.graph = Net()
            self.modes: list[bool] = []

        def train(self, mode: bool = True) -> Exported:
            self.modes.append(mode)
            self.training = mode
            return self

        def eval(self) -> Exported:
            return self.train(False)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.graph(x)
            return out

    module = Exported()
    train(model_of(module), job_in(tmp_path), settings=Train(epochs=1))
    assert module.modes[0] is False
    assert module.modes[1] is True
    assert module.modes[-1] is False


def test_a_module_that_views_instead_of_flattening_trains(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = model_of(Net(by_view=True))
    train(model, job_in(tmp_path), settings=Train(epochs=4))
    assert accuracy(model) > 0.85


def test_fp32_where_the_pass_needs_it(tmp_path: Path) -> None:
    (note,) = train(model_of(), job_in(tmp_path), amp_allowed=False)
    assert "in FP32 on cpu" in note
    with pytest.raises(UsageError, match=r"train\.amp to auto or off"):
        train(model_of(), job_in(tmp_path), settings=Train(amp="bf16"), amp_allowed=False)


def test_the_loss_sees_float32_and_labels_in_proportion(tmp_path: Path) -> None:
    seen: list[tuple[Any, Any, Any]] = []

    def loss(inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        assert labels is not None
        seen.append((outputs.dtype, labels.shape, labels.sum(1)))
        return CrossEntropy(0.1)(inputs, outputs, labels)

    train(model_of(), job_in(tmp_path), loss, Train(steps=2, amp="bf16", augmentation=Augmentation(cutmix=1.0)))
    for dtype, shape, total in seen:
        assert dtype == torch.float32
        assert shape == (16, CLASSES)
        assert torch.allclose(total, torch.ones(16))


# -- killed and started again ---------------------------------------------------------------------------------------------


class Cut(Exception):
    pass


class Counting:
    """A companion with a state that shapes the training."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.total = torch.zeros(())

    def before_step(self, step: int, total: int) -> None:
        with torch.no_grad():
            self.module.get_parameter("fc.bias").add_(self.total / 1000)

    def after_step(self, step: int, total: int) -> None:
        self.total = self.total + step

    def state(self) -> Mapping[str, Tensor]:
        return {"total": self.total}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.total = state["total"]


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(CLASSES))
        self.calls = 0
        self.stop_at: int | None = None

    def forward(self, inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        if self.calls == self.stop_at:
            raise Cut
        self.calls += 1
        return CrossEntropy()(inputs, outputs * self.scale, labels)


RESUMED = {
    "sgd": Train(epochs=3, ema=0.9, keep="best", augmentation=Augmentation(flip=True, rotate=10), checkpoint_every_s=0),
    "adamw": Train(epochs=3, optimizer="adamw", lr=0.01, clip_norm=1.0, checkpoint_every_s=0),
}


@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_that_was_cut_off_ends_with_the_same_weights(tmp_path: Path, kind: str) -> None:
    settings = RESUMED[kind]

    def attempt(folder: Path, stop_at: int | None) -> tuple[dict[str, Tensor], list[str], Scaled]:
        model, loss = model_of(), Scaled()
        loss.stop_at = stop_at
        notes = train(model, job_in(folder), loss, settings, companions=[Counting(model.module)])
        return weights(model), notes, loss

    whole, notes, _ = attempt(tmp_path / "whole", None)
    for stop_at in (13, 5):  # in the second epoch, then in the third
        with pytest.raises(ModelFault, match="Cut"):
            attempt(tmp_path / "cut", stop_at)
    resumed, again, loss = attempt(tmp_path / "cut", None)
    assert loss.calls == 24 - 18
    assert same(whole, resumed)
    assert again[0].startswith("finetune: an earlier run was stopped; went on after step ")
    assert notes == again[1:]


def test_a_training_that_was_finished_is_not_done_again(tmp_path: Path) -> None:
    results = []
    for calls in (16, 0):
        model, loss = model_of(), Scaled()
        companion = Counting(model.module)
        notes = train(model, job_in(tmp_path), loss, companions=[companion])
        assert loss.calls == calls
        assert companion.total == 120
        assert not model.module.training
        results.append((weights(model), notes))
    assert same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]


def test_other_settings_weights_data_or_losses_start_afresh(tmp_path: Path) -> None:
    def calls(**changed: Any) -> int:
        torch.manual_seed(changed.pop("weights", 0))
        job = job_in(tmp_path, changed.pop("task", None), seed=changed.pop("seed", 0))
        loss = Scaled()
        model = model_of(Net())
        for name in changed.pop("frozen", ()):
            model.module.get_parameter(name).requires_grad_(False)
        if changed.pop("masked", False):
            add_edit_(model.module, Masks("unstructured", ("fc.weight",)))
        train(model, job, loss, changed.pop("settings", Train()), **changed)
        return loss.calls

    assert calls() == 8
    assert calls() == 0
    assert calls(settings=Train(checkpoint_every_s=5.0)) == 0
    assert calls(settings=Train(lr=0.02)) == 8
    assert calls(weights=1) == 8
    assert calls(seed=1) == 8
    assert calls(task=Blobs(64)) == 4
    assert calls(identity={"temperature": 4.0}) == 8
    assert calls(frozen=["conv.weight"]) == 8
    assert calls(masked=True) == 8
    assert calls(amp_allowed=False) == (8 if native_bf16(torch.device("cpu")) else 0)


def test_a_damaged_checkpoint_is_told_and_the_result_is_the_same(tmp_path: Path) -> None:
    first = model_of()
    train(first, job_in(tmp_path))
    (folder,) = tmp_path.glob("scratch/training_finetune_*")
    content = bytearray(path_in(folder).read_bytes())
    content[-5] ^= 1
    path_in(folder).write_bytes(content)
    second = model_of()
    notes = train(second, job_in(tmp_path))
    assert notes[0].startswith("warning: checkpoint.safetensors is damaged")
    assert same(weights(first), weights(second))


# -- what goes wrong ------------------------------------------------------------------------------------------------------


def test_a_nan_stops_at_its_step_and_the_last_good_state_stays(tmp_path: Path) -> None:
    calls: list[int] = []

    def loss(inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        calls.append(1)
        value = CrossEntropy()(inputs, outputs, labels)
        return value * float("nan") if len(calls) == 11 else value

    settings = Train(epochs=2, checkpoint_every_s=0, amp="bf16")
    with pytest.raises(
        PassFault, match=r"finetune: step 11 of 16 \(epoch 2\): the loss is nan; try a lower train.lr, "
    ) as caught:
        train(model_of(), job_in(tmp_path), loss, settings)
    assert "try a lower train.lr, train.clip_norm: 1.0, train.amp: off; the last good state is in " in str(caught.value)
    (folder,) = tmp_path.glob("scratch/training_finetune_*")
    left = read(folder)
    assert left is not None
    assert left.record["step"] == 10
    assert not list(tmp_path.glob("scratch/training_data_*")), "each rate that is tried would leave a copy of the data"
    assert all(bool(value.isfinite().all()) for value in left.tensors["module"].values())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_an_infinite_gradient_is_caught_though_the_loss_is_finite(tmp_path: Path, clip: float | None) -> None:
    def loss(inputs: Sequence[Tensor], outputs: Any, labels: Tensor | None) -> Tensor:
        zero: Tensor = outputs.sum() * 0
        return zero.sqrt()  # the derivative of a root at 0

    fact = "the gradient's norm is nan" if clip else "holds NaN"
    with pytest.raises(PassFault, match=fact):
        train(model_of(), job_in(tmp_path), loss, Train(steps=1, clip_norm=clip))


def test_a_rate_far_too_high_ends_in_a_fault(tmp_path: Path) -> None:
    with pytest.raises(PassFault, match=r"try a lower train\.lr"):
        train(model_of(Net(batch_norm=False)), job_in(tmp_path), settings=Train(epochs=3, lr=1e12, warmup=0.0))


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (Blobs(labelled=False), Train(), "the data has no labels"),
        (Blobs(0), Train(), "the split is empty"),
        (Blobs(selection=False), Train(keep="best"), "no selection data to choose by"),
    ],
)
def test_data_that_does_not_serve_is_named(tmp_path: Path, task: Blobs, settings: Train, message: str) -> None:
    with pytest.raises(DataFault, match=message):
        train(model_of(), job_in(tmp_path, task), settings=settings)


def test_without_training_data(tmp_path: Path) -> None:
    with pytest.raises(DataFault, match=r"set data\.training"):
        fit_(model_of(), Job.local(tmp_path), Train(), CrossEntropy(), name="finetune")


@pytest.mark.parametrize("augmentation", [Augmentation(), Augmentation(mixup=0.5)])
def test_a_label_that_is_no_class(tmp_path: Path, augmentation: Augmentation) -> None:
    task = Blobs()
    task.parts["training"][1][7] = 9
    with pytest.raises(DataFault, match="label 9 is no class of the model, which has 4"):
        train(model_of(), job_in(tmp_path, task), settings=Train(augmentation=augmentation))


def test_a_module_that_fails_in_training_mode_is_named(tmp_path: Path) -> None:
    class Broken(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise KeyError("aux")
            return super().forward(x)

    with pytest.raises(ModelFault, match="step 1: module or loss fail in training mode: KeyError: 'aux'"):
        train(model_of(Broken()), job_in(tmp_path))


def test_one_sample_and_batch_norm(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, CLASSES))
    with pytest.raises(ModelFault, match="more than 1 value per channel"):
        train(model_of(net), job_in(tmp_path, Blobs(1)))


LOSSES: dict[str, tuple[Callable[..., Tensor], str]] = {
    "many numbers": (lambda inputs, outputs, labels: outputs.sum(1), "must be one number"),
    "no gradient": (lambda inputs, outputs, labels: inputs[0].sum(), "does not depend on any parameter"),
}


@pytest.mark.parametrize("kind", LOSSES)
def test_losses_that_are_none(tmp_path: Path, kind: str) -> None:
    loss, message = LOSSES[kind]
    with pytest.raises((ModelFault, PassFault), match=message):
        train(model_of(), job_in(tmp_path), loss)


def test_nothing_to_train(tmp_path: Path) -> None:
    model = model_of()
    model.module.requires_grad_(False)
    with pytest.raises(PassFault, match="nothing to train"):
        train(model, job_in(tmp_path))


def test_a_model_of_a_fixed_batch(tmp_path: Path) -> None:
    (note,) = train(model_of(batch=8), job_in(tmp_path), settings=Train(epochs=1))
    assert "16 steps of 8 samples" in note
    with pytest.raises(UsageError, match=r"takes exactly 8 samples; set train.batch_size to 8"):
        train(model_of(batch=8), job_in(tmp_path), settings=Train(batch_size=16))
    with pytest.raises(DataFault, match="4 samples do not fill one batch of the model's fixed size 8"):
        train(model_of(batch=8), job_in(tmp_path, Blobs(4)))


def test_augmentation_of_what_is_no_image(tmp_path: Path) -> None:
    spec = TensorSpec("tokens", ("batch", 12), "int64"), TensorSpec("logits", ("batch", CLASSES), "float32")
    model = TorchModel(
        module=nn.Sequential(nn.Embedding(9, CLASSES), nn.Flatten()).eval(), signature=Signature(spec[:1], spec[1:])
    )

    class Texts(Blobs):
        def batches(self, split: str) -> Iterator[Batch]:
            yield Batch({"tokens": np.zeros((16, 12), np.int64)}, np.zeros(16, np.int64))

    with pytest.raises(PassFault, match=r"the model takes tokens \['batch', 12\] int64; leave train.augmentation out"):
        train(model, job_in(tmp_path, Texts()), settings=Train(augmentation=Augmentation(flip=True)))


class OnlyFloat32(Net):
    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.dtype != torch.float32:
            raise RuntimeError('"special" not implemented for BFloat16')
        out: Tensor = self.fc(torch.relu(x).flatten(1))
        return out


@pytest.mark.skipif(not native_bf16(torch.device("cpu")), reason="this CPU has no bfloat16, so auto means FP32 anyway")
def test_a_module_that_cannot_compute_in_bfloat16(tmp_path: Path) -> None:
    notes = train(model_of(OnlyFloat32()), job_in(tmp_path / "auto"), settings=Train(steps=2))
    assert "in FP32 on cpu" in notes[0]
    assert notes[1] == "finetune: the module does not run in bfloat16, so it was trained in FP32"
    with pytest.raises(ModelFault, match="not implemented for BFloat16"):
        train(model_of(OnlyFloat32()), job_in(tmp_path / "bf16"), settings=Train(steps=2, amp="bf16"))


def test_a_gpu_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"train\.device is cuda, but torch finds no usable GPU"):
        train(model_of(), job_in(tmp_path), settings=Train(device="cuda"))
