from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from accel.errors import UsageError
from accel.model import TensorSpec
from accel.timed_inputs import Sample, axis_sizes, noise

TEXT = (
    TensorSpec("input_ids", ("batch", "length"), "int64"),
    TensorSpec("attention_mask", ("batch", "length"), "int64"),
    TensorSpec("scale", ("batch", 3), "float32"),
)


def test_noise_is_seeded_zeros_are_tokens_and_masks_hide_nothing() -> None:
    made = noise(TEXT, 2, 7, {"length": 5})
    assert {name: (array.shape, str(array.dtype)) for name, array in made.items()} == {
        "input_ids": ((2, 5), "int64"),
        "attention_mask": ((2, 5), "int64"),
        "scale": ((2, 3), "float32"),
    }
    assert (made["input_ids"] == 0).all() and (made["attention_mask"] == 1).all()
    assert np.array_equal(made["scale"], noise(TEXT, 2, 7, {"length": 5})["scale"])
    assert not np.array_equal(made["scale"], noise(TEXT, 2, 8, {"length": 5})["scale"])


def test_an_axis_without_a_size_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"input input_ids: axis 'length' may vary .* give --shape length=N"):
        noise(TEXT, 1, 0)


def test_a_type_that_numpy_lacks_is_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match="input x: it is bfloat16, and no noise is made of that"):
        noise([TensorSpec("x", ("batch", 2), "bfloat16")], 1, 0)


def test_stored_samples_are_taken_over_and_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", x=np.array([[1.0], [2.0]], dtype=np.float32))
    made = Sample(str(tmp_path / "two.npz"), 3, 0).inputs([TensorSpec("x", ("batch", 1), "float32")])
    assert made["x"].tolist() == [[1.0], [2.0], [1.0]]


def test_sizes_that_inputs_show() -> None:
    assert axis_sizes(TEXT, noise(TEXT, 2, 0, {"length": 9})) == {"length": 9}
