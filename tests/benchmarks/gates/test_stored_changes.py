"""Against a stored report: what is compared, from which figures, and what is refused instead of passed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gates import judge
from accel.machine import Gpu
from accel.report import DataUse, Gate, Metric, Report, Speedup, read

if TYPE_CHECKING:
    from tests.benchmarks.gates.conftest import Make


def one(head: Report, base: Report, across_machines: bool = False, **settings: Any) -> Gate:
    gate = GateSettings(vs="main.json", **settings)
    (found,) = judge([gate], head, stored={"main.json": base}, across_machines=across_machines)
    return found


def timed(make: Make, ratio: float, p50: float = 0.5, **fields: Any) -> Report:
    """A run whose result is ``ratio`` times as fast as its baseline, with a median of its own."""
    speedup = Speedup(vs="ov fp32 baseline", ratio=make.estimate(ratio, ratio * 0.01))
    rows = [make.reference(), make.baseline(), make.result(latency=make.latency(p50), speedups=[speedup])]
    return make.report(*rows, **fields)


def test_medians_of_two_runs_are_never_compared_only_their_ratios(make: Make) -> None:
    # The machine was twice as slow today; the row stands to its baseline as it did.
    gate = one(timed(make, 2.0, p50=1.0), timed(make, 2.0), metric="latency", max_drop=0.05)
    assert gate.verdict == "pass", gate.text
    # It was as fast today, and still lost a quarter against its baseline.
    gate = one(timed(make, 1.5), timed(make, 2.0), metric="latency", max_drop=0.05)
    assert gate.verdict == "fail", gate.text
    assert gate.found is not None
    assert gate.found.value == pytest.approx(100 / 3, abs=0.01)
    assert one(timed(make, 1.9), timed(make, 2.0), metric="latency", max_drop=0.05).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"cpu": "Another CPU"}, "the CPU differs (Another CPU, now A CPU)"),
        ({"cores": 8}, "the number of cores differs (8, now 2)"),
        ({"libraries": {"openvino": "2025.4.0"}}, "openvino differs (2025.4.0, now 2026.4.1)"),
        ({"libraries": {}}, "openvino differs (absent, now 2026.4.1)"),
    ],
)
def test_another_machine_is_no_silent_pass(make: Make, other: dict[str, Any], says: str) -> None:
    base = timed(make, 2.0, **other)
    gate = one(timed(make, 2.0), base, metric="latency", max_drop=0.05)
    assert (gate.verdict, gate.failed) == ("inconclusive", True)
    assert f"not comparable: {says}" in gate.text
    assert one(timed(make, 2.0), base, True, metric="latency", max_drop=0.05).verdict == "pass"
    assert one(timed(make, 2.0), base, metric="size", max_drop=0.0).verdict == "pass"
    assert one(timed(make, 2.0), base, True, metric="compile_s", max_drop=9.0).failed


def test_another_version_of_another_runtime_changes_nothing(make: Make) -> None:
    base = timed(make, 2.0, libraries={"openvino": "2026.1.0", "torch": "1.0", "onnxruntime": "0.1"})
    assert one(timed(make, 2.0), base, metric="latency", max_drop=0.05).verdict == "pass"


def test_another_gpu_matters_to_rows_on_a_gpu(make: Make) -> None:
    gpu = Gpu(index=0, name="H100", compute_capability="9.0", driver="1", memory_bytes=1)
    base, head = timed(make, 2.0), timed(make, 2.0)
    head = head.model_copy(update={"environment": head.environment.model_copy(update={"gpus": [gpu]})})
    assert one(head, base, metric="latency", max_drop=0.05).verdict == "pass"
    head = head.model_copy(update={"rows": [row.model_copy(update={"device": "gpu"}) for row in head.rows]})
    assert "the GPU differs (none, now H100)" in one(head, base, metric="latency", max_drop=0.05).text


@pytest.mark.parametrize("setting", ["batch_size", "threads"])
def test_other_settings_are_not_comparable_on_any_machine(make: Make, setting: str) -> None:
    rows = [make.reference(), make.baseline(), make.result(latency=make.latency(0.5, **{setting: 4}))]
    gate = one(make.report(*rows), timed(make, 2.0), True, metric="latency", max_drop=0.05)
    assert gate.failed
    assert f"{setting.replace('_', ' ')}: 1, now 4" in gate.text


def test_an_untouched_model_that_changed_is_no_yardstick(make: Make) -> None:
    larger = make.baseline(size_bytes=2_400_000)
    head = make.report(make.reference(), larger, make.result())  # eager has no size that could tell
    gate = one(head, make.report(), metric="latency", max_drop=0.05)
    assert gate.failed
    assert "the untouched model (ov fp32 baseline) is another" in gate.text
    alone = make.report(make.result())
    assert "no untouched row" in one(alone, make.report(), metric="latency", max_drop=0.05).text


def test_percentiles_of_two_runs_are_refused(make: Make) -> None:
    gate = one(make.report(), make.report(), metric="latency_p99", max_drop=9.0)
    assert gate.failed
    assert "limit latency_p50_ms" in gate.text


def test_an_unstable_ratio_then_fails_nothing_near_the_limit_now(make: Make) -> None:
    shaky = Speedup(vs="ov fp32 baseline", ratio=make.estimate(1.1, 0.01), unstable="a busy machine")
    base = make.report(make.reference(), make.baseline(), make.result(speedups=[shaky]))
    gate = one(timed(make, 1.0), base, metric="latency", max_drop=0.08)
    assert (gate.verdict, gate.failed) == ("inconclusive", False)
    assert "in main.json: a busy machine" in gate.text


def test_throughput_is_compared_by_its_ratios_too(make: Make) -> None:
    base, head = (
        make.report(make.baseline(points=[make.offline(100, 1)]), make.result(points=[make.offline(value, ratio)]))
        for value, ratio in ((200, 2.0), (300, 1.5))
    )
    assert one(head, base, metric="throughput", max_drop=0.05).verdict == "fail"


# -- accuracy ---------------------------------------------------------------------------------------------------------


def judged(make: Make, value: float, half: float = 0.001, **fields: Any) -> Report:
    metric = Metric(name="top1", value=value, n=10_000, difference=make.estimate(value - 0.92, half))
    return make.report(make.reference(), make.result(metrics=[metric], files=[]), **fields)


def test_accuracies_on_the_same_data_share_their_reference(make: Make) -> None:
    # Two unpaired shares of 10,000 could not tell 0.5 points; each is 0.1 points sure against the same reference.
    assert one(judged(make, 0.911), judged(make, 0.916), metric="top1", max_drop=0.001).verdict == "fail"
    assert one(judged(make, 0.9155), judged(make, 0.916), metric="top1", max_drop=0.002).verdict == "pass"


def test_without_a_common_reference_they_are_two_shares(make: Make) -> None:
    bare = [
        make.report(make.result(metrics=[Metric(name="top1", value=value, n=10_000)], files=[])) for value in (0.911, 0.916)
    ]
    assert one(bare[0], bare[1], metric="top1", max_drop=0.001).verdict == "inconclusive"
    assert one(bare[0], bare[1], metric="top1", max_drop=0.02).verdict == "pass"


def test_other_data_is_no_silent_pass(make: Make) -> None:
    other = [DataUse(split="validation", source="new.npz", samples=10_000, digest="00" * 16)]
    for data in (other, []):
        for metric in ("top1", "top1_agreement", "sqnr_db"):
            gate = one(judged(make, 0.916), judged(make, 0.916, data=data), metric=metric, max_drop=0.5, drop_type="absolute")
            assert (gate.verdict, gate.failed) == ("inconclusive", True), metric
            assert "not comparable" in gate.text
    assert one(judged(make, 0.916), judged(make, 0.9, data=other), metric="int8_share", max_drop=0).verdict == "pass"


def test_the_same_files_with_the_same_score_lost_nothing(make: Make) -> None:
    assert one(make.report(), make.report(), metric="top1", max_drop=0.0).verdict == "pass"


def test_the_same_files_with_the_same_agreement_lost_none(make: Make) -> None:
    assert one(make.report(), make.report(), metric="top1_agreement", max_drop=0.0).verdict == "pass"
    other = make.report(make.reference(), make.baseline(), make.result(files=[]))
    assert one(other, make.report(), metric="top1_agreement", max_drop=0.0).verdict == "inconclusive"


@pytest.mark.parametrize("ratio", [0.0, -1.0])
def test_a_ratio_that_no_run_can_measure_is_refused_and_divides_nothing(make: Make, ratio: float) -> None:
    for head, base in ((timed(make, ratio), timed(make, 2.0)), (timed(make, 2.0), timed(make, ratio))):
        gate = one(head, base, metric="latency", max_drop=0.05)
        assert (gate.verdict, gate.failed) == ("inconclusive", True)
        assert "0 or negative" in gate.text
    gate = judge([GateSettings(metric="latency", max_drop=0.05)], timed(make, ratio), stored={})[0]
    assert (gate.verdict, gate.failed) == ("inconclusive", True)


def test_agreement_and_sizes_are_compared_directly(make: Make) -> None:
    worse = make.result(size_bytes=310_000)
    assert one(make.report(worse), make.report(), metric="size", max_drop=0.01).verdict == "fail"
    assert one(make.report(worse), make.report(), metric="size", max_drop=0.04).verdict == "pass"
    assert one(make.report(), make.report(), metric="top1_agreement", max_drop=0.01).verdict == "pass"
    assert one(make.report(), make.report(), metric="sqnr_db", max_drop=0.0).verdict == "pass"


def test_a_row_that_base_has_not_is_inconclusive(make: Make) -> None:
    head = make.report(make.result(name="new", target="new"))
    gate = one(head, make.report(), metric="size", max_drop=0.0)
    assert (gate.verdict, gate.failed) == ("inconclusive", False)
    assert "main.json has no such row" in gate.text


def test_a_renamed_result_of_the_same_target_is_the_same_thing(make: Make) -> None:
    head = make.report(make.result(name="renamed"))
    assert one(head, make.report(), metric="size", max_drop=0.0).verdict == "pass"


def test_a_report_of_version_1_is_compared_as_far_as_it_goes(make: Make, tmp_path: Path) -> None:
    document = json.loads(make.report().json_text())
    for key in ("gates", "conditions", "peaks", "samples", "classes", "recipe", "source"):
        del document[key]
    for row in document["rows"]:
        for key in ("points", "roofline", "layers", "classes", "differing"):
            del row[key]
    document["schema_version"] = 1
    (tmp_path / "main.json").write_text(json.dumps(document))
    base = read(tmp_path / "main.json")
    assert one(make.report(), base, metric="latency", max_drop=0.05).verdict == "pass"
    assert one(make.report(), base, metric="size", max_drop=0.0).verdict == "pass"
    assert one(make.report(), base, metric="throughput", max_drop=0.0).verdict == "inconclusive"
