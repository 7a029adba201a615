from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.errors import DataFault, UsageError
from accel.model import Signature, TensorSpec
from accel.tasks.model_input import fitted, fixed_batch, image_input


def spec(shape: tuple[int | str, ...] = ("batch", 3, 8, 9), dtype: str = "float32") -> TensorSpec:
    return TensorSpec("x", shape, dtype)


def test_a_classifier_has_one_input() -> None:
    assert image_input(None) is None
    assert image_input(Signature((spec(),), ())) == spec()
    with pytest.raises(UsageError, match=r"has 2 inputs \(x, x\); image_classification feeds exactly one"):
        image_input(Signature((spec(), spec()), ()))


def test_a_fixed_batch_axis_is_noticed() -> None:
    assert fixed_batch(None) is None and fixed_batch(spec()) is None
    assert fixed_batch(spec((4, 3, 8, 9))) == 4


@pytest.mark.parametrize(
    ("value", "dtype", "found"),
    [(np.float32(0.5), "float16", "float16"), (np.float64(0.5), "float32", "float32"), (np.float32(7), "uint8", "uint8")],
)
def test_casts_what_loses_at_most_precision(value: Any, dtype: str, found: str) -> None:
    sample = np.full((3, 8, 9), value)
    fit = fitted(sample, spec(dtype=dtype), "x")
    assert fit.dtype == found and (fit == sample).all()


def test_named_axes_take_any_size() -> None:
    sample = np.zeros((3, 5, 7), np.float32)
    assert fitted(sample, spec(("n", 3, "height", "width")), "x") is sample
    assert fitted(sample, None, "x") is sample


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        (
            (3, 8, 8),
            "float32",
            r"s7: is float32 \(3, 8, 8\), but the model's input 'x' takes float32 \(3, 8, 9\); set .*resize",
        ),
        ((1, 8, 9), "float32", "set task.preprocess.color to rgb"),
        ((8, 9, 3), "float32", "channels stand on the other side"),
        ((8, 9), "float32", "set task.preprocess, or store the data in this shape"),
        ((3, 8, 9), "uint8", "these are pixels: declare task.preprocess"),
        ((3, 8, 9), "int64", "store the data as float32"),
        ((3, 8, 9), "bool", "store the data as float32"),
    ],
)
def test_what_does_not_fit_says_how_to_make_it_fit(shape: tuple[int, ...], dtype: str, message: str) -> None:
    """Fault 38: wrong shape, wrong dtype."""
    with pytest.raises(DataFault, match=message):
        fitted(np.zeros(shape, dtype), spec(), "s7")


def test_fractions_are_not_rounded_for_an_integer_input() -> None:
    with pytest.raises(DataFault, match="store the data as uint8"):
        fitted(np.full((3, 8, 9), 0.5, np.float32), spec(dtype="uint8"), "x")
