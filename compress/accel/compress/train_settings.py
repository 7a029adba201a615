"""How a training pass trains: settings only, so that a recipe is read without torch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from accel.contracts import Need

Count = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]
OpenFraction = Annotated[float, Field(gt=0.0, lt=1.0)]

_LR = {"sgd": 0.01, "adamw": 0.001}
_WEIGHT_DECAY = {"sgd": 5e-4, "adamw": 0.01}


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Augmentation:
    """Random changes of training images, off by default. They see the batch as the model does: normalised, (n, c, h, w).

    ``flip``: mirror half of the images left to right. ``crop_padding``: pad by this many pixels, then cut the old size out at a
    random place (He et al. 2015). ``rotate``: by up to this many degrees; ``translate``: by up to this fraction of the side;
    ``scale``: by a factor in 1 ± this. ``fill``: what comes in at the edges.
    ``cutout``: one square of this fraction of the side is set to 0, normalised images' mean colour (DeVries, Taylor 2017).
    ``mixup``, ``cutmix``: the parameter alpha of the Beta distribution (Zhang et al. 2018; Yun et al. 2019); one of the two.
    """

    flip: bool = False
    crop_padding: Annotated[int, Field(ge=0)] = 0
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    translate: Fraction = 0.0
    scale: Fraction = 0.0
    fill: Literal["border", "reflection", "zeros"] = "border"
    cutout: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0

    @model_validator(mode="after")
    def _one_mixture(self) -> Augmentation:
        if self.mixup and self.cutmix:
            raise ValueError("give one of mixup and cutmix")
        return self

    @property
    def active(self) -> bool:
        """Whether any of it changes an image."""
        return self != Augmentation(fill=self.fill)


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Train:
    """``epochs`` or ``steps`` (one epoch where neither is given); ``batch_size``: over all processes; None: the data's own.

    ``lr``: the highest learning rate; None: 0.01 for sgd, 0.001 for adamw. ``momentum``: Nesterov's, sgd only.
    ``weight_decay``: of weights, not of biases and normalisation layers; None: 0.0005 for sgd, 0.01 for adamw.
    ``warmup``: the fraction of all steps in which the rate rises linearly; then it follows ``schedule`` down to ``min_lr``.
    ``amp``: bfloat16 in the forward pass; ``auto``: where the device computes it natively. ``ema``: decay of a running average
    of the weights, which is then what is judged and kept. ``clip_norm``: of the gradient of all parameters together.
    ``keep``: the weights after the last step, or of the epoch with the best first metric on the selection data.
    ``checkpoint_every_s``: seconds between two checkpoints, from which a killed run goes on. ``device``: ``auto`` takes a GPU
    where torch finds one.
    """

    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count | None = None
    lr: Positive | None = None
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: Fraction = 0.9
    weight_decay: NotNegative | None = None
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    warmup: Fraction = 0.05
    min_lr: NotNegative = 0.0
    amp: Literal["auto", "off", "bf16"] = "auto"
    ema: OpenFraction | None = None
    clip_norm: Positive | None = None
    label_smoothing: Fraction = 0.0
    augmentation: Augmentation = Augmentation()
    keep: Literal["last", "best"] = "last"
    checkpoint_every_s: NotNegative = 60.0
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @model_validator(mode="after")
    def _require_settings_that_count(self) -> Train:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give one of epochs and steps")
        if self.min_lr > self.highest_lr:
            raise ValueError(f"min_lr {self.min_lr:g} is above lr {self.highest_lr:g}")
        if self.min_lr and self.schedule == "constant":
            raise ValueError("min_lr: a constant schedule never falls to it; leave it out, or take cosine or linear")
        if self.optimizer != "sgd" and self.momentum != 0.9:
            raise ValueError(f"momentum: {self.optimizer} does not read it; leave it out, or take optimizer: sgd")
        return self

    @property
    def highest_lr(self) -> float:
        """``lr``, or the optimizer's default."""
        return _LR[self.optimizer] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """``weight_decay``, or the optimizer's default."""
        return _WEIGHT_DECAY[self.optimizer] if self.weight_decay is None else self.weight_decay

    @property
    def needs(self) -> frozenset[Need]:
        """What a pass needs to train like this."""
        return frozenset({"training", "selection"} if self.keep == "best" else {"training"})

    def total_steps(self, per_epoch: int) -> int:
        """Optimizer steps altogether, ``per_epoch`` of them in one pass over the data."""
        return self.steps if self.steps is not None else (self.epochs or 1) * per_epoch

    def learning_rate(self, step: int, total: int) -> float:
        """The rate of step ``step`` (from 0) of ``total``."""
        rising = math.ceil(self.warmup * total)
        if step < rising:
            return self.highest_lr * (step + 1) / rising
        gone = (step - rising) / max(1, total - rising)
        if self.schedule == "constant":
            return self.highest_lr
        left = 0.5 * (1 + math.cos(math.pi * gone)) if self.schedule == "cosine" else 1 - gone
        return self.min_lr + (self.highest_lr - self.min_lr) * left
