from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from accel.compress.onnx_writing import write
from accel.compress.simplify import Simplify
from accel.contracts import Job
from accel.errors import PassFault
from accel.model import OnnxModel, Signature, TensorSpec

MakeJob = Callable[..., Job]
SIGNATURE = Signature(
    (TensorSpec("image", ("batch", 1, 16, 16), "float32"),), (TensorSpec("y", ("batch", 4, 14, 14), "float32"),)
)


@pytest.fixture(scope="module")
def clumsy(tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    """Conv, batch norm, an Identity, a constant that can be folded; metadata on each node."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.uniform(0.5, 1.5, shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["image", "body.conv.weight"], ["a"], name="body.conv/Conv"),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["c"], name="body.bn/BatchNormalization"),
        helper.make_node("Identity", ["c"], ["d"], name="body/Identity"),
        helper.make_node("Add", ["one", "two"], ["three"], name="body/Add"),
        helper.make_node("Mul", ["d", "three"], ["e"], name="body/Mul"),
        helper.make_node("Relu", ["e"], ["y"], name="body.relu/Relu"),
    ]
    weights = [
        weight("body.conv.weight", 4, 1, 3, 3),
        *(weight(name, 4) for name in "sbmv"),
        weight("one", 1),
        weight("two", 1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4, 14, 14])],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name="me", producer_version="1"
    )
    path = tmp_path_factory.mktemp("clumsy") / "model.onnx"
    write(model, path)
    return OnnxModel(path=path, signature=SIGNATURE)


def test_fewer_nodes_same_names_same_outputs(clumsy: OnnxModel, make_job: MakeJob) -> None:
    before = clumsy.path.read_bytes()
    result = Simplify()(clumsy, make_job())
    model = onnx.load(str(result.path))
    names = {node.op_type: node.name for node in model.graph.node}
    assert names["Conv"] == "body.conv/Conv", "the convolution that took in its batch norm is still called like itself"
    assert names["Relu"] == "body.relu/Relu"
    assert "BatchNormalization" not in names and "Identity" not in names
    assert result.signature == clumsy.signature
    assert (model.producer_name, model.producer_version) == ("me", "1")
    assert result.notes[0].startswith("6 nodes became ") and "1 BatchNormalization" in result.notes[0]
    assert clumsy.path.read_bytes() == before


def test_same_bytes_again(clumsy: OnnxModel, make_job: MakeJob) -> None:
    first, second = (Simplify()(clumsy, make_job(folder=name)).path.read_bytes() for name in "ab")
    assert first == second


def test_nothing_to_do_gives_the_same_bytes_and_says_so(float_model: OnnxModel, make_job: MakeJob) -> None:
    result = Simplify()(float_model, make_job())
    assert result.path != float_model.path
    assert result.path.read_bytes() == float_model.path.read_bytes()
    assert result.notes == ("simplify changed nothing",)


def test_a_second_time_changes_nothing(clumsy: OnnxModel, make_job: MakeJob) -> None:
    once = Simplify()(clumsy, make_job(folder="a"))
    assert Simplify()(once, make_job(folder="b")).notes == ("simplify changed nothing",)


def test_changed_outputs_are_refused(clumsy: OnnxModel, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxslim

    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.zeros((4, 1, 3, 3), np.float32), model.graph.initializer[0].name)
        )
        return model

    monkeypatch.setattr(onnxslim, "slim", wrong)
    with pytest.raises(PassFault, match=r"onnxslim changed what the model computes: output 'y' differs by up to"):
        Simplify()(clumsy, make_job(task=None))


def test_a_crash_inside_is_a_pass_fault(clumsy: OnnxModel, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxslim

    def crash(model: onnx.ModelProto) -> onnx.ModelProto:
        raise AssertionError("lost a node")

    monkeypatch.setattr(onnxslim, "slim", crash)
    with pytest.raises(PassFault, match=r"onnxslim failed on model\.onnx: AssertionError: lost a node; remove the pass"):
        Simplify()(clumsy, make_job())


def test_external_data_comes_along(tmp_path: Path, float_model: OnnxModel, make_job: MakeJob) -> None:
    big = tmp_path / "big.onnx"
    write(onnx.load(str(float_model.path)), big, limit=1000)
    result = Simplify()(OnnxModel(path=big, signature=float_model.signature), make_job())
    outputs: list[NDArray[Any]] = []
    job = make_job(folder="run")
    assert job.execute is not None
    for path in (float_model.path, result.path):
        outputs += job.execute(path, {"image": np.ones((2, 1, 16, 16), np.float32)})
    np.testing.assert_allclose(outputs[0], outputs[1], atol=1e-5)
