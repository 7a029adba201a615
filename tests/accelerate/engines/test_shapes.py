"""For which shapes an engine is built, and every way the sizes can be missing or wrong: input, axis and way out are named."""

from __future__ import annotations

from typing import Any

import pytest

from accel.accelerate.engines.options import Shape
from accel.accelerate.engines.shapes import add_profiles, profiles_for
from accel.errors import BackendFault, UsageError
from accel.model import Signature, Target, TensorSpec

IMAGE = TensorSpec("image", ("batch", 3, "height", 32), "float32")
MASK = TensorSpec("mask", ("batch", 1), "float32")
SIGNATURE = Signature((IMAGE, MASK), ())
NETWORK: dict[str, Shape] = {"image": (-1, 3, -1, 32), "mask": (-1, 1)}
RANGES = {"batch": (1, 8, 32), "height": (16, 32, 64)}


def target(profiles: Any = None, **changes: Any) -> Target:
    return Target("edge", "tensorrt", "gpu", options={} if profiles is None else {"profiles": profiles}, **changes)


def refused(asked: Target, network: dict[str, Shape] = NETWORK) -> str:
    with pytest.raises(UsageError) as caught:
        profiles_for(network, SIGNATURE, asked)
    message = str(caught.value)
    assert message.startswith("target edge: ")
    return message


def shapes(least: list[int], usual: list[int], greatest: list[int]) -> dict[str, list[int]]:
    return {"min": least, "opt": usual, "max": greatest}


def test_ranges_of_the_recipe() -> None:
    (profile,) = profiles_for(NETWORK, SIGNATURE, target(ranges=RANGES))
    assert profile["image"] == ((1, 3, 16, 32), (8, 3, 32, 32), (32, 3, 64, 32))
    assert profile["mask"] == ((1, 1), (8, 1), (32, 1))


def test_batch_fixes_the_samples_alone() -> None:
    (profile,) = profiles_for(NETWORK, SIGNATURE, target(batch=4, ranges={"height": (16, 32, 64)}))
    assert profile["image"] == ((4, 3, 16, 32), (4, 3, 32, 32), (4, 3, 64, 32))


def test_fixed_shapes_need_no_profile() -> None:
    assert profiles_for({"image": (2, 3, 32, 32)}, SIGNATURE, target()) == ()


def test_profiles_divide_the_ranges_up() -> None:
    asked = [
        {"image": shapes([1, 3, 16, 32], [2, 3, 16, 32], [4, 3, 16, 32]), "mask": shapes([1, 1], [2, 1], [4, 1])},
        {"image": shapes([8, 3, 64, 32], [8, 3, 64, 32], [8, 3, 64, 32]), "mask": shapes([8, 1], [8, 1], [8, 1])},
    ]
    found = profiles_for(NETWORK, SIGNATURE, target(asked, ranges=RANGES))
    assert [profile["mask"][2] for profile in found] == [(4, 1), (8, 1)]
    asked[1]["image"] = shapes([8, 3, 64, 32], [8, 3, 64, 32], [8, 3, 65, 32])
    message = refused(target(asked, ranges=RANGES))
    assert "profiles[1]: input image, axis height: 64/64/65 is outside the range 16 to 64 of the recipe's input" in message
    assert profiles_for(NETWORK, SIGNATURE, target(asked, ranges={"batch": (1, 8, 8)}))


def test_an_axis_without_a_range() -> None:
    message = refused(target(ranges={"batch": (1, 8, 32)}))
    assert "input image, axis height varies" in message
    assert "`dynamic: {height: {min: 1, opt: 1, max: 8}}`" in message
    example = (
        "image: {min: [1, 3, 1, 32], opt: [1, 3, 1, 32], max: [8, 3, 8, 32]}, mask: {min: [1, 1], opt: [1, 1], max: [8, 1]}"
    )
    assert f"`profiles: [{{{example}}}]`" in message


def test_batch_outside_the_range() -> None:
    assert "axis batch: batch 64 is outside the range 1 to 32" in refused(target(batch=64, ranges=RANGES))


@pytest.mark.parametrize("sizes", [(8, 4, 32), (0, 8, 32), (1, 64, 32), (1, 8, 1 << 31)])
def test_a_range_out_of_order(sizes: tuple[int, int, int]) -> None:
    assert "allowed: 1 <= min <= opt <= max" in refused(target(ranges={**RANGES, "batch": sizes}))


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (shapes([1, 3, 8], [1, 3, 8], [1, 3, 8]), "min has 3 axes, the model's has 4: ?x3x?x32"),
        (shapes([1, 4, 8, 32], [1, 4, 8, 32], [1, 4, 8, 32]), "axis 1: min is 4, and the model has 3 there; write 3"),
        (shapes([1, 3, 8, 32], [2, 3, 8, 32], [2, 3, 8, 33]), "axis 3: max is 33, and the model has 32 there"),
        (shapes([1, 3, 8, 32], [2, 3, 8, 32], [2, 3, 8, 32]), "axis batch is 1/4/8 in input mask and 1/2/2 in input image"),
    ],
)
def test_a_profile_that_does_not_fit(image: dict[str, list[int]], said: str) -> None:
    message = refused(target([{"image": image, "mask": shapes([1, 1], [4, 1], [8, 1])}]))
    assert "profiles[0]: " in message
    assert said in message


def test_a_profile_without_an_input_or_with_an_unknown_one() -> None:
    whole = shapes([1, 1], [4, 1], [8, 1])
    assert "input image varies (?x3x?x32) and has no entry" in refused(target([{"mask": whole}]))
    assert "the model has no input 'imag'; it has image, mask" in refused(target([{"imag": whole}]))
    # Also where nothing varies, and the profile would be for nothing.
    assert "the model has 2 there" in refused(target([{"mask": whole}]), {"mask": (2, 1)})


class Builder:
    """As the library: a profile takes shapes, a config gives its index or -1."""

    def __init__(self, index: int, error: str = "") -> None:
        self.given: list[Any] = []
        self._index = index
        self._error = error

    def create_optimization_profile(self) -> Builder:
        return self

    def set_shape(self, *shape: Any) -> None:
        if self._error:
            raise RuntimeError(self._error)
        self.given.append(shape)

    def add_optimization_profile(self, profile: Builder) -> int:
        return self._index


def test_profiles_are_given_to_the_library() -> None:
    profile = {"mask": ((1, 1), (4, 1), (8, 1))}
    whole = Builder(0)
    add_profiles(whole, whole, [profile])
    assert whole.given == [("mask", (1, 1), (4, 1), (8, 1))]
    refusing = Builder(-1)
    with pytest.raises(BackendFault, match="refuses it: mask 1x1 to 4x1 to 8x1"):
        add_profiles(refusing, refusing, [profile])
    failing = Builder(0, "inconsistent with other shapes")
    with pytest.raises(BackendFault, match="inconsistent with other shapes"):
        add_profiles(failing, failing, [profile])
