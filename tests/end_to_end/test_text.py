"""A model of text as a user has it: a tokenizer, several inputs, lengths that vary; from recipe to report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.report import Row, read

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Project

WIDTH, WORDS = 32, 128
CODE = """
def tokenizer():
    def tokenize(text):
        ids = [1 + ord(letter) % 127 for letter in text]
        return {"ids": ids, "mask": [1] * len(ids)}
    return tokenize

def texts():
    return [f"{'abcdefgh'[n % 8] * (2 + n % 7)} number {n * 7919}" for n in range(60)]
"""
RECIPE = """\
version: 1
name: small
model: {path: text.onnx}
task:
  type: embedding
  tokenizer: {factory: words.py:tokenizer}
data:
  calibration: {factory: "words.py:texts", num_samples: 20, batch_size: 1}
  validation: {factory: "words.py:texts", skip: 20, batch_size: 8}
passes: [PASS]
targets: [{name: ort, backend: onnxruntime}]
benchmark: {min_duration_s: 0.2, min_iterations: 20, max_duration_s: 0.5}
gates: [{metric: cosine, min: LIMIT}]
report: {formats: [json, md, html], layers: false, roofline: false}
"""


def network(path: Path) -> None:
    """(batch, length) ids and mask to the masked mean of two layers, and, second, one row for each token."""
    random = np.random.default_rng(0)
    weights = {
        "table": random.normal(size=(WORDS, WIDTH)).astype(np.float32),
        "first": (random.normal(size=(WIDTH, 64)) / 6).astype(np.float32),
        "second": (random.normal(size=(64, WIDTH)) / 8).astype(np.float32),
        "last": np.array([-1], np.int64),
        "token": np.array([1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["table", "ids"], ["words"], name="words"),
        node("MatMul", ["words", "first"], ["inner"], name="first"),
        node("Relu", ["inner"], ["hidden"], name="relu"),
        node("MatMul", ["hidden", "second"], ["tokens"], name="second"),
        node("Cast", ["mask"], ["floats"], name="cast", to=TensorProto.FLOAT),
        node("Unsqueeze", ["floats", "last"], ["wide"], name="wide"),
        node("Mul", ["tokens", "wide"], ["masked"], name="masked"),
        node("ReduceSum", ["masked", "token"], ["sum"], name="sum", keepdims=0),
        node("ReduceSum", ["wide", "token"], ["count"], name="count", keepdims=0),
        node("Div", ["sum", "count"], ["embedding"], name="mean"),
    ]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in ("ids", "mask")],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", WIDTH]),
            helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", "length", WIDTH]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), str(path))


@pytest.fixture
def project(new_project: Callable[[Path], Project], tmp_path: Path) -> Project:
    made = new_project(tmp_path / "a project")
    network(made.folder / "text.onnx")
    (made.folder / "words.py").write_text(CODE)
    return made


def result(project: Project) -> Row:
    return next(row for row in read(project.out / "report.json").rows if row.role == "result")


@pytest.mark.parametrize(
    ("step", "limit", "within"),
    [
        ("{type: quantize, approach: dynamic}", 0.99, (0.99, 1.0)),
        ("{type: quantize, approach: weight_only, weights: {algorithm: gptq}}", 0.97, (0.97, 1.0)),
    ],
)
def test_a_model_of_text_goes_the_whole_way(project: Project, step: str, limit: float, within: tuple[float, float]) -> None:
    project.recipe.write_text(RECIPE.replace("PASS", step).replace("LIMIT", str(limit)))
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 0, done.stderr
    row = result(project)
    assert row.fidelity is not None and row.fidelity.cosine is not None
    assert within[0] <= row.fidelity.cosine.value < within[1]
    assert row.fidelity.top1_agreement is None and row.fidelity.nearest_agreement is not None
    assert row.metrics == [] and row.classes == [] and row.differing == []
    assert row.size_bytes is not None
    report = read(project.out / "report.json")
    assert [gate.verdict for gate in report.gates] == ["pass"]
    assert {use.split: use.samples for use in report.data} == {"calibration": 20, "validation": 40}
    assert f"cosine {row.fidelity.cosine.value:.4f}" in (project.out / "report.md").read_text()
    assert "mean cosine" in (project.out / "report.html").read_text()


def test_a_cosine_below_the_limit_fails_the_fidelity_gate(project: Project) -> None:
    project.recipe.write_text(
        RECIPE.replace("PASS", "{type: quantize, approach: weight_only, weights: {group_size: 128}}").replace("LIMIT", "0.9999")
    )
    done = project.accel("optimize", "recipe.yaml")
    assert done.returncode == 14, done.stderr
    assert "cosine" in done.stdout
