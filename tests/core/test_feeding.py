"""Samples go in as the model takes them: halved where it takes halves, and never as infinity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from accel.errors import DataFault
from accel.feeding import in_float16
from accel.model import TensorSpec
from accel.timed_inputs import Sample

SPECS = (TensorSpec("image", ("n", 2), "float16"), TensorSpec("mask", ("n",), "float32"), TensorSpec("ids", ("n",), "int64"))


def test_only_floats_for_a_float16_input_are_changed() -> None:
    given: dict[str, NDArray[Any]] = {
        "image": np.array([[0.1, np.inf]], np.float32),
        "mask": np.ones(1, np.float64),
        "ids": np.ones(1, np.float32),  # a mistake, which whoever checks types names
        "more": np.ones(1, np.float32),
    }
    fed = in_float16(given, SPECS)
    assert fed["image"].dtype == np.float16
    np.testing.assert_array_equal(fed["image"], given["image"].astype(np.float16))
    assert all(fed[name] is given[name] for name in ("mask", "ids", "more"))
    assert given["image"].dtype == np.float32
    whole = np.ones((1, 2), np.uint8)
    assert in_float16({"image": whole}, SPECS)["image"] is whole


def test_what_float16_does_not_hold_is_named() -> None:
    in_float16({"image": np.full((1, 2), 65504.0, np.float32)}, SPECS)
    with pytest.raises(DataFault, match=r"input image has values up to 70000, .* ends at 65504; set keep_io_types: true"):
        in_float16({"image": np.array([[-70000.0, np.inf]], np.float32)}, SPECS)


def test_what_rows_are_timed_on_is_halved_too(tmp_path: Path) -> None:
    stored = np.ones((3, 2), np.float32) / 3
    np.savez(tmp_path / "sample.npz", image=stored)
    sample = Sample(str(tmp_path / "sample.npz"), 3, 0)
    np.testing.assert_array_equal(sample.inputs(SPECS)["image"], stored.astype(np.float16))
    assert sample.inputs((TensorSpec("image", ("n", 2), "int64"),))["image"].dtype == np.float32  # whoever checks types says so
