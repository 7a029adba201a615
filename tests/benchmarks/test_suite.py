"""The suite's parts: what it runs where data are absent, its gates, its table, and the files of the libraries' own calls.

The whole of it is `benchmarks/suite.py --quick`, which CI runs by itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import suite
import suite_arms
import suite_table
from accel.benchmarks.gates import exit_code
from accel.machine import Environment
from accel.report import Estimate, Latency, Metric, Noise, Precision, Report, Row, Speedup, Verdict
from experiment import RECIPES
from shipped import SHIPPED

SETTINGS = {"batch_size": 1, "threads": 1, "queries": 500, "restarts": 5, "rounds": 5}
NAMES = {"ort": "ONNX Runtime FP32", "ort-int8": "ONNX Runtime INT8", "nncf-ov": "NNCF INT8 on OpenVINO"}


def row(name: str, *, p50_ms: float, drop: float | None = None, vs: dict[str, float] | None = None, **more: Any) -> Row:
    """``vs``: how many times faster than others; intervals are 1 % wide, that of ``drop`` a point."""
    difference = None if drop is None else Estimate(value=-drop, low=-drop - 0.005, high=-drop + 0.005)
    entries: dict[str, Any] = {
        "role": "baseline",
        "backend": "onnxruntime",
        "metrics": [Metric(name="top1", value=0.9 - (drop or 0), n=1000, difference=difference)],
        "latency": Latency(**SETTINGS, p50_ms=p50_ms, p90_ms=None, p99_ms=None, min_ms=p50_ms),
        "speedups": [
            Speedup(vs=other, ratio=Estimate(value=value, low=value * 0.995, high=value * 1.005))
            for other, value in (vs or {}).items()
        ],
        "size_bytes": 1000,
    }
    return Row(name=name, **(entries | more))


def report(*rows: Row) -> Report:
    return Report(
        accel_version="0",
        name="quickstart",
        created="2026-01-01T00:00:00+00:00",
        seed=0,
        recipe_sha256=None,
        verdict=Verdict(text="a verdict"),
        environment=Environment(
            platform="Linux", python="3.11", cpu="a CPU", isa_flags=[], cores=2, memory_bytes=1, libraries={"onnx": "1.0"}
        ),
        rows=list(rows),
        noise=Noise(row="accel, ort", ratio=Estimate(value=1.0, low=0.99, high=1.01), verdict="quiet"),
    )


def measured(*, slower: float = 1.0, drop: float = 0.0) -> Report:
    """``slower``: how many times the rival's latency accel's result takes."""
    int8 = Precision(float_precision="fp32", quantized_operators=9, int8_operators=9, operators={})
    mine = row(
        "accel, ort",
        p50_ms=0.5,
        drop=drop,
        vs={NAMES["ort"]: 2.0, NAMES["ort-int8"]: 1 / slower},
        role="result",
        target="ort",
        precision=int8,
    )
    return report(row(NAMES["ort"], p50_ms=1.0), row(NAMES["ort-int8"], p50_ms=0.5, drop=0.0, precision=int8), mine)


def test_recipes_without_their_data_are_skipped_with_the_path(tmp_path: Path) -> None:
    quickstart, resnet, _ = SHIPPED
    assert quickstart.missing(tmp_path) is None
    assert quickstart.words(tmp_path) == []
    assert "cifar10_jpeg.npz" in str(resnet.missing(tmp_path))
    for part in (resnet.weights, resnet.data):
        (tmp_path / str(part)).parent.mkdir(exist_ok=True)
        (tmp_path / str(part)).touch()
    assert resnet.missing(tmp_path) is None
    assert f"data.validation.arrays.path={tmp_path / str(resnet.data)}" in resnet.words(tmp_path)


def test_all_shipped_recipes_are_there() -> None:
    assert all((RECIPES / shipped.recipe).is_file() for shipped in SHIPPED)


@pytest.mark.parametrize(
    ("slower", "drop", "failed"),
    [(1.0, 0.0, []), (1.2, 0.004, []), (1.3, 0.0, ["latency_p50_ms"]), (1.0, 0.02, ["top1"]), (0.5, 0.0, [])],
)
def test_gates_hold_results_against_the_librarys_own_call(slower: float, drop: float, failed: list[str]) -> None:
    found = suite.gates(measured(slower=slower, drop=drop), NAMES)
    assert [gate.metric for gate in found if gate.failed] == failed
    assert exit_code(found) == {"": 0, "latency_p50_ms": 12, "top1": 11}["".join(failed)]
    if slower == 1.3:
        assert "against ONNX Runtime INT8" in found[0].text


def test_the_table_shows_every_row_and_what_it_rests_on() -> None:
    found = measured()
    hostile = Row(name="x|y", role="baseline", backend="openvino", status="failed", reason="a|b <script>\n::error::no")
    lines = suite_table.section(
        found.model_copy(update={"rows": [*found.rows, hostile]}), {"accel, ort": "accel optimize r.yaml"}
    )
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 4
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert "2.00x (CI 1.99 to 2.01)" in next(line for line in table if "**accel, ort**" in line)
    assert "<script>" not in "".join(lines)
    assert "\n::" not in "\n".join(lines)
    said = "\n".join(lines)
    assert "over 1,000 images" in said
    assert "5 fresh processes" in said
    assert "A/A pair (accel, ort against itself): 1.00x (CI 0.99 to 1.01), quiet" in said
    assert "a CPU, 2 cores" in suite_table.machine(found)


def test_what_is_unstable_is_not_a_number() -> None:
    found = measured()
    mine = found.rows[-1]
    assert mine.latency is not None
    shaky = mine.model_copy(
        update={
            "latency": mine.latency.model_copy(update={"unstable": "the machine was busy"}),
            "speedups": [speedup.model_copy(update={"unstable": "the machine was busy"}) for speedup in mine.speedups],
        }
    )
    lines = suite_table.section(found.model_copy(update={"rows": [*found.rows[:-1], shaky]}), {})
    line = next(line for line in lines if line.startswith("| **accel"))
    assert line.count("unstable") == 2
    assert "2.00x" not in line
    assert any("the machine was busy" in line for line in lines if line.startswith("* "))


@pytest.mark.slow
def test_the_libraries_make_their_files_and_one_that_fails_costs_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    torch = pytest.importorskip("torch")
    from accel.model import Signature, TensorSpec, TorchModel

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 4)).eval()
    signature = Signature(
        (TensorSpec("image", ("batch", 1, 8, 8), "float32"),), (TensorSpec("output", ("batch", 4), "float32"),)
    )
    generator = np.random.default_rng(0)
    samples = [{"image": generator.standard_normal((1, 1, 8, 8)).astype(np.float32)} for _ in range(4)]

    def broken(given: suite_arms.Given, path: Path) -> None:
        raise RuntimeError("no\nsuch operator")

    arms = tuple((arm, broken if arm.key == "ort-advised" else write) for arm, write in suite_arms.ARMS)
    monkeypatch.setattr(suite_arms, "ARMS", arms)
    wanted = ["eager", "ort", "ort-int8", "ort-advised"]
    made = suite_arms.make(TorchModel(module=module, signature=signature), samples, tmp_path, set(wanted))
    assert [arm.key for arm in made] == wanted
    assert [arm.reason for arm in made] == [None, None, None, "RuntimeError: no such operator"]
    import onnxruntime

    expected = module(torch.from_numpy(samples[0]["image"])).detach().numpy()
    for arm in made[1:3]:
        assert arm.file is not None
        session = onnxruntime.InferenceSession(str(tmp_path / arm.file), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, samples[0])[0], expected, atol=0.1)


def test_every_arm_has_a_name_and_a_file_of_its_own() -> None:
    arms = [arm for arm, _ in suite_arms.ARMS]
    files = [arm.file for arm in arms if arm.file is not None]
    assert len({arm.name for arm in arms}) == len(arms)
    assert len(set(files)) == len(files)
    assert tuple(arm.key for arm in arms) == suite.ALL_ARMS
    assert set(suite.QUICK_ARMS) < set(suite.ALL_ARMS)
    assert set(suite.RIVAL.values()) <= set(suite.QUICK_ARMS)
