"""TensorRT engines without a GPU: built for GPUs that are elsewhere, in every precision, and said to be so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from accel import engine_file
from accel.accelerate import nvidia_device
from accel.pipeline import optimize
from accel.report import Report, Row

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT.parent / "shared" / "models"

pytestmark = [
    pytest.mark.skipif(find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
    pytest.mark.skipif(nvidia_device.problem() is None, reason="there is a GPU here, and these say what happens without"),
]

CAPABILITIES = ["8.6", "8.9", "12.0"]
NETWORKS = {
    "digits": ("digits_network.py:digits_network", [1, 28, 28], ROOT / "recipes" / "digits_network.safetensors"),
    "resnet20": ("cifar10_resnet.py:resnet20", [3, 32, 32], MODELS / "cifar10_resnet20_jpegft.safetensors"),
    "efficientnet": ("efficientnet_lite0.py:efficientnet_lite0", [3, 224, 224], MODELS / "efficientnet_lite0.safetensors"),
}
PASSES = {
    "fp32": "{type: simplify, allow_noop: true}",
    "fp16": "{type: cast, dtype: fp16, calibration: {num_samples: 8}}",
    "int8": "{type: quantize, approach: static, calibration: {num_samples: 8}}",
}
RECIPE = """\
version: 1
name: {name}
model:
  factory: {factory}
  inputs:
    - {{name: image, shape: [batch, {shape}], dynamic: {{batch: {{min: 1, opt: 8, max: 32}}}}}}
task: {{type: image_classification, preprocess: {{color: {color}}}}}
data:
  calibration: {{arrays: {{path: noise.npz}}}}
passes: [{{type: export_onnx}}, {passes}]
targets:
  - {{name: rtx, backend: tensorrt, options: {{library: tensorrt-rtx, compute_capabilities: {capabilities}}}}}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory, store: Path) -> Callable[[str, str], tuple[Report, Path]]:
    """Builds one network in one precision; the folder of its target."""

    def build(network: str, precision: str) -> tuple[Report, Path]:
        folder = tmp_path_factory.mktemp(f"{network}_{precision}")
        factory, shape, weights = NETWORKS[network]
        shutil.copy(ROOT / "recipes" / factory.partition(":")[0], folder)
        images = np.random.default_rng(0).integers(0, 255, (8, *shape[1:], shape[0]), dtype=np.uint8)
        np.savez(folder / "noise.npz", inputs=images if shape[0] == 3 else images[..., 0], labels=np.arange(8))
        recipe = folder / "recipe.yaml"
        recipe.write_text(
            RECIPE.format(
                name=f"{network}_{precision}",
                factory=factory,
                shape=", ".join(map(str, shape)),
                color="rgb" if shape[0] == 3 else "gray",
                passes=PASSES[precision],
                capabilities=json.dumps(CAPABILITIES),
            )
        )
        overrides = [f"model.weights={weights}"] if weights.is_file() else []
        report = optimize(recipe, overrides, cache_dir=store, output_dir=folder / "out", benchmark=False)
        return report, folder / "out" / report.name / "targets" / "rtx"

    return build


def result(report: Report) -> Row:
    return next(row for row in report.rows if row.role == "result")


@pytest.mark.slow
@pytest.mark.parametrize("precision", list(PASSES))
@pytest.mark.parametrize("network", list(NETWORKS))
def test_each_network_builds_in_each_precision(
    engines: Callable[[str, str], tuple[Report, Path]], network: str, precision: str
) -> None:
    report, folder = engines(network, precision)
    manifest = engine_file.read(folder / "model.engine")
    assert manifest.compute_capabilities == CAPABILITIES
    assert manifest.library == "tensorrt-rtx"
    assert manifest.gpu is None
    assert manifest.engine_bytes == (folder / "model.engine").stat().st_size > 10_000
    layers = manifest.layers
    if precision == "int8":  # every Conv and MatMul: no float one is left, and each has Q/DQ on both inputs
        assert layers.quantized_operators > 8
        assert layers.int8_typed == layers.quantized_operators
    else:
        assert layers.quantized_operators == 0
        assert set(layers.float_types) == {precision}
        assert layers.float_types[precision] > 8
    row = result(report)
    assert row.status == "built"
    assert (row.reason or "").startswith("built, not run: no GPU")
    assert row.compile_s is not None
    assert row.compile_s > 0
    assert row.size_bytes is not None
    assert row.size_bytes >= manifest.engine_bytes
    assert any("8.6, 8.9, 12.0" in note for note in row.notes)


def add_target(project: Project, **options: Any) -> None:
    """A TensorRT target beside the two for CPUs."""
    text = project.recipe.read_text()
    target = f"  - {{name: trt, backend: tensorrt, {', '.join(f'{key}: {value}' for key, value in options.items())}}}\n"
    text = text.replace("benchmark: {", f"{target}benchmark: {{")
    text = text.replace("dtype: float32}", "dtype: float32, dynamic: {batch: {min: 1, opt: 2, max: 8}}}")
    project.recipe.write_text(text)


@pytest.mark.slow
def test_the_other_target_is_measured_and_the_engine_is_not(project: Project, typed: Typed) -> None:
    add_target(project, options="{library: tensorrt-rtx, compute_capabilities: ['8.9']}")
    project.rewrite("  - {name: ov, backend: openvino}\n", "")  # each row takes its time
    project.rewrite("min_duration_s: 0.5, min_iterations: 50", "min_duration_s: 0.1, min_iterations: 10")
    done = typed("optimize", "recipe.yaml")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads((project.out / "report.json").read_text())["rows"]}
    assert {name: row["status"] for name, row in rows.items() if row["role"] == "result"} == {
        "ort": "measured",
        "trt": "built",
    }
    assert rows["trt fp32 baseline"]["reason"].startswith("built, not run: no GPU")
    assert rows["trt"]["latency"] is None
    assert rows["trt"]["speedups"] == []
    assert "built, not run: no GPU" in done.out
    assert "built, not run: no GPU" in (project.out / "report.md").read_text()
    assert (project.out / "targets" / "trt" / "engine.json").is_file()
    assert json.loads((project.out / "targets" / "trt" / "manifest.json").read_text())["main_file"] == "model.engine"


def test_a_target_that_needs_the_gpu_is_skipped_where_it_is_optional(project: Project, typed: Typed) -> None:
    add_target(project, optional="true")
    done = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in json.loads((project.out / "report.json").read_text())["rows"]}
    assert rows["trt"]["status"] == "skipped"
    assert "compute_capabilities" in rows["trt"]["reason"]
    assert rows["ort"]["status"] == rows["ov"]["status"] == "built"


def test_a_target_that_needs_the_gpu_ends_the_run_where_it_is_not(project: Project, typed: Typed) -> None:
    add_target(project)
    typed("optimize", "recipe.yaml", "--no-benchmark").refused(
        3, "target trt: ", "GPU", "compute_capabilities", "optional: true"
    )
    assert not project.out.exists()


def test_plan_and_doctor_say_so_in_a_sentence(project: Project, typed: Typed) -> None:
    add_target(project, options="{library: tensorrt-rtx, compute_capabilities: ['8.9']}")
    planned = typed("plan", "recipe.yaml")
    assert planned.code == 0, planned.err
    assert "ships model.engine and engine.json, built, not run: no GPU" in planned.out
    project.rewrite("options: {library: tensorrt-rtx, compute_capabilities: ['8.9']}", "optional: true")
    assert "skipped: " in typed("plan", "recipe.yaml").out
    told = typed("doctor").out
    line = next(line for line in told.splitlines() if line.startswith("tensorrt"))
    assert "not on gpu" in line
    assert line.count("GPU") >= 1


def test_a_second_run_builds_no_engine(project: Project, typed: Typed) -> None:
    add_target(project, options="{library: tensorrt-rtx, compute_capabilities: ['8.9']}")
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 0
    first = project.published()
    again = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert again.code == 0
    assert "trt: files for tensorrt: reused" in again.err
    assert project.published()["targets/trt/model.engine"] == first["targets/trt/model.engine"]


def test_an_axis_without_a_range_is_named_before_anything_is_built(project: Project, typed: Typed) -> None:
    add_target(project, options="{library: tensorrt-rtx, compute_capabilities: ['8.9']}")
    project.rewrite(", dynamic: {batch: {min: 1, opt: 2, max: 8}}", "")
    done = typed("optimize", "recipe.yaml", "--no-benchmark")
    done.refused(2, "recipe.yaml:9:7: ", "the axis 'batch' varies", "target trt", "dynamic: {batch: {min: 1, opt: 1, max: 32}}")
    assert not project.cache.exists() or not list(project.cache.rglob("steps/*"))
