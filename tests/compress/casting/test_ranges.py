from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper, parser

from accel.compress.calibration_data import Samples
from accel.compress.casting.plan import ports_of
from accel.compress.casting.ranges import BATCH, Trial, in_batches, measure, range_of
from accel.compress.casting.types import LOW_TYPES
from accel.contracts import Batch, Job
from accel.model import Signature, TensorSpec

Array = NDArray[Any]
FP16, BF16 = LOW_TYPES["fp16"], LOW_TYPES["bf16"]
TINY = 1e-6


class Rows:
    """Calibration samples x, each of its own length if it is a list."""

    def __init__(self, rows: list[Array]) -> None:
        self.rows = rows

    def calibration(self) -> Iterator[Batch]:
        for row in self.rows:
            yield Batch({"x": row[None]})


def samples(rows: list[Array], *shape: int | str, group: int = 1) -> Samples:
    signature = Signature((TensorSpec("x", shape, "float32"),), ())
    return Samples(Rows(rows), signature, len(rows), group, ())  # type: ignore[arg-type]


def model(text: str, **weights: Array) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]> g {text}')
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
    return proto


def measured(
    proto: onnx.ModelProto, rows: list[Array], trials: list[Trial], tensors: list[str], folder: Path, execute: Any
) -> Any:
    low = FP16
    shape = ("n", *rows[0].shape)
    job = Job.local(folder, execute=execute)
    return measure(proto, low, ports_of(proto, low), tensors, trials, samples(rows, *shape), job, "measuring")


@pytest.mark.parametrize("own", [True, False], ids=["onnxruntime", "onnx's evaluator"])
def test_ranges_are_those_of_all_samples(tmp_path: Path, execute: Any, own: bool) -> None:
    proto = model("(float[n,4] x) => (float[n,4] y) { y = Neg(x) }")
    rows = [np.array(row, np.float32) for row in ([0, TINY, -5, 1], [0, 0, np.inf, 1], [0] * 4, [3, 1, 1, TINY], [7, 0, 0, 0])]
    ranges, errors = measured(proto, rows, [], ["x", "y"], tmp_path, execute if own else None)
    assert errors == []
    for name in ("x", "y"):
        assert ranges[name].largest == 7.0, "infinity is the same in any type"
        assert ranges[name].faint == pytest.approx(2 / 9), "of the values that are not zero"


def test_the_error_is_of_rounded_inputs_and_of_the_worst_batch(tmp_path: Path, execute: Any) -> None:
    proto = model("(float[n,2] x) => (float[n,2] y) { y = Sub(x, c) }", c=np.array([1000.0, 1000.0]))
    good, bad = np.array([0.1, 0.2], np.float32), np.array([1000.1, 1000.2], np.float32)
    trial = Trial(0, (0,), frozenset({"x", "c"}))
    [error] = measured(proto, [good] * BATCH + [bad] * BATCH, [trial], [], tmp_path, execute)[1]
    exact = bad - np.float32(1000)
    assert error == pytest.approx(
        np.linalg.norm(bad.astype(np.float16) - np.float32(1000) - exact) / np.linalg.norm(exact), rel=1e-4
    )
    [none] = measured(proto, [bad] * BATCH, [Trial(0, (0,), frozenset())], [], tmp_path, execute)[1]
    assert none == 0.0


def test_a_region_is_computed_again_from_its_rounded_edge(tmp_path: Path, execute: Any) -> None:
    proto = model("(float[n,2] x) => (float[n,2] y) { a = Add(x, c)  y = Sub(a, c) }", c=np.array([1000.0, 1000.0]))
    rows = [np.array([0.1, 0.2], np.float32)] * 2
    alone = Trial(1, (1,), frozenset({"a"}))
    with_what_makes_it = Trial(1, (0, 1), frozenset({"x"}))
    errors = measured(proto, rows, [alone, with_what_makes_it], [], tmp_path, execute)[1]
    assert errors[0] > 0.5 and errors[1] < 1e-3


def test_an_overflow_is_an_infinite_error_and_a_common_infinity_none(tmp_path: Path, execute: Any) -> None:
    proto = model("(float[n,2] x) => (float[n,2] y) { y = Add(x, c) }", c=np.array([1.0, -np.inf]))
    trial = Trial(0, (0,), frozenset({"x", "c"}))
    [finite] = measured(proto, [np.array([0.1, 0.2], np.float32)], [trial], [], tmp_path, execute)[1]
    [error] = measured(proto, [np.array([1e5, 0.2], np.float32)], [trial], [], tmp_path, execute)[1]
    assert finite < 1e-3 and error == np.inf


def test_squares_that_float32_cannot_hold_do_not_matter(tmp_path: Path, execute: Any) -> None:
    proto = model("(float[n,2] x) => (float[n,2] y) { y = Mul(x, c) }", c=np.array([1e25, 1e25]))
    trial = Trial(0, (0,), frozenset({"x"}))
    [error] = measured(proto, [np.array([1.1, 0.7], np.float32)], [trial], [], tmp_path, execute)[1]
    assert 1e-5 < error < 1e-3


def test_scalars_and_zeros_have_ranges(tmp_path: Path, execute: Any) -> None:
    proto = model("(float[n,2] x) => (float s) { s = ReduceSum<keepdims = 0>(x) }")
    trial = Trial(0, (0,), frozenset({"x"}))
    ranges, errors = measured(proto, [np.zeros(2, np.float32)], [trial], ["x", "s"], tmp_path, execute)
    assert (ranges["s"].largest, ranges["s"].faint, errors) == (0.0, 0.0, [0.0])


def test_constants() -> None:
    found = range_of(np.array([0, 1e-9, -70000, -np.inf, 1e-5], np.float32), FP16)
    assert (found.largest, found.vanishes) == (70000.0, True) and found.faint == pytest.approx(2 / 3)
    assert range_of(np.array([1e-5], np.float32), FP16).vanishes is False
    assert range_of(np.array([1e-30], np.float32), BF16).faint == 0.0
    assert range_of(np.zeros(0, np.float32), FP16).largest == 0.0


def test_batches_are_of_one_shape_and_only_where_the_model_takes_any_number() -> None:
    def sizes(found: Samples) -> list[tuple[int, ...]]:
        return [batch["x"].shape for batch in in_batches(found)]

    rows = [np.zeros(length, np.float32) for length in (3, 3, 5, 5, 5, 5, 5)]
    assert sizes(samples(rows, "n", "length")) == [(2, 3), (BATCH, 5), (1, 5)]
    assert sizes(samples(rows[:2], 1, 3)) == [(1, 3), (1, 3)]
    assert sizes(samples(rows[2:6], 2, 5, group=2)) == [(2, 5), (2, 5)]
