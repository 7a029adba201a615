from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from accel.errors import DataFault
from accel.model import TensorSpec
from accel.tasks.padding import batched


def fill(*rows: Any, spec: TensorSpec | None = None, length: int | None = None, **pad: int) -> Any:
    given = [{"x": np.asarray(row)} for row in rows]
    places = [f"sample {index}" for index in range(len(rows))]
    return batched(given, places, [] if spec is None else [spec], length=length, pad_values=pad)["x"]


def test_rows_are_filled_up_at_the_end() -> None:
    assert fill([1, 2, 3], [4]).tolist() == [[1, 2, 3], [4, 0, 0]]
    assert fill([1], [4], length=3, x=7).tolist() == [[1, 7, 7], [4, 7, 7]]


def test_the_models_type_and_length_decide() -> None:
    found = fill([1, 2], spec=TensorSpec("x", ("batch", 3), "int32"), length=9)
    assert found.tolist() == [[1, 2, 0]] and found.dtype == np.int32


def test_features_of_each_token_keep_their_width() -> None:
    assert fill(np.ones((2, 4)), np.ones((1, 4))).shape == (2, 2, 4)
    with pytest.raises(DataFault, match=r"sample 1: x has shape \(1, 3\), others \(2, 4\)"):
        fill(np.ones((2, 4)), np.ones((1, 3)))


def test_one_number_for_each_sample_needs_no_padding() -> None:
    assert fill(3, 4, spec=TensorSpec("x", ("batch",), "int64")).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("row", "spec", "says"),
    [
        ([1, 2, 3, 4], TensorSpec("x", ("batch", 3), "int64"), "x has 4 tokens, and the model takes 3"),
        ([[1, 2]], TensorSpec("x", ("batch", "length"), "int64"), r"x has shape \(1, 2\), but the model takes \(length\)"),
        ([0.5], TensorSpec("x", ("batch", "length"), "int64"), "is float64, which does not fit"),
        ([300], TensorSpec("x", ("batch", "length"), "uint8"), "is int64, which does not fit"),
        ([2**40], TensorSpec("x", ("batch", "length"), "int32"), "does not fit"),
    ],
)
def test_what_does_not_fit_is_named(row: Any, spec: TensorSpec, says: str) -> None:
    with pytest.raises(DataFault, match=says) as caught:
        fill(row, spec=spec)
    assert str(caught.value).startswith("sample 0")
