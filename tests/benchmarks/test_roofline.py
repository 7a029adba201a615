"""The bound of hand-made traffic on a machine of round numbers."""

from __future__ import annotations

import pytest

from accel.benchmarks.roofline import roofline
from accel.machine import Peaks
from accel.onnx_traffic import Amount, Kernel, Traffic
from accel.report import Precision

MACHINE = Peaks(
    threads=1,
    fp32_gops=100.0,
    int8_gops=400.0,
    bandwidth_gb_s=10.0,
    cache_gb_s=50.0,
    cache_bytes=1_000_000,
    measured="2026-01-01T00:00:00+00:00",
)
FP32 = Precision(float_precision="fp32", quantized_operators=0, int8_operators=0, operators={})


def int8(ran: int, of: int = 1) -> Precision:
    return Precision(float_precision="fp32", quantized_operators=of, int8_operators=ran, operators={})


def conv(
    macs: int = 5_000_000, *, weights: int = 1000, moved: int = 24_000, quantized: bool = False, name: str = "c"
) -> Kernel:
    kind = "quantized" if quantized else "floats"
    return Kernel("Conv", [name, f"{name}/Relu"], macs, quantized, Amount(**{kind: weights}), Amount(**{kind: moved}))


def test_a_kernel_takes_the_longer_of_computing_and_moving() -> None:
    placed = roofline(Traffic((conv(), conv(50_000, weights=100_000))), MACHINE, FP32, p50_ms=0.25)
    assert placed.notes == ()
    found = placed.roofline
    assert found is not None
    # 10e6 operations at 100e9 a second; and 0.1e6 operations, but 496,000 bytes at 50e9 a second.
    assert found.bound_ms == pytest.approx(0.1 + 0.00992)
    assert found.share == pytest.approx(0.10992 / 0.25)
    assert found.compute_share == pytest.approx(0.1 / 0.10992)
    assert found.macs == 5_050_000
    assert found.bytes == 4 * (1000 + 24_000 + 100_000 + 24_000)
    assert found.uncounted == []


def test_weights_that_do_not_stay_in_the_cache_come_from_memory() -> None:
    kernel = conv(0, weights=300_000, moved=10_000)  # 1.2 MB and 40 kB
    found = roofline(Traffic((kernel,)), MACHINE, FP32, p50_ms=1.0).roofline
    assert found is not None
    assert found.bound_ms == pytest.approx(1_200_000 / 10e9 * 1e3 + 40_000 / 50e9 * 1e3)
    unknown = MACHINE.model_copy(update={"cache_bytes": None})  # then nothing is called slower than it may be
    found = roofline(Traffic((kernel,)), unknown, FP32, p50_ms=1.0).roofline
    assert found is not None
    assert found.bound_ms == pytest.approx(1_240_000 / 50e9 * 1e3)


def test_activations_larger_than_the_cache_come_from_memory_and_drive_the_weights_out() -> None:
    kernel = conv(0, weights=10_000, moved=400_000)
    found = roofline(Traffic((kernel,)), MACHINE, FP32, p50_ms=1.0).roofline
    assert found is not None
    assert found.bound_ms == pytest.approx(1_640_000 / 10e9 * 1e3)


def test_int8_has_a_peak_and_a_size_of_its_own() -> None:
    found = roofline(Traffic((conv(quantized=True),)), MACHINE, int8(1), p50_ms=0.1).roofline
    assert found is not None
    assert found.bound_ms == pytest.approx(0.025)
    assert found.bytes == 25_000


def test_what_is_quantized_and_ran_in_float_counts_as_float() -> None:
    found = roofline(Traffic((conv(quantized=True),)), MACHINE, int8(0), p50_ms=0.2).roofline
    assert found is not None
    assert found.bound_ms == pytest.approx(0.1)
    assert found.bytes == 100_000


def test_of_a_mixture_the_profile_tells_which_ran_in_int8() -> None:
    mixed = Traffic((conv(quantized=True, name="a"), conv(quantized=True, name="b")))
    told = roofline(mixed, MACHINE, int8(1, of=2), p50_ms=0.2, in_float=frozenset({"b"}))
    assert told.roofline is not None
    assert told.roofline.bound_ms == pytest.approx(0.025 + 0.1)
    assert told.notes == ()
    silent = roofline(mixed, MACHINE, int8(1, of=2), p50_ms=0.2)
    assert silent.roofline is not None
    assert silent.roofline.bound_ms == pytest.approx(0.05)  # never too high
    assert "not every quantized operator ran in INT8" in silent.notes[0]


def test_activations_of_a_float_operator_after_an_int8_one_are_still_bytes() -> None:
    pool = Kernel("MaxPool", ["p"], activations=Amount(quantized=50_000))
    ran = roofline(Traffic((conv(quantized=True), pool)), MACHINE, int8(1), p50_ms=0.2).roofline
    floats = roofline(Traffic((conv(quantized=True), pool)), MACHINE, int8(0), p50_ms=0.2).roofline
    assert ran is not None
    assert floats is not None
    assert floats.bytes == 4 * ran.bytes


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp64", "tf32"])
def test_a_precision_without_a_peak_has_no_roofline(precision: str) -> None:
    ran = FP32.model_copy(update={"float_precision": precision})
    placed = roofline(Traffic((conv(),)), MACHINE, ran, p50_ms=1.0)
    assert placed.roofline is None
    assert placed.notes == (f"no roofline: this machine's peak in {precision} is not known",)


def test_int8_without_a_peak_has_no_roofline() -> None:
    placed = roofline(Traffic((conv(quantized=True),)), MACHINE.model_copy(update={"int8_gops": None}), int8(1), p50_ms=1.0)
    assert placed.roofline is None
    assert "INT8" in placed.notes[0]


def test_bf16_numbers_are_two_bytes() -> None:
    machine = MACHINE.model_copy(update={"bf16_gops": 200.0})
    found = roofline(Traffic((conv(),)), machine, FP32.model_copy(update={"float_precision": "bf16"}), p50_ms=0.1).roofline
    assert found is not None
    assert found.bytes == 50_000
    assert found.bound_ms == pytest.approx(0.05)


def test_more_than_the_peak_is_said() -> None:
    placed = roofline(Traffic((conv(),)), MACHINE, FP32, p50_ms=0.05)
    assert placed.roofline is not None
    assert placed.roofline.share == pytest.approx(2.0)
    assert "200 %" in placed.notes[0]


def test_nothing_to_count_has_no_roofline() -> None:
    placed = roofline(Traffic(()), MACHINE, FP32, p50_ms=1.0)
    assert placed.roofline is None
    assert placed.notes
