"""A teacher whose inputs nothing changes is asked once for each sample; the student is then what it is otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.compress.test_finetune import Net, Patterns, job, model, same, state
from torch import Tensor

from accel.compress.finetune import Distill
from accel.compress.loss_settings import LossTerm
from accel.compress.train_settings import Augmentation, Train
from accel.compress.training import teacher_answers
from accel.contracts import Job
from accel.model import TorchModel

LOGITS, TASK = LossTerm("logits", weight=0.9, temperature=4.0), LossTerm("task", weight=0.1)
THREE = Train(epochs=3, batch_size=24, amp="off")  # of 128 samples: the last batch of five and a third begins earlier


class Counted(Net):
    """``asked``: samples of each call, of every copy."""

    asked: ClassVar[list[int]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(len(x))
        return super().forward(x)


@pytest.fixture
def teacher() -> Iterator[TorchModel]:
    torch.set_num_threads(1)
    plain = model(5, width=12)
    counted = Counted(12)
    counted.load_state_dict(plain.module.state_dict())
    Counted.asked.clear()
    yield replace(plain, module=counted.eval())
    Counted.asked.clear()


def trained(place: Job, settings: Train, *losses: LossTerm) -> TorchModel:
    result = Distill(settings, losses or (LOGITS, TASK))(model(), place)
    Counted.asked[:] = [count for count in Counted.asked if count > 4]  # those it is tried on before training are four
    return result


def test_each_sample_is_asked_for_once_and_the_student_is_the_same(
    tmp_path: Path, teacher: TorchModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = trained(job(tmp_path / "once", teacher=teacher), THREE)
    assert Counted.asked == [24] * 6
    assert any("asked once for each" in note for note in result.notes)
    Counted.asked.clear()
    monkeypatch.setattr(teacher_answers, "MOST_BYTES", 10)
    as_it_goes = trained(job(tmp_path / "always", teacher=teacher), THREE)
    assert Counted.asked == [24, *[24] * 15], "the first is the one whose size is looked at"
    assert not any("asked once" in note for note in as_it_goes.notes)
    for name, value in state(result).items():
        torch.testing.assert_close(value, state(as_it_goes)[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "losses"),
    [
        (replace(THREE, augmentation=Augmentation(flip=True)), (LOGITS,)),
        (replace(THREE, epochs=1), (LOGITS,)),
        (THREE, (LOGITS, LossTerm("feature", student_layer="conv"))),
    ],
    ids=["changed by chance", "one epoch", "layers too"],
)
def test_it_is_asked_at_every_step_where_one_answer_is_not_enough(
    settings: Train, losses: tuple[LossTerm, ...], tmp_path: Path, teacher: TorchModel
) -> None:
    result = trained(job(tmp_path, teacher=teacher), settings, *losses)
    assert Counted.asked == [24] * (5 * (settings.epochs or 0))
    assert not any("asked once" in note for note in result.notes)


class Killed(BaseException):
    pass


def test_who_was_killed_gets_the_same_answers_again(tmp_path: Path, teacher: TorchModel) -> None:
    settings = replace(THREE, checkpoint_every_s=0.0)
    whole = trained(job(tmp_path / "whole", teacher=teacher), settings)

    def kill(done: int, total: int, what: str) -> None:
        if total and done >= 8:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr("accel.compress.training.run._PROGRESS_S", 0.0)
        trained(job(tmp_path / "killed", teacher=teacher, progress=kill), settings)
    again = trained(job(tmp_path / "killed", teacher=teacher), settings)
    assert "went on after step 7" in again.notes[0]
    assert same(state(again), state(whole))


def test_samples_and_answers_belong_together(tmp_path: Path, teacher: TorchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row, the last batch included."""
    seen: list[float] = []
    learnt = teacher_answers.learnt

    def compared(*arguments: object, **named: object) -> Tensor | None:
        table = learnt(*arguments, **named)  # type: ignore[arg-type]
        assert table is not None
        with torch.no_grad():
            batch = next(iter(Patterns().training())).inputs["x"]
            seen.append(float((teacher.module(torch.from_numpy(batch)) - table[: len(batch)]).abs().max()))
            last = list(Patterns().training())[-1].inputs["x"]
            seen.append(float((teacher.module(torch.from_numpy(last)) - table[-len(last) :]).abs().max()))
        return table

    monkeypatch.setattr("accel.compress.training.run.learnt", compared)
    trained(job(tmp_path, teacher=teacher), THREE)
    assert len(seen) == 2
    assert max(seen) < 1e-5
