from __future__ import annotations

import numpy as np
import pytest

from accel.accelerate.inputs import batch_axis, check_inputs, fix_axis
from accel.errors import DataFault, UsageError
from accel.model import Signature, TensorSpec

TWO = Signature(
    inputs=(TensorSpec("ids", ("batch", "length"), "int64"), TensorSpec("mask", ("batch", "length"), "float32")),
    outputs=(TensorSpec("y", ("batch", 4), "float32"),),
)


def arrays(ids: tuple[int, ...] = (2, 5), mask: tuple[int, ...] = (2, 5)) -> dict[str, np.ndarray]:
    return {"ids": np.zeros(ids, np.int64), "mask": np.zeros(mask, np.float32)}


def test_right_inputs_pass_in_any_size_and_order() -> None:
    for ids in ((1, 1), (2, 5), (7, 3)):
        given = arrays(ids, ids)
        check_inputs(TWO, given)
        check_inputs(TWO, dict(reversed(given.items())))
    with pytest.raises(DataFault):
        check_inputs(TWO, arrays((2, 5), (2, 6)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mask": None}, "given were ids"),
        ({"extra": np.zeros(1)}, "takes the inputs ids, mask; given were ids, mask, extra"),
        ({"mask": np.zeros((2, 5))}, "input mask has dtype float64; the model takes float32"),
        ({"mask": np.zeros((2, 5, 1), np.float32)}, "input mask has shape 2x5x1; the model takes batchxlength"),
        ({"mask": np.zeros((), np.float32)}, r"input mask has shape \(\)"),
        ({"mask": np.zeros((3, 5), np.float32)}, "input mask has 3 along batch, but input ids has 2"),
        ({"mask": [[1.0]]}, "input mask is a list; it must be a numpy array of float32"),
    ],
)
def test_wrong_inputs_are_named(change: dict[str, object], said: str) -> None:
    given = {name: array for name, array in {**arrays(), **change}.items() if array is not None}
    with pytest.raises(DataFault, match=said):
        check_inputs(TWO, given)  # type: ignore[arg-type]


def test_fixed_axis() -> None:
    fixed = Signature(inputs=(TensorSpec("x", (1, 3), "float32"),), outputs=())
    check_inputs(fixed, {"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(DataFault, match="shape 2x3; the model takes 1x3"):
        check_inputs(fixed, {"x": np.zeros((2, 3), np.float32)})


def test_fixing_the_batch() -> None:
    assert batch_axis(TWO, 4) == "batch"
    found = fix_axis(TWO, "batch", 4)
    assert [spec.shape for spec in (*found.inputs, *found.outputs)] == [(4, "length"), (4, "length"), (4, 4)]
    assert TWO.inputs[0].shape == ("batch", "length")


def test_a_batch_that_cannot_be_fixed() -> None:
    def taking(*shapes: tuple[int | str, ...]) -> Signature:
        return Signature(tuple(TensorSpec(f"x{i}", shape, "float32") for i, shape in enumerate(shapes)), ())

    assert batch_axis(taking((4, 3)), 4) is None
    with pytest.raises(UsageError, match="fixed to 2"):
        batch_axis(taking((2, 3)), 4)
    with pytest.raises(UsageError, match=r"several first axes \(m, n\)"):
        batch_axis(taking(("m", 3), ("n", 3)), 4)
    with pytest.raises(UsageError, match="no axis"):
        batch_axis(taking(()), 4)
