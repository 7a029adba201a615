"""Trial compilations: how candidates are prepared and take their turns, with a child of paper; and on the real runtimes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from accel import probe
from accel.compress.onnx_writing import load
from accel.compress.torch_to_onnx import export
from accel.contracts import Batch, Job, Predict, Score, Split
from accel.errors import BackendFault, DataFault, PassFault, UsageError, WorkerFault
from accel.model import OnnxModel, Signature, Target, TensorSpec, TorchModel
from accel.onnx_file import read
from accel.probe import CALIBRATION_SAMPLES, FEWEST_ROUNDS, ROUNDS, TargetProbe
from accel.timed_inputs import Sample

torch.set_num_threads(1)


def network(width: int) -> TorchModel:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 4, 3))
    x, y = TensorSpec("x", ("batch", 1, 24, 24), "float32"), TensorSpec("y", ("batch", 4, 22, 22), "float32")
    return TorchModel(module=net.eval(), signature=Signature((x,), (y,)))


def prober(folder: Path, backend: str = "onnxruntime", **settings: Any) -> TargetProbe:
    settings = {"seconds": 0.1, "sample": Sample(None, 1, 0), **settings}
    return TargetProbe(Target("here", backend), folder=folder, **settings)


class Data:
    """Calibration images, counted as they are read."""

    def __init__(self, count: int, shape: tuple[int, ...] = (1, 24, 24)) -> None:
        self.images = np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)
        self.read = 0

    def calibration(self) -> Iterable[Batch]:
        for image in self.images:
            self.read += 1
            yield Batch({"x": image[None]})

    def training(self) -> Iterable[Batch]:
        raise AssertionError("timing reads calibration data only")

    selection = validation = training

    def has(self, split: Split) -> bool:
        return split == "calibration"

    def digest(self, split: Split) -> str:
        return split

    def score(self, predict: Predict, split: Split = "validation") -> Mapping[str, Score]:
        raise AssertionError("timing judges nothing")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    folder = tmp_path_factory.mktemp("exported")
    return export(network(4), Job.local(folder), opset=20, rtol=0, atol=0, check=False)


class PaperChild:
    """Stands for the worker: a candidate takes as many milliseconds as its label says, times what the machine is worth now."""

    made: list[PaperChild]
    speed = 1.0

    def __init__(self, name: str, function: str, arguments: Mapping[str, Any], *, log: Path) -> None:
        json.dumps(arguments)
        assert function == "accel.probing:open_probe"
        self.arguments = arguments
        self.compiled: list[tuple[str, Path]] = []
        self.operators: list[set[str]] = []
        self.turns: list[int] = []
        self.groups: list[int] = []
        self.closed = False
        PaperChild.made.append(self)

    def result(self, *, timeout_s: float) -> None:
        return None

    def call(self, method: str, *, timeout_s: float, **arguments: Any) -> Any:
        json.dumps(arguments)
        if method == "compile":
            path = Path(arguments["path"])
            self.compiled.append((arguments["label"], path))
            self.operators.append({node.op_type for node in load(path).graph.node})
            return self._ms(len(self.compiled) - 1)
        if method == "turn":
            self.turns.append(arguments["candidate"])
            return self._ms(len(self.compiled) - self.held() + arguments["candidate"]) * self.speed
        assert method == "forget"
        self.groups.append(self.held())
        return None

    def held(self) -> int:
        return len(self.compiled) - sum(self.groups)

    def _ms(self, place: int) -> float:
        return float(self.compiled[place][0].split()[1])

    def __enter__(self) -> PaperChild:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> type[PaperChild]:
    PaperChild.made = []
    monkeypatch.setattr(probe, "Worker", PaperChild)
    return PaperChild


def test_candidates_take_turns_in_shuffled_order_and_files_go(paper: type[PaperChild], file: OnnxModel, tmp_path: Path) -> None:
    found = prober(tmp_path, seconds=2.0).latencies_ms([file] * 5)
    (child,) = paper.made
    assert found == [1.0, 2.0, 3.0, 4.0, 5.0] and child.closed
    rounds = [child.turns[start : start + 5] for start in range(0, len(child.turns), 5)]
    assert len(rounds) == ROUNDS and all(sorted(order) == [0, 1, 2, 3, 4] for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert not list(tmp_path.iterdir()) and file.path.exists()


def test_groups_share_their_first_candidate_which_takes_the_machines_drift_out(
    paper: type[PaperChild], file: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TOGETHER", 3)
    original = paper.call

    def slower_each_group(self: PaperChild, method: str, **arguments: Any) -> Any:
        self.speed = 1.0 + len(self.groups)
        return original(self, method, **arguments)

    monkeypatch.setattr(paper, "call", slower_each_group)
    found = prober(tmp_path).latencies_ms([file] * 6)
    (child,) = paper.made
    assert child.groups == [3, 3, 2]
    assert [label.split()[1] for label, _ in child.compiled] == ["1", "2", "3", "1", "4", "5", "1", "6"]
    assert found == pytest.approx([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_large_files_are_not_held_together(
    paper: type[PaperChild], file: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "TOGETHER_BYTES", 1)
    assert prober(tmp_path).latencies_ms([file] * 3) == [1.0, 2.0, 3.0]
    assert paper.made[0].groups == [2, 2]


def test_slow_candidates_get_fewer_rounds_and_no_more_than_their_time(tmp_path: Path) -> None:
    plan = prober(tmp_path, seconds=1.0)._plan
    rounds, turns = plan({0: 0.1, 1: 1.0})
    assert rounds == ROUNDS
    assert all(turn["discard"] == 3 and 0.1 < turn["duration_s"] <= 1.0 / ROUNDS for turn in turns.values())
    rounds, turns = plan({0: 0.1, 1: 400.0})
    assert rounds == FEWEST_ROUNDS and turns[1]["discard"] == 1
    assert turns[1]["duration_s"] == 0.0 and turns[0]["duration_s"] > 0.3  # one timed inference ends a turn of no duration


def test_int8_is_quantized_on_a_handful_of_samples_for_timing(paper: type[PaperChild], file: OnnxModel, tmp_path: Path) -> None:
    data = Data(400)
    made = prober(tmp_path, precision="int8", task=data)
    made.latencies_ms([file, network(8)])
    made.latencies_ms([file], "fp32")
    assert all("QuantizeLinear" in operators for operators in paper.made[0].operators)
    assert all("QuantizeLinear" not in operators for operators in paper.made[1].operators)
    assert data.read == CALIBRATION_SAMPLES


def test_without_data_or_with_little_noise_and_repeats_will_do(
    paper: type[PaperChild], file: OnnxModel, tmp_path: Path
) -> None:
    prober(tmp_path, precision="int8").latencies_ms([file])
    prober(tmp_path, precision="int8", task=Data(3)).latencies_ms([file])
    assert all("QuantizeLinear" in operators for child in paper.made for operators in child.operators)


def test_a_file_that_is_quantized_already_is_timed_as_it_is(paper: type[PaperChild], file: OnnxModel, tmp_path: Path) -> None:
    made = prober(tmp_path)
    (tmp_path / "quantized").mkdir()
    quantized = made._file(file, "int8", tmp_path / "quantized")
    made.latencies_ms([quantized], "int8")
    assert paper.made[0].compiled[0][1] == quantized.path


def test_data_that_do_not_fit_and_modules_that_cannot_be_exported_name_the_candidate(file: OnnxModel, tmp_path: Path) -> None:
    with pytest.raises(DataFault, match=r"candidate 1 of 1: .*shape"):
        prober(tmp_path, precision="int8", task=Data(20, (3, 8, 8))).latencies_ms([file])

    class Deciding(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    broken = TorchModel(module=Deciding(), signature=network(4).signature)
    with pytest.raises(PassFault, match=r"candidate 2 of 2: export_onnx: .*values of a tensor"):
        prober(tmp_path).latencies_ms([file, broken])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["compile", "turn"])
@pytest.mark.parametrize("kind", [BackendFault, WorkerFault])
def test_a_candidate_that_fails_in_the_child_is_named(
    paper: type[PaperChild],
    file: OnnxModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    kind: type[Exception],
) -> None:
    original = paper.call

    def failing(self: PaperChild, asked: str, **arguments: Any) -> Any:
        second = len(self.compiled) == 1 if asked == "compile" else arguments.get("candidate") == 1
        if asked == method and second:
            raise kind("no kernel for Frob")
        return original(self, asked, **arguments)

    monkeypatch.setattr(paper, "call", failing)
    with pytest.raises(PassFault, match=r"candidate 2 of 3 cannot .* onnxruntime: no kernel for Frob"):
        prober(tmp_path).latencies_ms([file] * 3)
    assert paper.made[0].closed and not list(tmp_path.iterdir())


def test_what_a_timing_depends_on_is_told_and_its_name_is_not_part_of_it(tmp_path: Path) -> None:
    def told(**settings: Any) -> str:
        sample = Sample(None, settings.pop("batch", 1), 0)
        return json.dumps(TargetProbe(Target(**settings), folder=tmp_path, sample=sample).identity, sort_keys=True)

    same = told(name="a", backend="onnxruntime")
    assert same == told(name="b", backend="onnxruntime", optional=True)
    others = {
        told(name="a", backend="openvino"),
        told(name="a", backend="onnxruntime", threads=2),
        told(name="a", backend="onnxruntime", batch=8),
        told(name="a", backend="onnxruntime", options={"graph_optimization_level": "basic"}),
    }
    assert len(others) == 4 and same not in others
    assert "onnxruntime" in json.loads(same)["libraries"]


def test_eager_pytorch_has_no_candidates_to_time(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="timed as ONNX files, and eager runs none"):
        prober(tmp_path, "eager")


def test_nothing_to_time_starts_no_child(paper: type[PaperChild], tmp_path: Path) -> None:
    assert prober(tmp_path).latencies_ms([]) == [] and not paper.made


def test_a_larger_network_takes_longer_and_a_twin_as_long(tmp_path: Path) -> None:
    first, slow, twin = prober(tmp_path, seconds=0.3, lock=tmp_path / "timing.lock").latencies_ms(
        [network(8), network(128), network(8)]
    )
    assert 0 < first < 0.7 * slow
    assert twin == pytest.approx(first, rel=0.3)


def test_a_child_that_cannot_load_a_file_says_which_candidate(file: OnnxModel, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    place = damaged / "model.onnx"
    place.write_bytes(file.path.read_bytes().replace(b"Conv", b"Cnov"))
    with pytest.raises(PassFault, match=r"candidate 2 of 2 cannot be compiled for onnxruntime: .*Cnov"):
        prober(tmp_path).latencies_ms([read(file.path), OnnxModel(path=place, signature=file.signature)])


# -- judging ---------------------------------------------------------------------------------------------------------------


def run_here(file: OnnxModel, inputs: np.ndarray[Any, Any]) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file.path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})[0]


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_candidates_answer_from_the_target_any_number_of_samples_at_a_time(
    file: OnnxModel, tmp_path: Path, backend: str
) -> None:
    made = prober(tmp_path, backend, sample=Sample(None, 4, 0))
    images = Data(10).images
    with made.compiling() as compiled:
        for _ in range(2):
            with compiled(file) as predict:
                (found,) = predict({"x": images, "labels": np.zeros(10)})
                assert found.shape == (10, 4, 22, 22)
                np.testing.assert_allclose(np.asarray(found, np.float32), run_here(file, images), rtol=1e-3, atol=1e-4)
                with pytest.raises(DataFault, match="batches hold y, but the model takes x too"):
                    predict({"y": images})
        (child,) = [path for path in next(tmp_path.iterdir()).iterdir() if path.name.startswith("child-")]
        assert not list((child / "child").glob("shipped-*")), "what was deployed for a candidate goes with it"
        with compiled(network(4)) as predict:
            assert len(predict({"x": images[:3]})[0]) == 3, "a module is exported"
    assert not list(tmp_path.iterdir()) and file.path.exists()


def test_a_candidate_that_cannot_be_compiled_is_no_end_and_a_dead_child_is_started_again(
    file: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Child:
        started = 0
        closed = 0

        def __init__(self, name: str, function: str, arguments: Mapping[str, Any], *, log: Path) -> None:
            Child.started += 1
            self.compiled = 0

        def result(self, *, timeout_s: float) -> None:
            return None

        def close(self) -> None:
            Child.closed += 1

        def call(self, method: str, *, timeout_s: float, **arguments: Any) -> Any:
            json.dumps(arguments)
            if method == "compile":
                self.compiled += 1
                if Child.started == 1:
                    raise BackendFault("no kernel for Frob") if self.compiled == 1 else WorkerFault("was ended by SIGSEGV")
            if method == "answer":
                np.savez(arguments["outputs"], np.ones(2))
            return None

    monkeypatch.setattr(probe, "Worker", Child)
    with prober(tmp_path).compiling() as compiled:
        assert Child.started == 0, "a child is started for the first candidate only"
        with pytest.raises(PassFault, match="the candidate cannot be compiled for onnxruntime: no kernel for Frob"):
            compiled(file).__enter__()
        assert (Child.started, Child.closed) == (1, 0)
        with pytest.raises(PassFault, match="was ended by SIGSEGV"):
            compiled(file).__enter__()
        assert (Child.started, Child.closed) == (1, 1)
        with compiled(file) as predict:
            assert np.array_equal(predict({"x": np.zeros(2)})[0], np.ones(2))
        assert (Child.started, Child.closed) == (2, 1)
    assert Child.closed == 2 and not list(tmp_path.iterdir())
