"""A whole run through the command a user types."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jsonschema
import onnx
import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

from accel.benchmarks.manifest import read as read_manifest
from accel.benchmarks.markdown import render
from accel.report import Report


@pytest.fixture(scope="module")
def report(measured: Project) -> Report:
    return Report.model_validate_json((measured.out / "report.json").read_bytes())


def test_json_on_standard_output_is_one_valid_document_whatever_user_code_prints(measured: Project) -> None:
    printed = (measured.folder / "stdout.json").read_text()
    assert json.loads(printed) == json.loads((measured.out / "report.json").read_text())
    assert "NaN" not in printed
    assert "Infinity" not in printed


def test_a_row_for_eager_and_two_for_each_target(report: Report) -> None:
    assert [(row.name, row.role, row.status) for row in report.rows] == [
        ("eager fp32", "reference", "measured"),
        ("ort fp32 baseline", "baseline", "measured"),
        ("ort", "result", "measured"),
        ("ov fp32 baseline", "baseline", "measured"),
        ("ov", "result", "measured"),
    ]


def test_every_row_is_measured_in_full(report: Report) -> None:
    for row in report.rows:
        assert row.latency is not None, row.name
        assert row.latency.restarts >= 5
        assert row.latency.queries >= 50
        assert row.metrics[0].name == "top1"
        assert row.metrics[0].n == 64
        assert row.compile_s is not None, row.name
        assert row.first_inference_ms is not None, row.name
        assert row.peak_memory_bytes is not None, row.name
        assert row.peak_memory_bytes > 2**20
        assert row.precision is not None, row.name
        if row.role != "reference":
            assert row.fidelity is not None, row.name
            assert row.fidelity.vs == "eager fp32"
            assert row.metrics[0].difference is not None, row.name
            assert row.size_bytes == sum(file.bytes for file in row.files)
            assert row.gzip_bytes is not None, row.name
            assert 0 < row.gzip_bytes <= row.size_bytes + 64


def test_baselines_are_really_fp32_and_results_really_int8(report: Report) -> None:
    for row in report.rows:
        assert row.precision is not None
        assert row.precision.float_precision == "fp32", row.name
        if row.role == "result":
            assert row.precision.quantized_operators == row.precision.int8_operators == 4, row.name
        else:
            assert row.precision.int8_operators == 0, row.name


def test_a_baseline_has_the_outputs_of_eager(report: Report) -> None:
    for row in report.rows:
        if row.role == "baseline":
            assert row.fidelity is not None
            assert row.fidelity.max_abs_difference < 1e-4
            assert row.fidelity.top1_agreement == 1.0


def test_a_result_is_compared_with_every_row_it_could_be(report: Report) -> None:
    (row,) = [row for row in report.rows if row.name == "ov"]
    assert {speedup.vs for speedup in row.speedups} == {"eager fp32", "ort fp32 baseline", "ov fp32 baseline"}
    for speedup in row.speedups:
        assert speedup.ratio.low is not None
        assert speedup.ratio.high is not None
        assert speedup.ratio.low <= speedup.ratio.value <= speedup.ratio.high


def test_the_noise_was_measured(report: Report) -> None:
    assert report.noise is not None
    assert 0.5 < report.noise.ratio.value < 2.0


def test_markdown_is_rendered_from_the_json(measured: Project, report: Report) -> None:
    assert (measured.out / "report.md").read_text(encoding="utf-8") == render(report)
    assert measured.accel("report", "out/small").stdout == render(report)
    prose = re.sub(r"^```.*?^```$", "", render(report), flags=re.MULTILINE | re.DOTALL)  # code is shown as it is
    assert "<b>bold" not in prose


def test_manifest_names_every_file_that_ships(measured: Project) -> None:
    for target in ("ort", "ov"):
        folder = measured.out / "targets" / target
        manifest = read_manifest(folder / "manifest.json")
        assert manifest.version == "1.2"
        assert manifest.author == "A Person"
        assert manifest.description == "four kinds of noise"
        assert manifest.classes == ["circle", "square", "<b>bold</b>", "star"]
        assert manifest.preprocessing is not None
        assert [spec.model_dump() for spec in manifest.inputs] == [
            {"name": "image", "shape": ["batch", 3, 24, 24], "dtype": "float32"}
        ]
        assert [step.name.partition("/")[0] for step in manifest.steps] == ["export_onnx", "simplify", "quantize"]
        shipped = {path.name for path in folder.iterdir()} - {"manifest.json"}
        assert {file.path for file in manifest.files} == shipped
        for file in manifest.files:
            assert hashlib.sha256((folder / file.path).read_bytes()).hexdigest() == file.sha256


def test_the_shipped_onnx_is_sound_and_names_no_place_of_this_machine(measured: Project) -> None:
    for target in ("ort", "ov"):
        path = measured.out / "targets" / target / "model.onnx"
        onnx.checker.check_model(str(path), full_check=True)
        content = path.read_bytes()
        assert str(Path.home()).encode() not in content
        assert str(measured.folder).encode() not in content
        assert b"site-packages" not in content


def test_the_deployment_script_runs_with_the_bare_runtime(measured: Project, report: Report, tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    picture = tmp_path / "picture.png"
    with np.load(measured.folder / "images.npz") as stored:
        Image.fromarray(stored["inputs"][40]).save(picture)
    for target in ("ort", "ov"):
        script = measured.out / "targets" / target / "run_for_test.py"
        script.write_text(report.deployment[target], encoding="utf-8")
        try:
            done = subprocess.run([sys.executable, "-I", str(script), str(picture)], capture_output=True, text=True)
        finally:
            script.unlink()
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[0].split("\t")[0] in ("circle", "square", "<b>bold</b>", "star")


def test_the_reports_fit_their_schemas(measured: Project) -> None:
    for of, files in {
        "report": [measured.out / "report.json"],
        "manifest": list(measured.out.glob("targets/*/manifest.json")),
    }.items():
        schema = json.loads(measured.accel("schema", of).stdout)
        assert files
        for file in files:
            jsonschema.validate(json.loads(file.read_text()), schema)


def test_the_resolved_recipe_gives_the_same_run(measured: Project) -> None:
    again = measured.folder / "again.yaml"
    again.write_text((measured.out / "recipe.resolved.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    planned = json.loads(measured.accel("plan", "again.yaml", "--json").stdout)
    assert {step["state"] for target in planned["targets"] for step in target["steps"]} == {"cached"}


def test_a_second_run_reuses_every_step_and_is_quick(measured: Project) -> None:
    began = time.monotonic()
    done = measured.accel("optimize", "recipe.yaml", "--no-benchmark", "--json", "--output", "second")
    assert time.monotonic() - began < 15  # the promise is 5 s on a quiet machine; here other tests run beside
    steps = json.loads(done.stdout)["steps"]
    assert len(steps) == 6
    assert all(step["cached"] for step in steps)
    first, second = (measured.folder / place for place in ("out", "second"))
    for target in ("ort", "ov"):
        place = Path("small") / "targets" / target / "model.onnx"
        assert (first / place).read_bytes() == (second / place).read_bytes()


def test_two_targets_share_the_steps_before_they_differ(measured: Project, report: Report) -> None:
    keys = {(step.target, step.name): step.key for step in report.steps}
    assert keys["ort", "export_onnx"] == keys["ov", "export_onnx"]
    assert keys["ort", "simplify"] == keys["ov", "simplify"]
    assert keys["ort", "quantize/static/onnxruntime"] != keys["ov", "quantize/static/nncf"]


@pytest.mark.parametrize(
    ("old", "new", "again"),
    [
        ("method: minmax", "method: percentile", ["quantize"]),
        ("seed: 3", "seed: 4", ["export_onnx", "simplify", "quantize"]),
        ("num_samples: 32", "num_samples: 31", ["quantize"]),
        ("min_iterations: 50", "min_iterations: 51", []),
    ],
)
def test_a_change_reruns_what_it_reaches_and_no_more(
    finished: Project, new_project: Callable[[Path], Project], tmp_path: Path, old: str, new: str, again: list[str]
) -> None:
    project = new_project(tmp_path / "changed")
    project.rewrite("approach: static\n", "approach: static\n    calibration: {method: minmax}\n")
    base = [project.accel("plan", "recipe.yaml", "--json", "--cache-dir", str(finished.cache / "accel"))]
    project.rewrite(old, new)
    base.append(project.accel("plan", "recipe.yaml", "--json", "--cache-dir", str(finished.cache / "accel")))
    before, after = (json.loads(done.stdout)["targets"][0]["steps"] for done in base)
    assert [step["state"] for step in before] == ["cached"] * 3
    # By key: another test may have stored a step of the changed recipe in the same place.
    changed = [new_step for old_step, new_step in zip(before, after, strict=True) if new_step["key"] != old_step["key"]]
    assert [step["name"].partition("/")[0] for step in changed] == again


def test_plan_tells_missing_and_stored_steps(finished: Project, new_project: Callable[[Path], Project], tmp_path: Path) -> None:
    fresh = new_project(tmp_path / "fresh")
    planned = json.loads(fresh.accel("plan", "recipe.yaml", "--json").stdout)
    assert [step["state"] for step in planned["targets"][0]["steps"]] == ["to run", "known at run time", "known at run time"]
    stored = json.loads(finished.accel("plan", "recipe.yaml", "--json").stdout)
    assert {step["state"] for target in stored["targets"] for step in target["steps"]} == {"cached"}


def test_an_onnx_file_is_optimized_without_a_recipe(
    finished: Project, new_project: Callable[[Path], Project], tmp_path: Path
) -> None:
    project = new_project(tmp_path / "plain")
    finished_model = next((finished.cache / "accel" / "steps").glob("*/files/model.onnx"))
    exported = [
        path
        for path in (finished.cache / "accel" / "steps").glob("*/files/model.onnx")
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node)
    ]
    assert finished_model.exists()
    (project.folder / "model.onnx").write_bytes(exported[0].read_bytes())
    done = project.accel(
        "optimize", "model.onnx", "--data", "images.npz", "--target", "onnxruntime", "--target", "openvino", "--no-benchmark"
    )
    assert done.returncode == 0, done.stderr
    out = project.folder / "out" / "model"
    assert (out / "targets" / "onnxruntime" / "model.onnx").exists()
    assert (out / "targets" / "openvino" / "model.onnx").exists()
    assert "path: " in (out / "recipe.resolved.yaml").read_text()


def test_benchmark_compares_files_in_turn(measured: Project) -> None:
    done = measured.accel(
        "benchmark", "out/small/targets/ort/model.onnx", "--vs", "out/small/targets/ov/model.onnx",
        "--backend", "onnxruntime", "--duration", "0.3", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["role"] for row in rows] == ["result", "baseline"]
    assert rows[0]["speedups"][0]["vs"] == rows[1]["name"]
