"""Every kind of limit to every verdict, the edges, and that nothing worse ever passes where something better failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gates import conclusive, exit_code, judge, stops
from accel.errors import UsageError
from accel.report import Estimate, Fidelity, Gate, Metric, Report, Row, Speedup

if TYPE_CHECKING:
    from tests.benchmarks.gates.conftest import Make

TOP1 = "top1@ov: "


def one(report: Report, **settings: Any) -> Gate:
    (gate,) = judge([GateSettings(**settings)], report, stored={})
    return gate


def speed(make: Make, ratio: float, half: float, **fields: Any) -> Report:
    """A result that is ``ratio`` times as fast as its baseline."""
    found = Speedup(vs="ov fp32 baseline", ratio=Estimate(value=ratio, low=ratio - half, high=ratio + half), **fields)
    return make.report(make.reference(), make.baseline(), make.result(speedups=[found]))


def accuracy(make: Make, difference: float, half: float) -> Report:
    metric = Metric(name="top1", value=0.92 + difference, n=10_000, difference=make.estimate(difference, half))
    return make.report(make.reference(), make.baseline(), make.result(metrics=[metric]))


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        # top1: -0.4 points (-0.6 to -0.2); 91.6 % of 10,000 (91.0 to 92.1).
        ({"metric": "top1", "max_drop": 0.01}, "pass"),
        ({"metric": "top1", "max_drop": 0.005}, "inconclusive"),
        ({"metric": "top1", "max_drop": 0.001}, "fail"),
        ({"metric": "top1", "max_drop": 0.01, "drop_type": "relative"}, "pass"),
        ({"metric": "top1", "max_drop": 0.005, "drop_type": "relative"}, "inconclusive"),
        ({"metric": "top1", "max_drop": 0.001, "drop_type": "relative"}, "fail"),
        ({"metric": "top1", "min": 0.9}, "pass"),
        ({"metric": "top1", "min": 0.915}, "inconclusive"),
        ({"metric": "top1", "min": 0.95}, "fail"),
        ({"metric": "top1", "max": 0.95}, "pass"),
        ({"metric": "top1", "max": 0.9}, "fail"),
        ({"metric": "top1", "min_improvement": 0.0}, "fail"),
        # a loss of the user's own, where low is good: +0.01 (0.005 to 0.015).
        ({"metric": "loss", "max_drop": 0.02}, "pass"),
        ({"metric": "net.py:loss", "max_drop": 0.01}, "inconclusive"),
        ({"metric": "loss", "max_drop": 0.001}, "fail"),
        ({"metric": "loss", "max": 0.31}, "pass"),
        ({"metric": "loss", "max": 0.29}, "fail"),
        # p50: 0.5 ms (0.49 to 0.51), 2x (1.96 to 2.04) as fast as the baseline.
        ({"metric": "latency_p50_ms", "max_drop": 0}, "pass"),
        ({"metric": "latency_p50_ms", "min_improvement": 1.9}, "pass"),
        ({"metric": "latency_p50_ms", "min_improvement": 2.0}, "inconclusive"),
        ({"metric": "latency_p50_ms", "min_improvement": 2.1}, "fail"),
        ({"metric": "latency_p50_ms", "min_improvement": 0.4, "drop_type": "absolute"}, "pass"),
        ({"metric": "latency_p50_ms", "min_improvement": 0.6, "drop_type": "absolute"}, "fail"),
        ({"metric": "latency_p50_ms", "max": 0.6}, "pass"),
        ({"metric": "latency_p50_ms", "max": 0.5}, "inconclusive"),
        ({"metric": "latency_p50_ms", "max": 0.4}, "fail"),
        ({"metric": "latency_p90_ms", "max": 0.6}, "pass"),
        ({"metric": "latency_p90_ms", "max": 0.3}, "fail"),
        ({"metric": "latency_p99_ms", "max": 0.8}, "pass"),
        ({"metric": "latency_p99_ms", "max": 0.745}, "inconclusive"),
        ({"metric": "latency_p99_ms", "max": 0.7}, "fail"),
        # taken once: good to a factor of 1.5, memory to 1.1.
        ({"metric": "compile_s", "max": 1.0}, "pass"),
        ({"metric": "compile_s", "max": 0.6}, "inconclusive"),
        ({"metric": "compile_s", "max": 0.3}, "fail"),
        ({"metric": "first_inference_ms", "max_drop": 0.3}, "inconclusive"),
        ({"metric": "peak_memory_bytes", "max_drop": 0}, "pass"),
        ({"metric": "peak_memory_bytes", "max": 80e6}, "fail"),
        # sizes are exact: 300 kB against 1.2 MB.
        ({"metric": "size_bytes", "max": 300_000}, "pass"),
        ({"metric": "size_bytes", "max": 299_999}, "fail"),
        ({"metric": "size_bytes", "max_drop": 0}, "pass"),
        ({"metric": "size_bytes", "min_improvement": 4.0}, "pass"),
        ({"metric": "gzip_bytes", "min_improvement": 4.0}, "fail"),
        ({"metric": "top1_agreement", "min": 0.98}, "pass"),
        ({"metric": "top1_agreement", "min": 0.99}, "inconclusive"),
        ({"metric": "top1_agreement", "min": 0.995}, "fail"),
        ({"metric": "sqnr_db", "min": 30}, "pass"),
        ({"metric": "sqnr_db", "min": 31}, "fail"),
        ({"metric": "max_abs_difference", "max": 0.3}, "fail"),
        ({"metric": "int8_share", "min": 1.0}, "pass"),
    ],
)  # fmt: skip
def test_a_verdict_is_taken_from_the_interval(make: Make, settings: dict[str, Any], verdict: str) -> None:
    gate = one(make.report(), **settings)
    assert gate.verdict == verdict, gate.text
    assert gate.failed == (verdict == "fail")
    assert gate.row == "ov"
    assert gate.limit in gate.text
    Gate.model_validate_json(gate.model_dump_json())


def test_what_is_said_and_found_is_in_the_unit_of_the_limit(make: Make) -> None:
    slow = one(speed(make, 0.9, 0.01), metric="latency", max_drop=0.05)
    assert (slow.name, slow.metric, slow.kind, slow.vs) == ("latency@ov", "latency_p50_ms", "latency", "ov fp32 baseline")
    assert slow.limit == "at most +5 %"
    assert slow.found is not None
    assert (slow.found.value, slow.found.low) == pytest.approx((11.11, 9.89), abs=0.01)
    assert slow.text == (
        "latency_p50_ms of ov: +11.1 % (95 % CI +9.89 to +12.4) against ov fp32 baseline; the limit is at most +5 %"
    )
    worse = one(make.report(), metric="top1", max_drop=0.001)
    assert worse.vs == "eager fp32"
    assert worse.text == (
        "top1 of ov: -0.40 points (95 % CI -0.60 to -0.20) against eager fp32; the limit is at least -0.1 points"
    )
    assert one(make.report(), metric="top1", min=0.95).limit == "at least 95 %"
    assert one(make.report(), metric="size", max=1000).text.startswith(
        "size_bytes of ov: 300,000 bytes; the limit is at most 1,000 bytes"
    )
    assert one(make.report(), metric="latency", min_improvement=2).limit == "at least 2x as good"


def test_each_result_is_judged_by_itself_and_places_are_kept(make: Make) -> None:
    report = make.report(make.reference(), make.baseline(), make.result(), make.result(name="ort", target="ort"))
    gates = judge(
        [GateSettings(metric="size", max=1), GateSettings(metric="size", max=1, target="ort")],
        report,
        stored={},
        places=[(7, 3), (8, 3)],
    )
    assert [(gate.name, gate.row, gate.line) for gate in gates] == [
        ("size@ov", "ov", 7),
        ("size@ort", "ort", 7),
        ("size@ort", "ort", 8),
    ]


def test_files_measured_beside_one_another_are_all_judged(make: Make) -> None:
    report = make.report(make.baseline(name="a.onnx on openvino", target=None))
    assert one(report, metric="latency", max=2).row == "a.onnx on openvino"
    assert one(report, metric="latency", max=2, target="openvino").row == "a.onnx on openvino"


# -- margins ----------------------------------------------------------------------------------------------------------


def test_a_failure_needs_the_share_and_the_margin(make: Make) -> None:
    slow = speed(make, 0.8, 0.01)  # 25 % slower: 0.1 ms of 0.5
    assert one(slow, metric="latency", max_drop=0.05).verdict == "fail"
    assert one(slow, metric="latency", max_drop=0.05, margin_abs=0.05).verdict == "fail"
    assert one(slow, metric="latency", max_drop=0.05, margin_abs=0.1).verdict == "inconclusive"
    assert one(slow, metric="latency", max_drop=0.05, margin_abs=0.2).verdict == "pass"
    assert "differences up to 0.2 ms pass" in one(slow, metric="latency", max_drop=0.05, margin_abs=0.2).limit


def test_a_margin_of_a_value_and_of_an_improvement(make: Make) -> None:
    report = make.report()
    assert one(report, metric="size", max=299_000, margin_abs=1000).verdict == "pass"
    assert one(report, metric="size", max=299_000, margin_abs=999).verdict == "fail"
    assert one(report, metric="top1", min=0.95, margin_abs=0.05).verdict == "pass"
    assert one(report, metric="size", min_improvement=5, margin_abs=50_000).verdict == "fail"  # 240 kB wanted: 60 kB missing
    assert one(report, metric="size", min_improvement=5, margin_abs=70_000).verdict == "pass"
    assert one(report, metric="loss", min_improvement=0.02, margin_abs=0.1).verdict == "pass"


# -- what cannot be told ----------------------------------------------------------------------------------------------


def test_unstable_figures_fail_only_far_beyond_the_limit_and_pass_only_as_a_whole(make: Make) -> None:
    gate = one(speed(make, 0.88, 0.05, unstable="two clusters"), metric="latency", max_drop=0.05)  # 8 to 20 % slower
    assert (gate.verdict, gate.failed) == ("inconclusive", False)
    assert "unstable: two clusters" in gate.text
    hard = one(speed(make, 0.88, 0.05, unstable="two clusters"), metric="latency", max_drop=0.05, on_inconclusive="fail")
    assert hard.failed
    slow = one(speed(make, 0.4, 0.05, unstable="two clusters"), metric="latency", max_drop=0.05)  # 122 to 186 % slower
    assert (slow.verdict, "unstable" in slow.text) == ("fail", True)
    fast = one(speed(make, 3.0, 0.01, unstable="a wide interval"), metric="latency", max_drop=0.05)
    assert (fast.verdict, "unstable: a wide interval" in fast.text) == ("pass", True)


def test_inconclusive_passes_or_fails(make: Make) -> None:
    gate = one(make.report(), metric="top1", max_drop=0.005)
    assert (gate.verdict, gate.failed) == ("inconclusive", False)
    assert gate.text.startswith("top1 of ov: -0.40 points")
    hard = one(make.report(), metric="top1", max_drop=0.005, on_inconclusive="fail")
    assert (hard.verdict, hard.failed) == ("inconclusive", True)


def test_a_row_that_failed_fails_and_one_that_was_skipped_is_no_silent_pass(make: Make) -> None:
    failed = make.report(make.baseline(), make.result(status="failed", reason="SIGSEGV"))
    gate = one(failed, metric="size", max=1e9)
    assert (gate.verdict, gate.failed) == ("fail", True)
    assert "the row failed: SIGSEGV" in gate.text
    bare = Row(name="npu", role="result", target="npu", backend="openvino", status="skipped", reason="no NPU")
    gate = one(make.report(make.baseline(), bare), metric="latency", max=1)
    assert (gate.verdict, gate.failed) == ("inconclusive", False)
    assert "no NPU" in gate.text
    assert one(make.report(), metric="size", max=1, target="gone").failed


def test_what_was_only_built_has_a_size_and_nothing_else(make: Make) -> None:
    built = Row(name="ov", role="result", target="ov", backend="openvino", status="built", size_bytes=10)
    report = make.report(built)
    assert one(report, metric="size", max=10).verdict == "pass"
    for metric in ("latency", "top1", "sqnr", "throughput"):
        gate = one(report, metric=metric, min=0.0)
        assert (gate.verdict, gate.failed) == ("inconclusive", False), metric
        assert "only built" in gate.text


def test_percentiles_of_too_few_queries_and_scenarios_that_were_not_run_say_so(make: Make) -> None:
    report = make.report(make.result(latency=make.latency(0.5, p99_ms=None)))
    assert "too few" in one(report, metric="latency_p99", max=9).text
    assert "the scenario offline was not measured" in one(report, metric="throughput", min=9).text


def test_throughput_is_compared_by_the_interleaved_ratio(make: Make) -> None:
    report = make.report(
        make.reference(), make.baseline(points=[make.offline(100, 1)]), make.result(points=[make.offline(220, 2)])
    )
    assert one(report, metric="throughput", min_improvement=1.9).verdict == "pass"
    assert one(report, metric="throughput", min_improvement=2.2).verdict == "fail"  # though 220 is 2.2 times 100
    assert one(report, metric="throughput", min=230).verdict == "fail"


# -- fidelity ---------------------------------------------------------------------------------------------------------


def test_int8_that_was_asked_for_and_did_not_run_fails(make: Make) -> None:
    for found in (make.precision(0), make.precision(0, 0)):
        gate = one(make.report(make.result(precision=found)), metric="int8_share", min=0.5)
        assert (gate.verdict, gate.kind) == ("fail", "fidelity")


def test_outputs_that_are_no_numbers_fail_whatever_the_figure(make: Make) -> None:
    broken = Fidelity(vs="eager fp32", top1_agreement=1.0, sqnr_db=80.0, max_abs_difference=0.0, nonfinite_values=3)
    report = make.report(make.reference(), make.result(fidelity=broken))
    for metric in ("sqnr_db", "top1_agreement"):
        gate = one(report, metric=metric, min=0.1)
        assert gate.verdict == "fail"
        assert "3 of its outputs are NaN or infinite" in gate.text


def test_identical_outputs_keep_every_limit(make: Make) -> None:
    same = Fidelity(vs="eager fp32", top1_agreement=1.0, sqnr_db=None, max_abs_difference=0.0)
    gate = one(make.report(make.result(fidelity=same)), metric="sqnr_db", min=200)
    assert gate.verdict == "pass"
    assert "no difference at all" in gate.text and "999" not in gate.text


# -- zero, negative, which way is good (fault 63) ---------------------------------------------------------------------


def user(make: Make, value: float, difference: float, *, higher: bool, half: float | None = 0.0) -> Report:
    found = Estimate(value=difference) if half is None else make.estimate(difference, half)
    metric = Metric(name="m", value=value, n=100, higher_is_better=higher, difference=found)
    own = Metric(name="m", value=value - difference, n=100, higher_is_better=higher)
    return make.report(make.reference(metrics=[own]), make.result(metrics=[metric]))


@pytest.mark.parametrize(
    ("value", "difference", "higher", "settings", "verdict"),
    [
        (0.1, 0.1, True, {"max_drop": 0.05, "drop_type": "relative"}, "pass"),
        (-0.1, -0.1, True, {"max_drop": 0.05, "drop_type": "relative"}, "fail"),
        (0.0, 0.0, True, {"max_drop": 0.05, "drop_type": "relative"}, "pass"),
        (0.1, 0.1, False, {"max_drop": 0.05, "drop_type": "relative"}, "fail"),
        (-0.1, -0.1, False, {"max_drop": 0.05, "drop_type": "relative"}, "pass"),
        (-1.05, -0.05, True, {"max_drop": 0.1, "drop_type": "relative"}, "pass"),
        (-1.2, -0.2, True, {"max_drop": 0.1, "drop_type": "relative"}, "fail"),
        (-1.2, -0.2, False, {"max_drop": 0.0, "drop_type": "relative"}, "pass"),
        (-0.8, 0.2, False, {"max_drop": 0.1, "drop_type": "relative"}, "fail"),
        (-1.2, -0.2, True, {"max_drop": 0.1}, "fail"),
        (-1.2, -0.2, True, {"max_drop": 0.3}, "pass"),
        (-1.2, -0.2, False, {"min_improvement": 0.1}, "pass"),
        (-1.2, -0.2, True, {"min": -1.0}, "fail"),
        (-1.2, -0.2, True, {"max": 0.0}, "pass"),
    ],
)  # fmt: skip
def test_zero_and_negative_baselines(
    make: Make, value: float, difference: float, higher: bool, settings: dict[str, Any], verdict: str
) -> None:
    gate = one(user(make, value, difference, higher=higher), metric="m", **settings)
    assert gate.verdict == verdict, gate.text
    Gate.model_validate_json(gate.model_dump_json())


@pytest.mark.parametrize(("value", "difference"), [(0.1, 0.1), (-0.5, 0.5), (0.5, 1.5)])
def test_a_multiple_of_nothing_is_refused_and_says_the_way_out(make: Make, value: float, difference: float) -> None:
    gate = one(user(make, value, difference, higher=True), metric="m", min_improvement=2, drop_type="relative")
    assert (gate.verdict, gate.failed) == ("inconclusive", True)
    assert "set drop_type: absolute" in gate.text


def test_a_row_below_zero_is_no_multiple_of_one_above(make: Make) -> None:
    assert one(user(make, -0.5, -1.5, higher=True), metric="m", min_improvement=2, drop_type="relative").verdict == "fail"


def test_a_baseline_of_no_bytes_divides_nothing(make: Make) -> None:
    report = make.report(make.baseline(size_bytes=0), make.result())
    gate = one(report, metric="size", max_drop=0.1)
    assert gate.verdict == "fail"
    assert "which is 0" in gate.text
    assert (
        one(make.report(make.baseline(size_bytes=0), make.result(size_bytes=0)), metric="size", max_drop=0.1).verdict == "pass"
    )


def test_a_metric_without_values_per_sample_is_judged_as_it_is(make: Make) -> None:
    report = user(make, 0.5, -0.1, higher=True, half=None)
    assert one(report, metric="m", max_drop=0.05).verdict == "fail"
    assert one(report, metric="m", max_drop=0.1).verdict == "pass"
    assert one(report, metric="m", min=0.6).verdict == "fail"


def test_rounding_is_no_loss(make: Make) -> None:
    assert one(user(make, 0.3, -(0.1 + 0.2 - 0.0), higher=True, half=None), metric="m", max_drop=0.3).verdict == "pass"


# -- the run ----------------------------------------------------------------------------------------------------------


def test_exit_codes(make: Make) -> None:
    assert exit_code([]) == 0
    kinds = {"top1": 11, "latency": 12, "size": 13, "int8_share": 14}
    failing: dict[str, dict[str, Any]] = {
        "top1": {"min": 0.99},
        "latency": {"max": 0.1},
        "size": {"max": 1},
        "int8_share": {"max": 0.1},
    }
    gates = {metric: one(make.report(), metric=metric, **limit) for metric, limit in failing.items()}
    for metric, code in kinds.items():
        assert exit_code([gates[metric], gates[metric], one(make.report(), metric="size", max=1e9)]) == code
    assert exit_code([gates["size"], gates["latency"]]) == 1
    assert exit_code([one(make.report(), metric="top1", max_drop=0.005)]) == 0


def test_a_report_that_nobody_read_is_a_usage_error(make: Make) -> None:
    with pytest.raises(UsageError, match="was not read"):
        judge([GateSettings(metric="size", max_drop=0, vs="main.json")], make.report(), stored={})


def test_timing_goes_on_until_gates_on_the_median_are_decided(make: Make) -> None:
    gates = [
        GateSettings(metric="latency", max_drop=0.05),
        GateSettings(metric="size", max=1),
        GateSettings(metric="latency", max=1),
    ]
    assert stops(gates) == gates[:1]
    assert conclusive(gates, speed(make, 2.0, 0.04).rows)
    assert not conclusive(gates, speed(make, 0.96, 0.04).rows)
    assert not conclusive(gates[1:], make.report().rows)
    assert stops([GateSettings(metric="latency", max_drop=0.05, vs="main.json")]) == []


# -- nothing worse ever passes where something better failed -----------------------------------------------------------

ORDER = {"pass": 0, "inconclusive": 1, "fail": 2}
numbers = st.floats(0.2, 5.0)
halves = st.floats(0.0, 0.1)
limits = st.one_of(
    st.builds(lambda drop, margin: {"max_drop": drop, "margin_abs": margin}, st.floats(0, 1), st.none() | st.floats(0, 1)),
    st.builds(
        lambda gain, margin: {"min_improvement": gain, "margin_abs": margin}, st.floats(1, 4), st.none() | st.floats(0, 1)
    ),
    st.builds(lambda drop: {"max_drop": drop, "drop_type": "absolute"}, st.floats(0, 1)),
)


@examples(max_examples=60, deadline=None)
@given(numbers, st.floats(0.0, 1.0), halves, limits)
def test_a_slower_interval_is_never_judged_better(
    make: Make, ratio: float, slower: float, half: float, limit: dict[str, Any]
) -> None:
    better, worse = ((ratio * (1 - half), ratio, ratio * (1 + half)), None)
    factor = 1 / (1 + slower)
    worse = tuple(end * factor for end in better)
    verdicts = []
    for low, value, high in (better, worse):
        found = Speedup(vs="ov fp32 baseline", ratio=Estimate(value=value, low=low, high=high))
        # The same baseline: what is slower takes longer.
        rows = [make.baseline(), make.result(latency=make.latency(1.0 / value), speedups=[found])]
        verdicts.append(ORDER[one(make.report(*rows), metric="latency", **limit).verdict])
    assert verdicts[0] <= verdicts[1]


@examples(max_examples=60, deadline=None)
@given(st.floats(-0.1, 0.1), st.floats(0, 0.1), halves, st.floats(0, 0.1), st.sampled_from(["absolute", "relative"]))
def test_a_less_accurate_interval_is_never_judged_better(
    make: Make, difference: float, worse: float, half: float, drop: float, drop_type: str
) -> None:
    found = [
        one(accuracy(make, each, half), metric="top1", max_drop=drop, drop_type=drop_type).verdict
        for each in (difference, difference - worse)
    ]
    assert ORDER[found[0]] <= ORDER[found[1]]


@examples(max_examples=60, deadline=None)
@given(st.floats(-0.1, 0.1), halves, halves, st.floats(0, 0.1))
def test_a_narrower_interval_inside_decides_the_same_or_more(
    make: Make, difference: float, one_half: float, two_half: float, drop: float
) -> None:
    narrow, wide = sorted((one_half, two_half))
    first, second = (one(accuracy(make, difference, half), metric="top1", max_drop=drop).verdict for half in (wide, narrow))
    assert first in ("inconclusive", second)


def test_a_run_that_lost_its_results_is_no_silent_pass(make: Make) -> None:
    gate = one(make.report(make.reference(), make.baseline()), metric="size", max=10**9)
    assert (gate.verdict, gate.failed, gate.row) == ("fail", True, None)
    assert "no row is a result" in gate.text
