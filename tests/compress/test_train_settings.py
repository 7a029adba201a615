from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from accel.compress.train_settings import Augmentation, Train

ADAPTER = TypeAdapter(Train)


def test_defaults_are_one_epoch_of_sgd_and_survive_json() -> None:
    settings = Train()
    assert settings.total_steps(per_epoch=7) == 7
    assert (settings.highest_lr, settings.decay) == (0.01, 5e-4)
    assert (Train(optimizer="adamw").highest_lr, Train(optimizer="adamw").decay) == (0.001, 0.01)
    assert Train(lr=0.3, weight_decay=0.0).highest_lr == 0.3
    assert Train(weight_decay=0.0).decay == 0.0
    settings = Train(steps=5, augmentation=Augmentation(flip=True), ema=0.99)
    written = ADAPTER.dump_json(settings)
    assert ADAPTER.validate_json(written) == settings
    assert json.loads(written)["augmentation"]["flip"] is True
    assert hash(settings) == hash(Train(steps=5, augmentation=Augmentation(flip=True), ema=0.99))


def test_epochs_or_steps() -> None:
    assert Train(epochs=3).total_steps(per_epoch=7) == 21
    assert Train(steps=3).total_steps(per_epoch=7) == 3
    with pytest.raises(ValidationError, match="give one of epochs and steps"):
        Train(epochs=1, steps=1)


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": 0}, {"steps": -1}, {"lr": 0}, {"lr": math.inf}, {"lr": math.nan}, {"warmup": 1.0}, {"ema": 1.0},
     {"amp": "fp16"}, {"min_lr": 0.5}, {"clip_norm": 0.0}, {"momentum": 1.0}, {"batch_size": 0}, {"keep": "first"},
     {"learning_rate": 0.1}, {"min_lr": 0.001, "schedule": "constant"}, {"optimizer": "adamw", "momentum": 0.8},
     {"augmentation": {"mixup": 0.2, "cutmix": 1.0}}, {"augmentation": {"cutout": 1.5}}, {"augmentation": {"rotate": 270}}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(wrong)


def test_the_rate_rises_and_then_follows_the_schedule() -> None:
    def rates(**settings: Any) -> list[float]:
        train = Train(lr=1.0, **settings)
        return [train.learning_rate(step, 10) for step in range(10)]

    assert rates(warmup=0.0, schedule="constant") == [1.0] * 10
    assert rates(warmup=0.3, schedule="constant") == pytest.approx([1 / 3, 2 / 3, 1, *[1.0] * 7])
    assert rates(warmup=0.0, schedule="linear") == pytest.approx([1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    cosine = rates(warmup=0.2, min_lr=0.1)
    assert cosine[:2] == pytest.approx([0.5, 1.0])
    assert cosine[2:] == pytest.approx([0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert rates(warmup=0.2, schedule="linear", min_lr=0.5)[6] == pytest.approx(0.75)


def test_a_single_step_has_the_full_rate() -> None:
    assert Train(lr=0.2, warmup=0.5).learning_rate(0, 1) == 0.2


def test_augmentation_is_off_by_default() -> None:
    assert not Augmentation().active
    assert not Augmentation(fill="zeros").active
    assert Augmentation(cutout=0.2).active


def test_selection_is_needed_only_to_choose() -> None:
    assert Train().needs == {"training"}
    assert Train(keep="best").needs == {"training", "selection"}


def test_settings_import_nothing_heavy() -> None:
    script = "import sys, accel.compress.train_settings; assert not {'torch', 'numpy', 'onnx'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
