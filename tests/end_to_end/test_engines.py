"""The engines that a recipe names, through the command line and on both CPU runtimes."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Ended, Project

    Typed = Callable[..., Ended]

DEFAULT = """\
  - type: export_onnx
  - {type: simplify, allow_noop: true}
  - type: quantize
    approach: static
"""
BEFORE = """\
  - type: quantize
    approach: static
    engine: neural-compressor
  - type: export_onnx
  - {type: simplify, allow_noop: true}
"""


def report_of(project: Project) -> Any:
    return json.loads((project.out / "report.json").read_text(encoding="utf-8"))


def sizes_of(project: Project) -> dict[str, int]:
    return {name: (project.out / "targets" / name / "model.onnx").stat().st_size for name in ("ort", "ov")}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("neural_compressor") is None, reason="the extra neural-compressor is not installed")
def test_neural_compressor_before_the_export_serves_both_runtimes(project: Project, typed: Typed) -> None:
    project.rewrite("approach: static\n", "approach: static\n    engine: onnxruntime\n")
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 0
    default = sizes_of(project)
    project.rewrite(DEFAULT + "    engine: onnxruntime\n", BEFORE)
    ended = typed("optimize", "recipe.yaml")
    assert ended.code == 0, ended.err
    assert "[INFO]" not in ended.err + ended.out, "the library logs much"
    found = report_of(project)
    rows = {(row["role"], row["target"]): row for row in found["rows"]}
    for name in ("ort", "ov"):
        row = rows["result", name]
        assert row["status"] == "measured" and row["precision"]["int8_operators"] > 0
        top1, reference = (rows[role, name]["metrics"][0]["value"] for role in ("result", "baseline"))
        assert top1 >= reference - 0.1
    assert all(size <= 1.1 * default[name] for name, size in sizes_of(project).items())
    steps = [step for step in found["steps"] if step["name"] == "quantize/static/neural-compressor"]
    assert steps and any(note.startswith("quantized: ") for note in steps[0]["notes"])


def test_auto_tries_the_engines_and_says_what_it_took(project: Project, typed: Typed) -> None:
    project.rewrite("approach: static\n", "approach: static\n    engine: auto\n")
    ended = typed("optimize", "recipe.yaml", "--no-benchmark")
    assert ended.code == 0, ended.err
    steps = [step for step in report_of(project)["steps"] if step["name"] == "quantize/static/auto"]
    assert [step["target"] for step in steps] == ["ort", "ov"], "each target has an engine of its own"
    for step in steps:
        told = [note for note in step["notes"] if note.startswith("engine auto: ")]
        assert "onnxruntime" in told[0] and "nncf" in told[0] and "floating point" in told[0] and "selection data" in told[0]
        assert sum(" taken: " in note and " not taken" not in note for note in told) == 1
    assert typed("optimize", "recipe.yaml", "--no-benchmark").code == 0
    assert all(step["cached"] for step in report_of(project)["steps"])
