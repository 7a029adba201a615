"""`cast` through the whole tool: what each target gets, what it says that it runs, and how close it stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from accel import engine_file
from accel.accelerate.onnxruntime_optimizers import NOTE
from accel.imports import ImportPolicy
from accel.model import Target
from accel.recipe.reader import read
from accel.serving import Session
from accel.timed_inputs import Sample

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

RTX = find_spec("tensorrt_rtx") is not None
NEEDS_RTX = pytest.mark.skipif(not RTX, reason="tensorrt_rtx is not installed")
ENGINE = "  - {name: trt, backend: tensorrt, options: {library: tensorrt-rtx, compute_capabilities: ['8.9']}}\n"
EXPORT = "  - {type: export_onnx}\n"
INT8 = "  - {type: quantize, approach: static}\n"
HALF = "  - {type: cast, dtype: fp16}\n"
NO_KERNEL = "set dtype: fp16 in the cast pass, or choose another target"


def with_passes(project: Project, passes: str) -> Project:
    """Its recipe with other passes, for both runtimes on the CPU and for TensorRT where that is installed."""
    text = project.recipe.read_text()
    old = text[text.index("  - type: export_onnx") : text.index("targets:")]
    text = text.replace(old, passes)
    text = text.replace("dtype: float32}", "dtype: float32, dynamic: {batch: {min: 1, opt: 2, max: 8}}}")
    text = text.replace("min_duration_s: 0.5, min_iterations: 50", "min_duration_s: 0.01")
    project.recipe.write_text(text.replace("benchmark: {", f"{ENGINE if RTX else ''}benchmark: {{"))
    return project


@dataclass(frozen=True)
class Built:
    """A project whose recipe has run without measuring."""

    project: Project

    def target(self, name: str) -> Path:
        return self.project.out / "targets" / name

    def rows(self) -> dict[str, dict[str, Any]]:
        return rows(self.project)

    def scored(self, name: str, backend: str) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Outputs over the validation data of what a target ships, and what was executed."""
        return scored(self.project, Target(name, backend), {"kind": "onnx", "path": str(self.target(name) / "model.onnx")})


def rows(project: Project) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in json.loads((project.out / "report.json").read_text())["rows"]}


def scored(project: Project, target: Target, model: Mapping[str, Any]) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """As a run measures a row, but for the timing."""
    folder = project.folder / f"session {target.name}"
    folder.mkdir(exist_ok=True)
    session = Session(
        lambda event: None,
        lambda: read(project.recipe),
        ImportPolicy(project.folder),
        target,
        model,
        folder,
        Sample(None, 2, 0),
    )
    session.compile()
    score = session.score()
    assert score["samples"] == 64
    return np.asarray(np.load(score["outputs"][0]), np.float64), session.precision()


def decibels(wanted: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    return float(10 * np.log10((wanted**2).sum() / ((found - wanted) ** 2).sum()))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, new_project: Callable[[Path], Project]) -> Callable[[str], Built]:
    """Runs the passes once, without measuring."""
    kept: dict[str, Built] = {}

    def run(passes: str) -> Built:
        if passes not in kept:
            project = with_passes(new_project(tmp_path_factory.mktemp("cast") / "a project"), passes)
            done = project.accel("optimize", "recipe.yaml", "--no-benchmark")
            assert done.returncode == 0, done.stderr
            kept[passes] = Built(project)
        return kept[passes]

    return run


@pytest.fixture(scope="module")
def exact(built: Callable[[str], Built]) -> NDArray[np.float64]:
    """What the untouched module gives over the validation data."""
    return scored(built(EXPORT + HALF).project, Target("eager", "eager"), {"kind": "torch"})[0]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_fp16_stays_close_and_what_ran_is_told(
    built: Callable[[str], Built], exact: NDArray[np.float64], name: str, backend: str
) -> None:
    made = built(EXPORT + HALF)
    weights = {weight.data_type for weight in onnx.load(made.target(name) / "model.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in weights and onnx.TensorProto.FLOAT not in weights
    assert made.rows()[name]["size_bytes"] < 0.6 * made.rows()[f"{name} fp32 baseline"]["size_bytes"]
    outputs, ran = made.scored(name, backend)
    assert decibels(exact, outputs) > 60
    assert (outputs.argmax(1) == exact.argmax(1)).all()
    assert ran["float_precision"] == "fp32"  # the file is in FP16; what multiplies on a CPU is not
    assert any("in fp16 ran in fp32" in note for note in ran["notes"]) is (name == "ort")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_int8_and_fp16_together_stay_as_close_as_int8(
    built: Callable[[str], Built], exact: NDArray[np.float64], name: str, backend: str
) -> None:
    alone, _ = built(EXPORT + INT8).scored(name, backend)
    made = built(EXPORT + INT8 + HALF)
    outputs, ran = made.scored(name, backend)
    assert decibels(exact, outputs) > min(decibels(exact, alone) - 3, 30)
    assert ran["quantized_operators"] >= 3
    if name == "ort":  # with scales in FP16 it fuses nothing: that is said, and that an optimizer is off
        assert ran["int8_operators"] == 0 and NOTE in ran["notes"]
        assert any("quantized operators did not run in INT8" in note for note in ran["notes"])
        script = (made.project.out / "report.md").read_text()
        assert "disabled_optimizers=['MatMulAddFusion', 'WeightBiasQuantization']" in script


@pytest.mark.slow
@pytest.mark.parametrize(("name", "backend"), [("ort", "onnxruntime"), ("ov", "openvino")])
def test_a_model_that_takes_float16_is_fed_so(
    built: Callable[[str], Built], exact: NDArray[np.float64], name: str, backend: str
) -> None:
    made = built(f"{EXPORT}  - {{type: cast, keep_io_types: false}}\n")
    manifest = json.loads((made.target(name) / "manifest.json").read_text())
    assert [entry["dtype"] for entry in (*manifest["inputs"], *manifest["outputs"])] == ["float16", "float16"]
    outputs, _ = made.scored(name, backend)
    assert decibels(exact, outputs) > 50
    assert "Cast" not in {node.op_type for node in onnx.load(made.target(name) / "model.onnx").graph.node}


@NEEDS_RTX
@pytest.mark.slow
@pytest.mark.parametrize(("passes", "floats"), [(HALF, {"fp16": 4}), (INT8 + HALF, None)])
def test_the_engine_is_typed_as_the_graph_says(
    built: Callable[[str], Built], passes: str, floats: dict[str, int] | None
) -> None:
    made = built(EXPORT + passes)
    layers = engine_file.read(made.target("trt") / "model.engine").layers
    if floats is not None:
        assert layers.float_types == floats and layers.quantized_operators == 0
    else:
        assert layers.quantized_operators == layers.int8_typed == 4
    assert made.rows()["trt"]["status"] == "built"


@pytest.mark.slow
def test_a_second_run_reuses_all_steps_and_plan_knows_it(built: Callable[[str], Built]) -> None:
    made = built(EXPORT + INT8 + HALF)
    before = made.project.published()
    again = made.project.accel("optimize", "recipe.yaml", "--no-benchmark")
    assert again.returncode == 0, again.stderr
    steps = [line for line in again.stderr.splitlines() if line.startswith(("ort: ", "ov: ", "trt: "))]
    assert len(steps) >= 10 and all(line.endswith(": reused") for line in steps), steps
    models = {name: digest for name, digest in before.items() if name.endswith((".onnx", ".engine"))}
    assert models.items() <= made.project.published().items()
    plan = made.project.accel("plan", "recipe.yaml")
    assert plan.returncode == 0, plan.stderr
    assert "3. cast" in plan.stdout and "to run" not in plan.stdout


@pytest.mark.slow
def test_bf16_is_measured_where_it_runs_and_refused_in_a_sentence_where_not(project: Project) -> None:
    with_passes(project, f"{EXPORT}  - {{type: cast, dtype: bf16}}\n")
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 4, done.stderr
    found = rows(project)
    assert found["ort"]["status"] == "failed"
    assert found["ort"]["reason"].startswith("model.onnx, node stem/Conv: onnxruntime cannot compile it: ")
    assert "the node is in bf16" in found["ort"]["reason"] and NO_KERNEL in found["ort"]["reason"]
    assert NO_KERNEL in done.stderr and "Traceback" not in done.stderr
    assert found["ov"]["status"] == "measured" and found["ov"]["latency"]["p50_ms"] > 0
    fidelity = found["ov"]["fidelity"]
    assert 35 < fidelity["sqnr_db"] < 70 and fidelity["top1_agreement"] > 0.95
    assert found["ov"]["precision"]["float_precision"] in ("fp32", "bf16")
    if RTX:
        assert found["trt"]["status"] == "built"
        assert engine_file.read(project.out / "targets" / "trt" / "model.engine").layers.float_types == {"bf16": 4}
