"""``engine: auto``: what is tried, what is taken, and that a few samples do not decide."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.accelerate.tensorrt_engine import TensorRt
from accel.compress.accuracy.engines import Tried, chosen
from accel.compress.accuracy.samples import Judged
from accel.compress.accuracy_control import AccuracyControl
from accel.compress.calibration import Calibration
from accel.compress.quantize_auto import QuantizeStaticAuto
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.repair_settings import AdaRound, StaticWeights
from accel.contracts import Job
from accel.errors import DataFault, PassFault
from accel.model import Model, OnnxModel, Signature, TorchModel

CPU = OnnxRuntime.quantization


class EnginesProbe:
    """Of the tests' session probe, with the time that ``ms`` gives for the file of each engine, and for ``float``."""

    precision = "int8"
    identity: Mapping[str, Any] = {"target": "this process"}

    def __init__(self, inner: Any, ms: Mapping[str, float], refused: Sequence[str] = ()) -> None:
        self.inner, self.ms, self.refused = inner, ms, refused
        self.opened = 0
        self.timed = 0

    def latencies_ms(self, models: Sequence[Model], precision: str | None = None) -> list[float]:
        assert precision == "fp32", "files are timed as they are"
        self.timed += 1
        return [self.ms[engine_of(model)] for model in models]

    @contextmanager
    def compiling(self) -> Iterator[Any]:
        self.opened += 1
        with self.inner.compiling() as compiled:

            @contextmanager
            def one(model: Model) -> Iterator[Any]:
                if engine_of(model) in self.refused:
                    raise PassFault(f"{engine_of(model)} cannot be compiled here")
                with compiled(model) as predict:
                    yield predict

            yield one


def engine_of(model: Model) -> str:
    """Each engine writes into a folder of its own."""
    assert isinstance(model, OnnxModel)
    if all(node.op_type != "QuantizeLinear" for node in onnx.load(str(model.path)).graph.node):
        return "float"
    return "nncf" if model.path.parent.name == "nncf" else "onnxruntime"


FAST: Mapping[str, float] = {"float": 9.0, "onnxruntime": 4.0, "nncf": 5.0}


@pytest.fixture
def job(tmp_path: Path, breakable_module: TorchModel, make_task: Any, make_probe: Any) -> Callable[..., Job]:
    def make(ms: Mapping[str, float] = FAST, refused: Sequence[str] = (), **settings: Any) -> Job:
        folder = tmp_path / str(settings.pop("folder", "step"))
        folder.mkdir()
        settings.setdefault("task", make_task(breakable_module, count=64))
        settings.setdefault("profile", CPU)
        settings.setdefault("probe", EnginesProbe(make_probe(), ms, refused))
        return Job.local(folder, **settings)

    return make


def test_the_fastest_is_kept_and_the_report_says_what_was_tried(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    given = job()
    result = QuantizeStaticAuto(calibration=Calibration(num_samples=16))(breakable_file, given)
    assert result.path == given.folder / "model.onnx"
    assert [path.name for path in given.folder.iterdir()] in (["model.onnx", "scratch"], ["scratch", "model.onnx"])
    alone = QuantizeStaticOnnxRuntime(calibration=Calibration(num_samples=16))(breakable_file, job(folder="alone"))
    assert result.path.read_bytes() == alone.path.read_bytes()
    assert result.notes[: len(alone.notes)] == alone.notes
    told = [note for note in result.notes if note.startswith("engine auto:")]
    assert told[0].startswith("engine auto: top1 on selection data (64 samples): onnxruntime 0.")
    assert "in 4 ms, nncf 0." in told[0] and told[0].endswith("in 5 ms; floating point 9 ms")
    assert told[1].startswith("engine auto: onnxruntime taken: ")
    assert told[2].startswith("engine auto: nncf not taken: ")


def test_a_faster_one_that_is_less_accurate_is_not_taken() -> None:
    good, bad = judged([1.0] * 100), judged([1.0] * 80 + [0.0] * 20)
    winner, why = chosen([tried("onnxruntime", bad, 1.0), tried("nncf", good, 2.0)], "top1")
    assert winner.engine == "nncf"
    assert why == [
        "engine auto: nncf taken: the others are worse in top1",
        "engine auto: onnxruntime not taken: worse in top1 than nncf (by -0.2000, 95 % interval -0.2788 to -0.1212)",
    ]


def test_a_few_samples_do_not_decide() -> None:
    """Two of a hundred lost: the point is lower, the interval is not."""
    good, nearly = judged([1.0] * 100), judged([1.0] * 98 + [0.0] * 2)
    winner, why = chosen([tried("onnxruntime", good, 2.0), tried("nncf", nearly, 1.0)], "top1")
    assert winner.engine == "nncf"
    assert why[0].startswith(
        "engine auto: nncf taken: the fastest, and in top1 no worse than onnxruntime (by -0.0200, 95 % inter"
    )
    assert why[1] == "engine auto: onnxruntime not taken: 100.0% slower"


def test_of_two_that_are_as_fast_the_more_accurate_is_taken() -> None:
    good, nearly = judged([1.0] * 100), judged([1.0] * 99 + [0.0])
    winner, why = chosen([tried("onnxruntime", nearly, 1.0), tried("nncf", good, 1.01)], "top1")
    assert winner.engine == "nncf"
    assert why == [
        "engine auto: nncf taken: as fast as any, within 2%, and more accurate",
        "engine auto: onnxruntime not taken: no faster beyond the noise",
    ]


def test_without_a_value_for_each_sample_the_better_one_is_better() -> None:
    winner, why = chosen([tried("onnxruntime", Judged(0.9, None), 1.0), tried("nncf", Judged(0.91, None), 2.0)], "f1")
    assert winner.engine == "nncf"
    assert "(by -0.0100)" in why[1]


def test_the_interval_is_of_paired_differences() -> None:
    drawn = np.random.default_rng(0)
    hard = drawn.uniform(0, 1, 400)  # samples differ much more than the candidates do
    one, other = judged(hard), judged(hard + drawn.normal(0.01, 0.01, 400))
    mean, low, high = other.over(one)
    assert 0.008 < low < mean < high < 0.012
    assert one.over(other) == pytest.approx((-mean, -high, -low))
    assert judged([1.0]).over(judged([0.0])) == (1.0, 0.0, 2.0), "one sample says nothing"


def test_an_engine_that_does_not_take_the_settings_is_left_out(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    step = QuantizeStaticAuto(calibration=Calibration(method="entropy", num_samples=16))
    told = step(breakable_file, job()).notes
    assert "engine auto: onnxruntime taken: there is no other to choose from" in told
    assert "engine auto: nncf left out: it does not take calibration.method: entropy" in told


def test_repairs_are_passed_on(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    """``adaround`` is one engine's; the others are given to both, and change the file of the winner."""
    settings = QuantizeStaticAuto(calibration=Calibration(num_samples=16), weights=StaticWeights(bits=3), adaround=AdaRound(20))
    told = settings(breakable_file, job()).notes
    assert "engine auto: nncf left out: it does not take adaround" in told
    assert "engine auto: onnxruntime taken: there is no other to choose from" in told
    made = {
        corrected: QuantizeStaticAuto(
            calibration=Calibration(num_samples=16), cross_layer_equalization=True, bias_correction=corrected
        )(breakable_file, job({**FAST, "onnxruntime": 40.0}, folder=str(corrected)))
        for corrected in (True, False)
    }
    assert all(any(note.startswith("engine auto: nncf taken: ") for note in one.notes) for one in made.values())
    assert all(any("equali" in note for note in one.notes) for one in made.values())
    assert made[True].path.read_bytes() != made[False].path.read_bytes()


def test_an_engine_whose_file_does_not_run_is_left_out(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    step = QuantizeStaticAuto(calibration=Calibration(num_samples=16))
    told = step(breakable_file, job(refused=("onnxruntime",))).notes
    assert "engine auto: onnxruntime left out: onnxruntime cannot be compiled here" in told
    with pytest.raises(PassFault, match=r"no file runs on the target: onnxruntime cannot .*; nncf cannot"):
        step(breakable_file, job(refused=("onnxruntime", "nncf"), folder="none"))


def test_what_cannot_write_the_dialect_is_left_out(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    told = QuantizeStaticAuto(calibration=Calibration(num_samples=16))(breakable_file, job(profile=TensorRt.quantization)).notes
    assert any(note.startswith("engine auto: nncf left out: quantize: NNCF writes unsigned") for note in told)


def test_without_labels_the_float_models_answers_decide(
    breakable_file: OnnxModel, breakable_module: TorchModel, make_task: Any, job: Callable[..., Job]
) -> None:
    step = QuantizeStaticAuto(calibration=Calibration(num_samples=16))
    told = step(breakable_file, job(task=make_task(breakable_module, labelled=False, count=64))).notes
    assert any(note.startswith("engine auto: agreement with floating point on selection data (64 samples): ") for note in told)

    vectors = make_task(breakable_module, labelled=False, count=64, answers="embeddings")
    told = step(breakable_file, job(task=vectors, folder="cosine")).notes
    assert any(note.startswith("engine auto: cosine to floating point on selection data (64 samples): ") for note in told)


def test_answers_are_remembered(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    memory: dict[str, Any] = {}

    def memo(key: Mapping[str, Any], compute: Callable[[], Any]) -> Any:
        name = json.dumps(key)
        if name not in memory:
            memory[name] = json.loads(json.dumps(compute()))
        return memory[name]

    step = QuantizeStaticAuto(calibration=Calibration(num_samples=16))
    first = step(breakable_file, job(memo=memo))
    given = job(memo=memo, folder="again")
    again = step(breakable_file, given)
    assert again.notes == first.notes
    assert given.probe is not None and (given.probe.opened, given.probe.timed) == (0, 0)  # type: ignore[attr-defined]


def test_accuracy_control_goes_on_from_the_winner(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    step = QuantizeStaticAuto(
        calibration=Calibration(num_samples=16), accuracy_control=AccuracyControl(max_drop=0.5, metric="closeness")
    )
    result = step(breakable_file, job())
    assert any(note.startswith("engine auto: closeness on selection") for note in result.notes)
    assert result.accuracy is not None and result.accuracy["metric"] == "closeness"


def test_accuracy_control_knows_the_winners_network(breakable_file: OnnxModel, job: Callable[..., Job]) -> None:
    """What stays in floating point is that of the equalized network, not of the one that was given."""
    control = AccuracyControl(max_drop=0.0, metric="closeness")
    settings: dict[str, Any] = {"cross_layer_equalization": True, "accuracy_control": control}
    few = Calibration(num_samples=16)
    result = QuantizeStaticAuto(calibration=few, **settings)(breakable_file, job())
    alone = QuantizeStaticOnnxRuntime(calibration=few, **settings)(breakable_file, job(folder="alone"))
    assert result.path.read_bytes() == alone.path.read_bytes()
    assert result.accuracy is not None and alone.accuracy is not None
    assert {**result.accuracy, "seconds": 0.0} == {**alone.accuracy, "seconds": 0.0}


def test_what_it_needs_is_said(breakable_file: OnnxModel, breakable_module: TorchModel, make_task: Any, job: Any) -> None:
    with pytest.raises(PassFault, match=r"this job has no probe; .* or name an engine"):
        QuantizeStaticAuto()(breakable_file, replace(job(), probe=None))
    with pytest.raises(DataFault, match="chooses by selection data, and there is none"):
        QuantizeStaticAuto()(breakable_file, job(task=make_task(breakable_module, splits=()), folder="none"))


def test_the_libraries_that_are_here_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    assert QuantizeStaticAuto().libraries == ("onnxruntime", "onnx", "nncf", "torch")
    monkeypatch.setattr("accel.compress.quantize_auto.installed", lambda name: None)
    assert QuantizeStaticAuto().libraries == ("onnxruntime", "onnx")


def judged(samples: Sequence[float] | NDArray[Any]) -> Judged:
    values = np.asarray(samples, np.float64)
    return Judged(float(values.mean()), values)


def tried(engine: str, found: Judged, ms: float) -> Tried:
    return Tried(engine, OnnxModel(path=Path(f"{engine}.onnx"), signature=Signature((), ())), found, ms)
