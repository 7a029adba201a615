"""Which optimization profile holds a shape, and what is said where none does."""

from __future__ import annotations

import pytest

from accel.accelerate.engines.options import Profile, Shape
from accel.accelerate.engines.tensors import choose_profile
from accel.errors import DataFault
from accel.model import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec("ids", ("batch", "length"), "int64"), TensorSpec("image", ("batch", 3, 8), "float32")),
    outputs=(TensorSpec("y", ("batch",), "float32"),),
)


def profile(least: tuple[int, int], usual: tuple[int, int], greatest: tuple[int, int]) -> Profile:
    def image(batch: int) -> Shape:
        return (batch, 3, 8)

    return {"ids": (least, usual, greatest), "image": (image(least[0]), image(usual[0]), image(greatest[0]))}


SMALL = profile((1, 1), (1, 32), (8, 64))
LARGE = profile((4, 32), (32, 128), (64, 256))


def shapes(batch: int, length: int) -> dict[str, Shape]:
    return {"ids": (batch, length), "image": (batch, 3, 8)}


@pytest.mark.parametrize(
    ("batch", "length", "chosen"), [(1, 1, 0), (8, 64, 1), (4, 40, 0), (4, 32, 0), (64, 256, 1), (4, 65, 1), (9, 33, 1)]
)
def test_the_profile_that_holds_it_and_is_nearest(batch: int, length: int, chosen: int) -> None:
    assert choose_profile((SMALL, LARGE), shapes(batch, length), SIGNATURE) == chosen


@pytest.mark.parametrize(
    ("batch", "length", "said"),
    [
        (65, 64, "input ids has 65 along batch; the engine was built for 1 to 8 or 4 to 64: "),
        (0, 64, "input ids has 0 along batch"),
        (4, 257, "input ids has 257 along length; the engine was built for 1 to 64 or 32 to 256: "),
    ],
)
def test_an_axis_outside_every_range_is_named(batch: int, length: int, said: str) -> None:
    with pytest.raises(DataFault, match=said):
        choose_profile((SMALL, LARGE), shapes(batch, length), SIGNATURE)


def test_an_axis_that_the_model_fixes_is_named_by_its_number() -> None:
    with pytest.raises(DataFault, match="input image has 4 along axis 1; the engine was built for 3: "):
        choose_profile((SMALL,), {"ids": (1, 1), "image": (1, 4, 8)}, SIGNATURE)


def test_axes_that_fit_only_apart_are_told_together() -> None:
    with pytest.raises(
        DataFault, match="no profile of the engine holds ids 64x1, image 64x3x8 together; it has ids 1x1 to 8x64"
    ):
        choose_profile((SMALL, LARGE), shapes(64, 1), SIGNATURE)
