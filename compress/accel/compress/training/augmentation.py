"""Random changes of a batch of images, as tensor operations on the whole batch, on whatever device it is.

Every image is changed by numbers of its own; only mixup and cutmix draw one ratio for a batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from accel.compress.train_settings import Augmentation
from accel.compress.training.task_loss import require_classes
from accel.errors import PassFault
from accel.model import Signature

_PAD = {"border": "replicate", "reflection": "reflect", "zeros": "constant"}


def image_position(signature: Signature, name: str) -> int:
    """Which input is the image: the only one of shape (batch, channels, height, width) and a float type. PassFault if none."""
    found = [i for i, spec in enumerate(signature.inputs) if len(spec.shape) == 4 and spec.dtype.startswith("float")]
    if len(found) != 1:
        shapes = ", ".join(f"{spec.name} {list(spec.shape)} {spec.dtype}" for spec in signature.inputs)
        raise PassFault(
            f"{name}: augmentation is for one input (batch, channels, height, width) of floats, and the model takes {shapes};"
            " leave train.augmentation out"
        )
    return found[0]


def augmented(
    images: Tensor, labels: Tensor | None, settings: Augmentation, classes: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """``images`` (n, c, h, w) changed by ``settings``, and the labels that fit them.

    ``labels`` (n,) become (n, classes) probabilities with mixup or cutmix, which need ``classes``. ``generator`` is on the
    images' device, and decides everything. The arguments are left as they are.
    """
    if settings.crop_padding:
        images = cropped(images, settings.crop_padding, settings.fill, generator)
    if settings.flip:
        images = flipped(images, generator)
    if settings.rotate or settings.translate or settings.scale:
        images = moved(images, settings, generator)
    if settings.cutout:
        images = cut_out(images, settings.cutout, generator)
    if settings.mixup or settings.cutmix:
        return mixed(images, labels, settings, classes, generator)
    return images, labels


def flipped(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images, by chance, mirrored left to right."""
    chosen = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def cropped(images: Tensor, padding: int, fill: str, generator: torch.Generator) -> Tensor:
    """Each image moved by -padding..padding pixels in both directions."""
    n, _, height, width = images.shape
    if fill == "reflection" and padding >= min(height, width):
        raise PassFault(f"augmentation: crop_padding {padding} with fill reflection needs images larger than that")
    padded = functional.pad(images, (padding,) * 4, mode=_PAD[fill])
    start = torch.randint(0, 2 * padding + 1, (2, n, 1), device=images.device, generator=generator)
    rows = start[0] + torch.arange(height, device=images.device)
    columns = start[1] + torch.arange(width, device=images.device)
    samples = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def moved(images: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Each image turned, scaled and shifted about its centre, bilinear."""
    n, _, height, width = images.shape

    def uniform(limit: float) -> Tensor:
        return (torch.rand(n, device=images.device, generator=generator) * 2 - 1) * limit

    angle, factor = uniform(math.radians(settings.rotate)), 1 / (1 + uniform(settings.scale))
    across, down = uniform(2 * settings.translate), uniform(2 * settings.translate)  # a side is 2 long here
    ratio = height / width
    cos, sin = angle.cos() * factor, angle.sin() * factor
    rows = torch.stack([cos, -sin * ratio, across, sin / ratio, cos, down], dim=1).reshape(n, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid.to(images.dtype), padding_mode=settings.fill, align_corners=False)


def cut_out(images: Tensor, side: float, generator: torch.Generator) -> Tensor:
    """A square of ``side`` times the image's height and width, anywhere, set to 0 in each image."""
    n, _, height, width = images.shape
    inside = _box(n, height, width, side, side, generator, images.device)
    return images.masked_fill(inside[:, None], 0.0)


def _box(n: int, height: int, width: int, tall: float, wide: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """(n, height, width) bool: one box in each image, its centre anywhere, cut off at the edges."""
    centre = torch.rand((2, n, 1), device=device, generator=generator)
    rows = (torch.arange(height, device=device) + 0.5) / height
    columns = (torch.arange(width, device=device) + 0.5) / width
    return ((rows - centre[0]).abs() * 2 < tall)[:, :, None] & ((columns - centre[1]).abs() * 2 < wide)[:, None, :]


def mixed(
    images: Tensor, labels: Tensor | None, settings: Augmentation, classes: int | None, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Each image blended with another of the batch (mixup), or a box of it replaced (cutmix); labels in the same ratio."""
    n, _, height, width = images.shape
    other = torch.randperm(n, device=images.device, generator=generator)
    number = int(torch.randint(0, 2**31, (), device=images.device, generator=generator))
    alpha = settings.mixup or settings.cutmix
    kept: Tensor | float = float(np.random.default_rng(number).beta(alpha, alpha))
    if settings.mixup:
        result = images * kept + images[other] * (1 - kept)
    else:
        side = math.sqrt(1 - kept)
        inside = _box(n, height, width, side, side, generator, images.device)
        result = torch.where(inside[:, None], images[other], images)
        kept = 1 - inside.float().mean((1, 2))[:, None]  # what is left of the box after the edges cut it off
    if labels is None:
        return result, None
    if classes is None:
        raise PassFault("augmentation: mixup and cutmix need a model whose first output is (batch, classes)")
    require_classes(labels, classes)
    soft = functional.one_hot(labels, classes).float()
    return result, soft * kept + soft[other] * (1 - kept)


def class_count(signature: Signature) -> int | None:
    """The number of classes, where the first output is (batch, classes) of a fixed size."""
    shapes: Sequence[int | str] = signature.outputs[0].shape if signature.outputs else ()
    return shapes[1] if len(shapes) == 2 and isinstance(shapes[1], int) else None
