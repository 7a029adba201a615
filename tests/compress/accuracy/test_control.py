"""Accuracy control on a network built to break: exactly the broken layer is kept back, with both engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
import pytest
from pydantic import TypeAdapter, ValidationError

from accel.accuracy_outcome import AccuracyOutcome
from accel.compress.accuracy_control import AccuracyControl
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Job, QuantizationProfile
from accel.errors import DataFault, PassFault
from accel.model import Model, OnnxModel, TorchModel

if TYPE_CHECKING:
    from tests.compress.accuracy.conftest import SessionProbe, Task

    Run = Callable[..., tuple[OnnxModel, AccuracyOutcome]]
    InFloat = Callable[[Model], set[str]]

BROKEN = "third/Conv"

ENGINES = {"onnxruntime": QuantizeStaticOnnxRuntime, "nncf": QuantizeStaticNncf}
BUDGET = AccuracyControl(max_drop=0.03)


@pytest.fixture(scope="module")
def task(breakable_module: TorchModel, make_task: type[Task]) -> Task:
    return make_task(breakable_module)


@pytest.fixture
def run(breakable_file: OnnxModel, task: Task, make_probe: type[SessionProbe], cpu: QuantizationProfile, tmp_path: Path) -> Run:
    """``run(control, engine=..., folder=..., **job)``: the pass on the broken network, and what it says it found."""

    def quantized(
        control: AccuracyControl | None = BUDGET, engine: str = "onnxruntime", folder: str = "step", **more: Any
    ) -> tuple[OnnxModel, AccuracyOutcome]:
        (tmp_path / folder).mkdir()
        settings: dict[str, Any] = {"task": task, "profile": cpu, "probe": make_probe(), **more}
        job = Job.local(tmp_path / folder, **settings)
        result = ENGINES[engine](accuracy_control=control)(breakable_file, job)
        assert {path.name for path in job.folder.iterdir()} == {"model.onnx", "scratch"}, "nothing else is left"
        assert result.path == job.folder / "model.onnx" and result.signature == breakable_file.signature
        assert result.accuracy is not None
        return result, AccuracyOutcome.model_validate_json(json.dumps(result.accuracy))

    return quantized


@pytest.mark.parametrize("engine", list(ENGINES))
def test_exactly_the_broken_layer_is_kept_back_and_the_result_passes(
    run: Run, engine: str, task: Task, nodes_in_float: InFloat
) -> None:
    result, found = run(engine=engine)
    assert [layer.layer for layer in found.kept] == [BROKEN] and found.passed
    assert nodes_in_float(result) == {BROKEN}
    assert found.layers[0].layer == BROKEN and found.layers[0].sqnr_db is not None
    others = [layer.sqnr_db for layer in found.layers[1:]]
    assert all(other is not None and other > found.layers[0].sqnr_db + 10 for other in others)
    whole = found.tried[0]
    assert whole.kept == [] and not whole.passed and whole.value is not None and whole.value < 0.9
    assert found.reference == 1.0 and found.value is not None and found.value >= 0.97
    assert found.split == "selection" and found.metric == "top1" and found.stopped is None
    assert f"{BROKEN} kept in floating point by accuracy_control: with it alone in INT8 output SQNR " in " ".join(result.notes)
    assert "quantized: 3 Conv, 1 Gemm" in result.notes and len([n for n in result.notes if n.startswith("quantized: ")]) == 1
    assert task.read <= {"calibration", "selection"}
    onnx.checker.check_model(str(result.path), full_check=True)


def test_ranked_by_the_metric_it_is_the_same_layer(run: Run) -> None:
    _, found = run(replace(BUDGET, ranking_metric="metric"))
    assert [layer.layer for layer in found.kept] == [BROKEN] and found.passed
    assert found.layers[0].value is not None and found.layers[0].value < 0.9


def test_without_labels_the_float_models_answers_are_what_counts(
    run: Run, breakable_module: TorchModel, make_task: type[Task]
) -> None:
    _, found = run(task=make_task(breakable_module, labelled=False))
    assert [layer.layer for layer in found.kept] == [BROKEN] and found.passed
    assert found.metric == "agreement" and found.reference == 1.0


@pytest.mark.parametrize("labelled", [False, True])
def test_embeddings_are_judged_by_where_they_point(
    run: Run, breakable_module: TorchModel, make_task: type[Task], labelled: bool
) -> None:
    task = make_task(breakable_module, labelled=labelled, answers="embeddings")
    _, found = run(AccuracyControl(max_drop=0.01), task=task)
    assert [layer.layer for layer in found.kept] == [BROKEN] and found.passed
    assert found.metric == "cosine" and found.reference == 1.0 and found.value is not None and 0.99 <= found.value < 1.0
    assert found.tried[0].value is not None and found.tried[0].value < 0.95


def test_agreement_may_be_asked_for_where_there_are_labels_too(run: Run) -> None:
    _, found = run(replace(BUDGET, metric="agreement"))
    assert [layer.layer for layer in found.kept] == [BROKEN] and found.metric == "agreement" and found.reference == 1.0


def test_where_everything_may_be_in_int8_the_engines_file_is_the_result_and_nothing_is_ranked(
    run: Run,
    breakable_file: OnnxModel,
    task: Task,
    cpu: QuantizationProfile,
    make_probe: type[SessionProbe],
    tmp_path: Path,
) -> None:
    probe = make_probe()
    result, found = run(AccuracyControl(max_drop=1.0), probe=probe)
    assert found.passed and found.kept == [] and len(probe.compiled) == 2 and not probe.timed
    assert {layer.layer for layer in found.layers} >= {BROKEN, "head/Gemm"} and found.layers[0].sqnr_db is None
    (tmp_path / "plain").mkdir()
    plain = QuantizeStaticOnnxRuntime()(breakable_file, Job.local(tmp_path / "plain", task=task, profile=cpu))
    assert plain.accuracy is None and plain.path.read_bytes() == result.path.read_bytes()


def test_an_impossible_budget_ends_as_the_best_effort(run: Run, nodes_in_float: InFloat) -> None:
    result, found = run(AccuracyControl(max_drop=0.0, metric="closeness"))
    assert not found.passed and found.kept and found.value is not None
    assert found.value == max(tried.value for tried in found.tried if tried.value is not None) < 0
    assert all(len(tried.kept) < len(found.layers) for tried in found.tried), "something is in INT8 in every candidate"
    assert any(note.startswith("warning: accuracy_control: closeness") and "best effort" in note for note in result.notes)
    assert nodes_in_float(result) < {"first/Conv", "second/Conv", BROKEN, "fourth/Conv", "head/Gemm"}


def test_a_relative_budget_is_a_share_of_the_float_models_value(
    run: Run,
) -> None:
    _, found = run(AccuracyControl(max_drop=0.03, drop_type="relative"))
    assert found.passed and found.allowed == pytest.approx(0.03 * found.reference)


def test_out_of_time_it_ends_with_what_it_has(run: Run) -> None:
    _, found = run(replace(BUDGET, timeout=1e-9))
    assert not found.passed and found.stopped == "timeout"
    assert [tried.kept for tried in found.tried] == [[]], "the engine's own file was scored, and is the best there is"
    assert found.layers[0].sqnr_db is None


def test_a_run_that_was_killed_goes_on_where_it_was(run: Run, make_probe: type[SessionProbe]) -> None:
    kept: dict[str, Any] = {}
    computed = 0

    def memo(key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        nonlocal computed
        name = json.dumps(key, sort_keys=True)
        if name not in kept:
            if len(kept) == 5:
                raise KeyboardInterrupt
            computed += 1
            kept[name] = json.loads(json.dumps(compute()))
        return kept[name]

    with pytest.raises(KeyboardInterrupt):
        run(memo=memo)
    assert len(kept) == 5
    probe = make_probe()

    def unlimited(key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        name = json.dumps(key, sort_keys=True)
        kept[name] = kept[name] if name in kept else json.loads(json.dumps(compute()))
        return kept[name]

    _, found = run(memo=unlimited, probe=probe, folder="again")
    asked = len(kept)
    assert [layer.layer for layer in found.kept] == [BROKEN]
    assert len(probe.compiled) < len(found.layers) + len(found.tried) + 1, "what was known was not compiled again"
    probe = make_probe()
    run(replace(BUDGET, max_drop=0.04), memo=unlimited, probe=probe, folder="another budget")
    assert not probe.compiled and len(kept) == asked, "another budget starts from the same answers"


def test_of_the_sets_that_pass_the_fastest_is_taken(
    run: Run, make_probe: type[SessionProbe], monkeypatch: pytest.MonkeyPatch
) -> None:
    def badly_ranked(self: Any, name: str) -> tuple[int, float]:
        return 0, ["second/Conv", "fourth/Conv", "first/Conv", BROKEN].index(name) if "/Conv" in name else 9

    monkeypatch.setattr("accel.compress.accuracy.control._Run._harm", badly_ranked)
    result, found = run(probe=make_probe(ms=lambda nodes: 10.0 - len(nodes)))
    passed = [tried for tried in found.tried if tried.passed]
    assert [BROKEN] in [tried.kept for tried in passed] and len(passed) > 1
    longest = max(passed, key=lambda tried: len(tried.kept))
    assert [layer.layer for layer in found.kept] and len(found.kept) == len(longest.kept) > 1
    assert all(tried.latency_ms is not None for tried in passed) and found.float_ms == 5.0
    assert any("which is faster: INT8 does not pay here" in note for note in result.notes)


def test_between_sets_as_fast_as_each_other_the_one_with_most_in_int8_is_taken(
    run: Run, make_probe: type[SessionProbe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accel.compress.accuracy.control._Run._harm", lambda self, name: (0, -len(name)))
    _, found = run(probe=make_probe(ms=lambda nodes: 1.0 + 0.001 * (10 - len(nodes))))
    assert [layer.layer for layer in found.kept] == [BROKEN]


def test_a_candidate_that_does_not_run_does_not_pass(run: Run, make_probe: type[SessionProbe]) -> None:
    _, found = run(probe=make_probe(refuses=lambda nodes: BROKEN not in nodes))
    assert [layer.layer for layer in found.kept] == [BROKEN] and found.passed
    assert found.layers[0].failed is not None and "no kernel" in found.layers[0].failed
    assert found.tried[0].failed is not None and found.tried[0].value is None


def test_where_no_candidate_runs_that_is_said(run: Run, make_probe: type[SessionProbe]) -> None:
    with pytest.raises(PassFault, match="no candidate runs on the target: the candidate cannot be compiled for npu"):
        run(probe=make_probe(refuses=lambda nodes: len(nodes) < 5))
    with pytest.raises(PassFault, match=r"^the candidate cannot be compiled for npu: no kernel"):
        run(probe=make_probe(refuses=lambda nodes: True), folder="not even the float model")


def test_what_is_missing_or_misspelt_is_said(run: Run, breakable_module: TorchModel, make_task: type[Task]) -> None:
    with pytest.raises(PassFault, match=r"no probe; run it in a recipe, or give Job\.local"):
        run(probe=None, folder="a")
    with pytest.raises(PassFault, match="no metric is called 'top2' here; allowed: top1, closeness, agreement"):
        run(AccuracyControl(metric="top2"), folder="b")
    with pytest.raises(PassFault, match=r"allowed: agreement, since data\.selection has no labels"):
        run(AccuracyControl(metric="top1"), task=make_task(breakable_module, labelled=False), folder="c")

    _, found = run(task=make_task(breakable_module, splits=("calibration",)), folder="d")
    assert found.split == "calibration" and found.metric == "agreement"
    with pytest.raises(DataFault, match=r"set data\.calibration"):
        run(task=make_task(breakable_module, splits=()), folder="e")


def test_needs_follow_from_the_setting() -> None:
    for engine in ENGINES.values():
        assert engine().needs == {"calibration", "profile"}
        assert engine(accuracy_control=BUDGET).needs == {"calibration", "profile", "selection", "probe"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_drop", -0.1),
        ("drop_type", "percent"),
        ("metric", ""),
        ("ranking_metric", "cosine"),
        ("max_iterations", 0),
        ("timeout", 0),
        ("tolerable", 1),
    ],
)
def test_settings_are_checked_by_name(field: str, value: Any) -> None:
    for engine in ENGINES.values():
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(engine).validate_python({"accuracy_control": {field: value}})
        assert caught.value.errors()[0]["loc"][-1] == field
