from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.onnx_writing import write
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.repair_settings import SmoothQuant
from accel.contracts import Batch, Job
from accel.model import OnnxModel, Signature, TensorSpec

Array = NDArray[Any]
Execute = Callable[[Path, dict[str, Array]], Sequence[Array]]
MakeJob = Callable[..., Job]

ROWS = np.random.default_rng(5).normal(size=(60, 4, 32)).astype(np.float32)


class Rows:
    """Sixty samples of four vectors."""

    def calibration(self) -> Iterable[Batch]:
        yield Batch({"rows": ROWS})

    def has(self, split: str) -> bool:
        return split == "calibration"


def network(path: Path, residual: bool) -> OnnxModel:
    """A normalization with two channels 300 times larger than the others, as transformers have them, then two layers that read
    it; with ``residual`` it is added to what they give, too."""
    random = np.random.default_rng(0)
    scale = np.ones(32, np.float32)
    scale[[3, 17]] = 300.0
    query, key = (random.normal(size=(32, 32)).astype(np.float32) for _ in range(2))
    query[[3, 17]] /= 300.0
    key[[3, 17]] /= 300.0
    stored = {"scale": scale, "bias": np.zeros(32, np.float32), "query": query, "key": key}
    nodes = [
        helper.make_node("LayerNormalization", ["rows", "scale", "bias"], ["normal"], name="norm", axis=-1),
        helper.make_node("MatMul", ["normal", "query"], ["q"], name="query"),
        helper.make_node("MatMul", ["normal", "key"], ["k"], name="key"),
        helper.make_node("Tanh", ["q"], ["bent"], name="tanh"),
        helper.make_node("Mul", ["bent", "k"], ["out" if not residual else "product"], name="mul"),
    ]
    if residual:
        stored["small"] = (1e-3 / scale).astype(np.float32)
        nodes.append(helper.make_node("Mul", ["normal", "small"], ["skip"], name="skip"))
        nodes.append(helper.make_node("Add", ["product", "skip"], ["out"], name="add"))
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 4, 32])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 4, 32])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    write(model, path)
    specs = [TensorSpec(name, ("batch", 4, 32), "float32") for name in ("rows", "out")]
    return OnnxModel(path=path, signature=Signature((specs[0],), (specs[1],)))


def error(found: OnnxModel, model: OnnxModel, execute: Execute) -> float:
    wanted, got = (execute(each.path, {"rows": ROWS})[0] for each in (model, found))
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("engine", [QuantizeStaticOnnxRuntime, QuantizeStaticNncf])
def test_it_repairs_activations_with_two_large_channels(
    engine: Any, tmp_path: Path, execute: Execute, make_job: MakeJob
) -> None:
    model = network(tmp_path / "float.onnx", residual=False)
    plain = engine()(model, make_job(folder="plain", task=Rows()))
    repaired = engine(smooth_quant=SmoothQuant(alpha=0.5))(model, make_job(folder="repaired", task=Rows()))
    before, after = error(plain, model, execute), error(repaired, model, execute)
    assert before > 0.2, "the network needs it"
    assert after < before / 4
    assert any(note.startswith("smooth_quant: ") for note in repaired.notes)


def test_a_normalization_that_only_these_layers_read_takes_the_division(tmp_path: Path, make_job: MakeJob) -> None:
    model = network(tmp_path / "float.onnx", residual=False)
    repaired = QuantizeStaticOnnxRuntime(smooth_quant=SmoothQuant())(model, make_job(task=Rows()))
    names = [node.name for node in onnx.load(str(repaired.path)).graph.node]
    assert not any("smooth" in name for name in names)
    assert any("1 activations smoothed, 0 of them by a multiplication" in note for note in repaired.notes)


def test_where_others_read_it_too_a_multiplication_reads_the_value_unrounded(
    tmp_path: Path, execute: Execute, make_job: MakeJob
) -> None:
    model = network(tmp_path / "float.onnx", residual=True)
    plain = QuantizeStaticOnnxRuntime()(model, make_job(folder="plain", task=Rows()))
    repaired = QuantizeStaticOnnxRuntime(smooth_quant=SmoothQuant())(model, make_job(folder="repaired", task=Rows()))
    graph = onnx.load(str(repaired.path)).graph
    (smoothing,) = [node for node in graph.node if node.name == "query/smooth"]
    makers = {value: node for node in graph.node for value in node.output}
    assert makers[smoothing.input[0]].op_type == "LayerNormalization"
    assert error(repaired, model, execute) < error(plain, model, execute) / 4


def test_a_network_without_linear_layers_is_told(float_model: OnnxModel, images: Array, make_job: MakeJob) -> None:
    from accel.compress.repair.smoothing import smooth_

    graph = onnx.load(str(float_model.path)).graph
    added, notes = smooth_(graph, {}, {}, 0.5)
    assert not added and notes[0].startswith("warning: smooth_quant: there is no linear layer")
