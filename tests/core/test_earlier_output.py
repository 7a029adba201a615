"""Whose an output folder is, and which measurements a run without measuring keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accel.earlier_output import keeping_measurements, require_ours
from accel.errors import UsageError
from accel.machine import Environment
from accel.publishing import resolved_recipe
from accel.recipe.reader import from_document
from accel.recipe.settings import Recipe
from accel.report import File, Gate, Report, Row, Verdict


def report(seconds: float | None, recipe: str | None = "sub/other.yaml") -> Report:
    file = File(path="model.onnx", bytes=1, gzip_bytes=1, sha256="a" * 64)
    status = "built" if seconds is None else "measured"
    row = {"name": "ort", "role": "result", "backend": "onnxruntime", "status": status, "files": [file], "compile_s": seconds}
    machine = {"platform": "", "python": "", "cpu": "", "isa_flags": [], "cores": 1, "memory_bytes": 1, "libraries": {}}
    return Report(
        accel_version="0",
        name="small",
        created="2026-01-02T03:04:05+00:00",
        seed=0,
        recipe_sha256=None,
        verdict=Verdict(text=status),
        environment=Environment.model_validate(machine),
        rows=[Row.model_validate(row)],
        recipe=recipe,
    )


def read(tmp_path: Path, **more: object) -> Recipe:
    document = {"version": 1, "model": {"path": "m.onnx"}, "targets": [{"backend": "onnxruntime", "name": "ort"}], **more}
    return from_document(document, path=tmp_path / "small.yaml")


def publish(tmp_path: Path, found: Report, recipe: Recipe) -> Path:
    folder = tmp_path / "out" / "small"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(found.json_text())
    (folder / "recipe.resolved.yaml").write_text(resolved_recipe(recipe))
    return folder


@pytest.mark.parametrize("recipe", [None, "sub/other.yaml"])
def test_a_report_belongs_to_the_recipe_it_is_called_like_wherever_that_lies(tmp_path: Path, recipe: str | None) -> None:
    folder = publish(tmp_path, report(None, recipe), read(tmp_path))
    require_ours(folder, "small")
    with pytest.raises(UsageError, match="holds the output of recipe 'small', not of 'large'"):
        require_ours(folder, "large")


def test_a_manifest_belongs_to_the_recipe_it_names(tmp_path: Path) -> None:
    place = tmp_path / "out" / "targets" / "ort"
    place.mkdir(parents=True)
    (place / "manifest.json").write_text(json.dumps({"accel_version": "0", "recipe": "small", "name": "x"}))
    require_ours(tmp_path / "out", "small")


def test_measurements_of_the_same_files_by_the_same_recipe_are_kept_whatever_the_gates(tmp_path: Path) -> None:
    folder = publish(tmp_path, report(0.5), read(tmp_path, gates=[{"metric": "size", "max": 1}]))
    kept = keeping_measurements(report(None), read(tmp_path), folder)
    assert kept.rows[0].compile_s == 0.5
    assert kept.verdict.text == "measured"
    assert kept.notes[-1].startswith("measured in the run of 2026-01-02")
    gate = Gate(name="a", metric="size_bytes", kind="size", limit="", verdict="fail", failed=True, text="")
    judged = report(0.5).model_copy(update={"gates": [gate]})
    assert keeping_measurements(report(None), read(tmp_path), publish(tmp_path, judged, read(tmp_path))).gates == []


def test_an_optional_target_that_is_skipped_both_times_throws_no_measurements_away(tmp_path: Path) -> None:
    absent = Row(name="trt", role="result", backend="tensorrt", status="skipped", reason="no GPU")

    def with_absent(seconds: float | None) -> Report:
        found = report(seconds)
        return found.model_copy(update={"rows": [*found.rows, absent]})

    folder = publish(tmp_path, with_absent(0.5), read(tmp_path))
    assert keeping_measurements(with_absent(None), read(tmp_path), folder).rows[0].compile_s == 0.5
    here = [*report(None).rows, absent.model_copy(update={"status": "built", "reason": None})]
    assert (
        keeping_measurements(report(None).model_copy(update={"rows": here}), read(tmp_path), folder).rows[0].compile_s is None
    )


def test_measurements_by_another_recipe_are_not(tmp_path: Path) -> None:
    folder = publish(tmp_path, report(0.5), read(tmp_path, benchmark={"threads": 2}))
    assert keeping_measurements(report(None), read(tmp_path), folder).rows[0].compile_s is None
    assert keeping_measurements(report(None), read(tmp_path), tmp_path / "nothing").rows[0].compile_s is None
