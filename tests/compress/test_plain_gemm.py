"""Gemm with factors and odd biases: the same in float, and right in INT8 by either engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.onnx_writing import write
from accel.compress.plain_gemm import plain_gemms_
from accel.compress.quantize_nncf import QuantizeStaticNncf
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.contracts import Batch, Job, QuantizationProfile
from accel.model import OnnxModel, Signature, TensorSpec

Array = NDArray[Any]
Run = Callable[[Path, dict[str, Array]], list[Array]]
INPUTS, OUTPUTS = 32, 16
SIGNATURE = Signature((TensorSpec("x", ("batch", INPUTS), "float32"),), (TensorSpec("y", ("batch", OUTPUTS), "float32"),))


def values() -> Array:
    return np.random.default_rng(1).normal(size=(64, INPUTS)).astype(np.float32)


def network(alpha: float, beta: float, shape: tuple[int, ...] | None, upright: bool = True) -> onnx.ModelProto:
    """One Gemm, and a product with the same matrix, which must stay as it is."""
    random = np.random.default_rng(0)
    weight = random.normal(size=(INPUTS, OUTPUTS)).astype(np.float32)
    stored = {"w": np.ascontiguousarray(weight.T) if upright else weight}
    if shape is not None:
        stored["b"] = 3 * random.normal(size=shape).astype(np.float32)
    nodes = [
        helper.make_node(
            "Gemm", ["x", "w", *(["b"] if shape is not None else [])], ["a"], "one", alpha=alpha, beta=beta, transB=int(upright)
        ),
        helper.make_node("Gemm", ["x", "w"], ["c"], "two", transB=int(upright)),
        helper.make_node("Add", ["a", "c"], ["y"], "sum"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", OUTPUTS])],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CASES = [
    (2.0, 1.0, (OUTPUTS,), True),
    (1.0, 0.5, (OUTPUTS,), True),
    (0.5, 2.0, (1, OUTPUTS), False),
    (1.0, 0.0, (OUTPUTS,), True),
    (1.0, 1.0, (1, OUTPUTS), True),
    (1.0, 3.0, (), True),
    (1.0, 1.0, (1,), False),
    (1.5, 0.5, None, True),
]


@pytest.mark.parametrize(("alpha", "beta", "shape", "upright"), CASES)
def test_it_computes_the_same(
    alpha: float, beta: float, shape: tuple[int, ...] | None, upright: bool, tmp_path: Path, execute: Run
) -> None:
    model = network(alpha, beta, shape, upright)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    write(model, before)
    plain_gemms_(model)
    write(model, after)
    x = {"x": values()}
    assert np.allclose(execute(after, x)[0], execute(before, x)[0], atol=1e-4)
    node = model.graph.node[0]
    left = {attribute.name: attribute.f for attribute in node.attribute if attribute.name != "transB"}
    assert left == ({} if shape is not None else {"beta": 0.5})
    if shape is not None:
        assert list(next(each for each in model.graph.initializer if each.name == node.input[2]).dims) == [OUTPUTS]
    assert model.graph.node[1].input[1] == "w"


@pytest.mark.parametrize("shape", [(OUTPUTS,), (3, OUTPUTS), (3, 1)])
def test_what_is_plain_already_or_no_bias_of_outputs_is_left(shape: tuple[int, ...]) -> None:
    model = network(1.0, 1.0, shape)
    before = [array.SerializeToString() for array in model.graph.initializer]
    plain_gemms_(model)
    assert [array.SerializeToString() for array in model.graph.initializer] == before


@pytest.mark.parametrize("engine", [QuantizeStaticOnnxRuntime, QuantizeStaticNncf])
@pytest.mark.parametrize(("alpha", "beta", "shape", "upright"), CASES)
def test_int8_is_close(
    engine: Any,
    alpha: float,
    beta: float,
    shape: tuple[int, ...] | None,
    upright: bool,
    tmp_path: Path,
    cpu: QuantizationProfile,
    execute: Run,
) -> None:
    class Once:
        def has(self, split: str) -> bool:
            return True

        def calibration(self) -> Iterable[Batch]:
            yield Batch({"x": values()})

    path = tmp_path / "float.onnx"
    write(network(alpha, beta, shape, upright), path)
    kept = path.read_bytes()
    folder = tmp_path / "job"
    folder.mkdir()
    job = Job.local(folder, task=Once(), profile=cpu)  # type: ignore[arg-type]
    found = engine()(OnnxModel(path=path, signature=SIGNATURE), job)
    x = {"x": values()}
    wanted, got = execute(path, x)[0], execute(found.path, x)[0]
    assert np.linalg.norm(got - wanted) < 0.06 * np.linalg.norm(wanted)  # 0.27 and more without
    assert path.read_bytes() == kept
