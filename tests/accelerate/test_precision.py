from __future__ import annotations

from accel.accelerate.precision import Counts, executed


def test_a_mixture_is_called_by_its_lowest_precision() -> None:
    found = executed(Counts({"Conv": 5}, 0, {"fp32": 4, "bf16": 1}), 0)
    assert found.float_precision == "bf16"
    assert found.notes == ("operators ran in more than one float precision: 1 in bf16, 4 in fp32",)


def test_quantized_operators_that_stayed_float_are_noted() -> None:
    found = executed(Counts({"QLinearConv": 3, "Conv": 1}, 3, {"fp32": 1}), 4, ("before",))
    assert (found.quantized_operators, found.int8_operators) == (4, 3)
    assert found.notes == ("before", "1 of 4 quantized operators did not run in INT8")


def test_nothing_in_float_counts_as_fp32() -> None:
    found = executed(Counts({"QLinearConv": 1}, 1, {}), 1)
    assert (found.float_precision, found.notes) == ("fp32", ())
