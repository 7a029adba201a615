from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from accel.compress.train_settings import Augmentation
from accel.compress.training.augmentation import augmented, class_count, cropped, cut_out, flipped, image_position, moved
from accel.errors import DataFault, PassFault
from accel.model import Signature, TensorSpec


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 64, channels: int = 3, height: int = 12, width: int = 10) -> Tensor:
    return torch.randn(n, channels, height, width, generator=generator(1))


def test_flip_mirrors_about_half_of_the_images_and_nothing_else() -> None:
    given = images(400)
    found = flipped(given, generator())
    mirrored = [bool(torch.equal(new, old.flip(2))) for new, old in zip(found, given, strict=True)]
    left = [bool(torch.equal(new, old)) for new, old in zip(found, given, strict=True)]
    assert all(a != b for a, b in zip(mirrored, left, strict=True))
    assert 160 <= sum(mirrored) <= 240


@pytest.mark.parametrize("fill", ["border", "reflection", "zeros"])
def test_crop_shifts_each_image_by_a_number_of_its_own(fill: str) -> None:
    given = images(200, height=9)
    found = cropped(given, 2, fill, generator())
    assert found.shape == given.shape
    shifts = set()
    for new, old in zip(found, given, strict=True):
        fitting = [
            (down, across)
            for down in range(-2, 3)
            for across in range(-2, 3)
            if torch.equal(new[:, 2:-2, 2:-2], old[:, 2 + down : 7 + down, 2 + across : 8 + across])
        ]
        assert len(fitting) == 1
        shifts.add(fitting[0])
    assert len(shifts) == 25


def test_what_comes_in_at_the_edge() -> None:
    ones = torch.ones(50, 1, 6, 6)
    assert torch.equal(cropped(ones, 3, "border", generator()), ones)
    assert torch.equal(cropped(ones, 3, "reflection", generator()), ones)
    assert (cropped(ones, 3, "zeros", generator()) == 0).any()
    with pytest.raises(PassFault, match="crop_padding 6 with fill reflection"):
        cropped(ones, 6, "reflection", generator())


def test_moving_by_nothing_moves_nothing_and_by_a_turn_keeps_the_centre() -> None:
    given = images(8, height=11, width=11)
    assert torch.allclose(moved(given, Augmentation(), generator()), given, atol=1e-5)
    turned = moved(given, Augmentation(rotate=90), generator())
    assert torch.allclose(turned[:, :, 5, 5], given[:, :, 5, 5], atol=1e-4)
    assert not torch.allclose(turned, given, atol=0.1)


def test_a_turn_is_a_turn_in_pixels_whatever_the_shape() -> None:
    wide = torch.zeros(64, 1, 11, 31)
    wide[:, :, 5, 12:19] = 1  # seven pixels across, the centre in the middle
    ink = moved(wide, Augmentation(rotate=180, fill="zeros"), generator()).sum((1, 2, 3))
    assert torch.allclose(ink, torch.full((64,), 7.0), atol=1.2)  # bilinear; 2.5 if not corrected for the shape


def test_translation_and_scale_stay_within_their_bounds() -> None:
    dot = torch.zeros(300, 1, 41, 41)
    dot[:, :, 20, 20] = 1
    found = moved(dot, Augmentation(translate=0.25, fill="zeros"), generator())
    rows = (found.sum((1, 3)) * torch.arange(41.0)).sum(1) / found.sum((1, 2, 3))
    assert 7 < float((rows - 20).abs().max()) <= 10.3
    edge = torch.zeros(300, 1, 41, 41)
    edge[:, :, 10:31, 10:31] = 1  # 21 of 41 pixels
    area = moved(edge, Augmentation(scale=0.2, fill="zeros"), generator()).sum((1, 2, 3)).sqrt() / 21
    assert 0.78 < float(area.min()) < 0.85
    assert 1.15 < float(area.max()) < 1.22


def test_cutout_sets_one_square_to_zero_in_every_channel() -> None:
    ones = torch.ones(200, 3, 20, 20)
    found = cut_out(ones, 0.5, generator())
    holes = (found == 0).sum((2, 3))
    assert (holes[:, :1] == holes).all()
    assert int(holes.max()) == 100
    assert int(holes.min()) >= 25  # a centre in the corner
    assert ((found == 0) | (found == 1)).all()


def test_mixup_blends_images_and_labels_in_one_ratio() -> None:
    labels = torch.arange(64) % 4
    given = torch.nn.functional.one_hot(labels, 4).float()[:, :, None, None].expand(64, 4, 5, 5)
    found, soft = augmented(given, labels, Augmentation(mixup=1.0), 4, generator())
    assert soft is not None
    assert torch.allclose(found.mean((2, 3)), soft, atol=1e-6)
    assert torch.allclose(soft.sum(1), torch.ones(64))
    assert ((soft > 0).sum(1) == 2).any()


def test_cutmix_labels_follow_the_area_that_each_image_kept() -> None:
    labels = torch.arange(64) % 4
    given = torch.nn.functional.one_hot(labels, 4).float()[:, :, None, None].expand(64, 4, 16, 16)
    found, soft = augmented(given, labels, Augmentation(cutmix=1.0), 4, generator(2))
    assert soft is not None
    assert torch.allclose(found.mean((2, 3)), soft, atol=1e-6)
    assert len(set(soft.max(1).values.tolist())) > 3  # the edges cut boxes to sizes of their own


def test_mixing_without_labels_and_what_it_cannot_do() -> None:
    given = images()
    found, soft = augmented(given, None, Augmentation(mixup=1.0), None, generator())
    assert soft is None
    assert not torch.equal(found, given)
    with pytest.raises(PassFault, match="mixup and cutmix need a model whose first output"):
        augmented(given, torch.zeros(64, dtype=torch.int64), Augmentation(mixup=1.0), None, generator())
    with pytest.raises(DataFault, match="label 5 is no class"):
        augmented(given, torch.full((64,), 5), Augmentation(mixup=1.0), 4, generator())


EVERY = {
    "flip": Augmentation(flip=True),
    "crop": Augmentation(crop_padding=2),
    "affine": Augmentation(rotate=20, translate=0.1, scale=0.1),
    "cutout": Augmentation(cutout=0.3),
    "mixup": Augmentation(mixup=0.4),
    "cutmix": Augmentation(cutmix=1.0),
    "all": Augmentation(flip=True, crop_padding=2, rotate=20, translate=0.1, scale=0.1, cutout=0.3, cutmix=1.0),
}


@pytest.mark.parametrize("kind", EVERY)
def test_the_generator_decides_and_what_was_given_stays(kind: str) -> None:
    given, labels = images(), torch.arange(64) % 4
    kept = given.clone()

    def once(seed: int) -> tuple[Tensor, Tensor | None]:
        return augmented(given, labels, EVERY[kind], 4, generator(seed))

    state = torch.get_rng_state()
    first, again, other = once(3), once(3), once(4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    assert torch.equal(given, kept)
    assert first[0].shape == given.shape
    assert first[0].dtype == torch.float32


def test_which_input_is_the_image() -> None:
    image, flag = TensorSpec("image", ("batch", 3, 8, 8), "float32"), TensorSpec("flag", ("batch",), "int64")
    assert image_position(Signature((flag, image), ()), "distill") == 1
    wrong: list[tuple[TensorSpec, ...]] = [(flag,), (image, TensorSpec("other", ("batch", 3, 8, 8), "float32"))]
    for inputs in wrong:
        with pytest.raises(PassFault, match=r"^distill: augmentation is for one input"):
            image_position(Signature(inputs, ()), "distill")


COUNTS: list[tuple[Any, int | None]] = [(("batch", 10), 10), (("batch", "classes"), None), (("batch", 4, 4), None)]


@pytest.mark.parametrize(("shape", "count"), COUNTS)
def test_the_number_of_classes(shape: Any, count: int | None) -> None:
    make: Callable[[Any], Signature] = lambda shape: Signature((), (TensorSpec("logits", shape, "float32"),))  # noqa: E731
    assert class_count(make(shape)) == count
