"""The pass: on a copy, with and without training, after a kill, and through the passes that follow."""

from __future__ import annotations

import copy
import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from pydantic import TypeAdapter, ValidationError

from accel.compress.calibration import Calibration
from accel.compress.edits import edits_of, masks_of
from accel.compress.export_onnx import ExportOnnx
from accel.compress.finetune import Finetune
from accel.compress.loss_settings import LossTerm
from accel.compress.masks.sparsity import is_n_m
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.simplify import Simplify
from accel.compress.sparsify import Sparsify
from accel.compress.train_settings import Train
from accel.compress.training import checkpoint as training_checkpoint
from accel.contracts import Batch, Job, Predict, Score, Split
from accel.errors import PassFault
from accel.model import Masks, OnnxModel, TorchModel

Array = NDArray[Any]
STEPS = 12
CUBIC = {"schedule": "cubic", "sparsity": 0.8, "update_every": 2}


class Labelled:
    """Images with labels that follow from them, for training and calibration."""

    def __init__(self, images: Array) -> None:
        self.images = images
        self.labels = (np.abs(images).sum((1, 2, 3)) * 7).astype(np.int64) % 10

    def training(self) -> Iterable[Batch]:
        for start in range(0, len(self.images), 8):
            yield Batch({"image": self.images[start : start + 8]}, self.labels[start : start + 8])

    def calibration(self) -> Iterable[Batch]:
        return self.training()

    def selection(self) -> Iterable[Batch]:
        raise AssertionError("sparsify may not read this split")

    validation = selection

    def has(self, split: Split) -> bool:
        return split in ("training", "calibration")

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        raise AssertionError("sparsify may not judge")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def job(make_job: Callable[..., Job], images: Array) -> Job:
    return make_job(task=Labelled(images))


def trained(**settings: Any) -> Sparsify:
    return Sparsify(**{"train": Train(steps=STEPS, lr=0.05, amp="off", checkpoint_every_s=0), **settings})


def state(model: TorchModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.module.state_dict().items()}


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def fraction_of_zeros(model: TorchModel) -> float:
    masks = masks_of(model.module)
    return sum(int((~mask).sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())


def test_one_shot_zeroes_exactly_and_changes_nothing_else(torch_model: TorchModel, job: Job) -> None:
    before = state(torch_model)
    result = Sparsify(sparsity=0.7)(torch_model, job)
    assert same(before, state(torch_model)) and edits_of(torch_model.module) == ()
    (edit,) = result.edits
    assert isinstance(edit, Masks) and edit.pattern == "unstructured" and "stem.weight" not in edit.parameters
    for name, value in result.module.state_dict().items():
        if name in edit.parameters:
            assert int((value == 0).sum()) == round(0.7 * value.numel())
            assert torch.equal(value, before[name] * (value != 0))
        else:
            assert torch.equal(value, before[name])
    assert not any(part.training for part in result.module.modules())
    assert result.signature == torch_model.signature


def test_notes_say_what_is_masked_what_is_not_and_what_it_buys(torch_model: TorchModel, job: Job) -> None:
    notes = Sparsify(pattern="2:4", ignored_layers=("fc",))(torch_model, job).notes
    text = "\n".join(notes)
    assert "2:4: 9472 of 18944 weights (50.0%) are zero in 5 layers" in notes[0]
    assert "kept dense, named in ignored_layers: fc" in text
    assert "first convolution" in text and "stem" in text
    assert "gzip" in text and "expect no speed-up" in text
    assert "without training" in text


def test_2_4_holds_in_every_masked_layer(torch_model: TorchModel, job: Job) -> None:
    result = Sparsify(pattern="2:4")(torch_model, job)
    masks = masks_of(result.module)
    assert len(masks) == 6
    assert all(is_n_m(result.module.get_parameter(name), 2, 4) for name in masks)
    assert all(int((~mask).sum()) * 2 == mask.numel() for mask in masks.values())


def test_a_second_time_extends_the_masks(torch_model: TorchModel, job: Job) -> None:
    first = Sparsify(sparsity=0.3)(torch_model, job)
    second = Sparsify(sparsity=0.6)(first, job)
    assert second.edits == first.edits  # the same layers: the zeros themselves are the mask
    for name, mask in masks_of(second.module).items():
        earlier = masks_of(first.module)[name]
        assert int((~mask).sum()) == round(0.6 * mask.numel())
        assert not (mask & ~earlier).any()
    mixed = Sparsify(pattern="2:4")(first, job)
    assert [edit.pattern for edit in mixed.edits if isinstance(edit, Masks)] == ["unstructured", "2:4"]
    assert all(not (mask & ~masks_of(first.module)[name]).any() for name, mask in masks_of(mixed.module).items())
    assert all(is_n_m(mixed.module.get_parameter(name), 2, 4) for name in masks_of(mixed.module))


def test_what_changes_nothing_is_refused(torch_model: TorchModel, job: Job) -> None:
    first = Sparsify(sparsity=0.6)(torch_model, job)
    for sparsity in (0.6, 0.4):
        with pytest.raises(PassFault, match="nothing changes"):
            Sparsify(sparsity=sparsity)(first, job)


def test_zeros_that_are_there_already_become_a_mask(torch_model: TorchModel, job: Job) -> None:
    """A model that another tool made 2:4: its zeros are only kept once they are recorded."""
    module = copy.deepcopy(torch_model.module)
    masked = Sparsify(pattern="2:4")(torch_model, job).module
    module.load_state_dict(masked.state_dict())
    result = Sparsify(pattern="2:4")(replace(torch_model, module=module), job)
    assert same(module.state_dict(), state(result))
    assert len(result.edits) == 1


def test_nothing_is_emptied_by_global_pruning(torch_model: TorchModel, job: Job) -> None:
    module = copy.deepcopy(torch_model.module)
    with torch.no_grad():
        module.get_parameter("fc.weight").mul_(1e-9)
    with pytest.raises(PassFault, match=r"every weight of fc\.weight"):
        Sparsify(global_pruning=True)(replace(torch_model, module=module), job)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"sparsity": 0.0}, "sparsity"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"pattern": "4:2"}, "pattern"),
        ({"pattern": "2:4", "sparsity": 0.7}, None),
        ({"schedule": "cubic"}, None),
        ({"schedule": "linear"}, "schedule"),
        ({"end": 0.5}, None),
        ({"teacher": "baseline"}, None),
        ({"losses": [{"type": "logits"}]}, None),
        ({"train": {"epochs": 1}, "losses": [{"type": "logits"}]}, None),
        ({"train": {"epochs": 1, "keep": "best"}, "schedule": "cubic"}, None),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], field: str | None) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Sparsify).validate_python(settings)
    assert caught.value.errors()[0]["loc"][:1] == ((field,) if field else ())


def test_it_asks_for_what_it_needs() -> None:
    assert Sparsify().needs == frozenset()
    assert Sparsify(train=Train()).needs == {"training"}
    assert Sparsify(train=Train(keep="best")).needs == {"training", "selection"}
    learning = Sparsify(train=Train(), teacher="baseline", losses=(LossTerm("logits"),))
    assert learning.needs == {"training", "teacher"} and hash(learning) != hash(Sparsify())


@pytest.mark.parametrize(
    "settings",
    [
        {"sparsity": 0.8},
        CUBIC,
        {**CUBIC, "global_pruning": True},
        {"schedule": "cubic", "pattern": "2:4"},
        {**CUBIC, "train": Train(steps=STEPS, ema=0.9, amp="off")},
    ],
)
def test_training_ends_with_the_asked_zeros(settings: dict[str, Any], torch_model: TorchModel, job: Job) -> None:
    before = state(torch_model)
    result = trained(**settings)(torch_model, job)
    assert same(before, state(torch_model))
    weights = state(result)
    assert not torch.equal(weights["stem.weight"], before["stem.weight"])  # it did train
    masks = masks_of(result.module)
    if settings.get("global_pruning"):
        total = sum(mask.numel() for mask in masks.values())
        assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.8 * total)
    else:
        wanted = 0.5 if "pattern" in settings else 0.8
        assert all(int((~mask).sum()) == round(wanted * mask.numel()) for mask in masks.values())
    if "pattern" in settings:
        assert all(is_n_m(weights[name], 2, 4) for name in masks)


def test_a_teacher_can_teach_it(torch_model: TorchModel, job: Job) -> None:
    step = trained(**CUBIC, teacher="baseline", losses=(LossTerm("logits", weight=0.9), LossTerm("task", weight=0.1)))
    taught = step(torch_model, replace(job, teacher=torch_model))
    alone = trained(**CUBIC)(torch_model, job)
    assert fraction_of_zeros(taught) == pytest.approx(0.8, abs=1e-3)
    assert not same(state(taught), state(alone))


@pytest.mark.parametrize("settings", [CUBIC, {"pattern": "2:4", "schedule": "cubic"}])
def test_a_killed_training_resumes_to_the_same_masks(
    settings: dict[str, Any],
    torch_model: TorchModel,
    make_job: Callable[..., Job],
    images: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = trained(**settings)(torch_model, make_job(task=Labelled(images), folder="whole"))
    job = make_job(task=Labelled(images), folder="killed")
    written: list[int] = []
    resumed: list[str] = []

    def write_then_die(folder: Path, checkpoint: training_checkpoint.Checkpoint) -> None:
        real(folder, checkpoint)
        written.append(checkpoint.record["step"])
        if written[-1] == 5:  # between two updates of the masks
            raise KeyboardInterrupt

    real = training_checkpoint.write
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training_checkpoint, "write", write_then_die)
        trained(**settings)(torch_model, job)
    assert written == [1, 2, 3, 4, 5]
    job = replace(job, progress=lambda done, total, what: resumed.append(what))
    again = trained(**settings)(torch_model, job)
    assert "step 5" in resumed[0]
    assert same(state(whole), state(again)) and again.edits == whole.edits
    once_more = trained(**settings)(torch_model, job)  # killed after the training, before the step was committed
    assert same(state(whole), state(once_more)) and once_more.edits == whole.edits
    assert once_more.notes == again.notes


def test_other_settings_do_not_resume_its_checkpoint(torch_model: TorchModel, job: Job) -> None:
    half = trained(schedule="cubic", sparsity=0.5)(torch_model, job)
    most = trained(schedule="cubic", sparsity=0.9)(torch_model, job)
    assert fraction_of_zeros(half) == pytest.approx(0.5, abs=1e-3)
    assert fraction_of_zeros(most) == pytest.approx(0.9, abs=1e-3)


def initializers(model: OnnxModel) -> dict[str, Array]:
    return {each.name: numpy_helper.to_array(each) for each in onnx.load(model.path).graph.initializer}


def packed(model: OnnxModel) -> int:
    return len(gzip.compress(model.path.read_bytes(), mtime=0))


@pytest.mark.parametrize("settings", [{"sparsity": 0.8}, {"pattern": "2:4"}])
def test_the_zeros_arrive_in_the_int8_file(
    settings: dict[str, Any], torch_model: TorchModel, make_job: Callable[..., Job], images: Array, float_model: OnnxModel
) -> None:
    """sparsify, finetune, export (batch norms folded), simplify, quantize: a zero weight is an exact zero all the way."""

    def job(folder: str) -> Job:
        return make_job(task=Labelled(images), folder=folder)

    sparse = Sparsify(**settings)(torch_model, job("sparsify"))
    tuned = Finetune(train=Train(steps=6, amp="off"))(sparse, job("finetune"))
    masks = masks_of(tuned.module)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == {
        name: int((~mask).sum()) for name, mask in masks_of(sparse.module).items()
    }
    exported = ExportOnnx()(tuned, job("export"))
    simple = Simplify()(exported, job("simplify"))
    quantized = QuantizeStaticOnnxRuntime(calibration=Calibration(num_samples=16))(simple, job("quantize"))
    for model, dtype in ((exported, np.float32), (quantized, np.int8)):
        arrays = [value for value in initializers(model).values() if value.dtype == dtype]
        for name, mask in masks.items():
            zeros = ~mask.numpy()
            found = [
                value
                for value in arrays
                if sorted(value.shape) == sorted(zeros.shape)
                and any(bool((each == 0)[zeros].all()) for each in (value, value.T) if each.shape == zeros.shape)
            ]
            assert found, f"no {dtype.__name__} initializer has the zeros of {name}"
        dropped = sum(int((~mask).sum()) for mask in masks.values())
        assert sum(int((value == 0).sum()) for value in arrays if value.ndim > 1) >= dropped
    assert packed(exported) < 0.8 * packed(float_model)
