from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from accel.accelerate.onnx_operators import executed_operators, quantized_operators
from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.model import OnnxModel, Signature, Target, TensorSpec

SIGNATURE = Signature((TensorSpec("x", ("n", 4, 8, 8), "float32"),), (TensorSpec("y", ("n", 4, 8, 8), "float32"),))


def quantized(source: str, target: str, kind: str = "u") -> list[NodeProto]:
    """``source`` through QuantizeLinear and DequantizeLinear."""
    parameters = ["scale", f"zero_{kind}"]
    return [
        helper.make_node("QuantizeLinear", [source, *parameters], [f"{target}_q"], name=f"{target}/Q"),
        helper.make_node("DequantizeLinear", [f"{target}_q", *parameters], [target], name=f"{target}/DQ"),
    ]


def write(path: Path, nodes: Sequence[NodeProto], shape: Sequence[int | str] = ("n", 4, 8, 8)) -> Path:
    tensors = {
        "scale": np.array(0.02, np.float32),
        "zero_u": np.array(128, np.uint8),
        "zero_r": np.array(0, np.uint8),
        "zero_s": np.array(0, np.int8),
        "w8": np.random.default_rng(0).integers(-100, 100, (4, 4, 3, 3)).astype(np.int8),
        "m8": np.random.default_rng(0).integers(-100, 100, (8, 8)).astype(np.int8),
        "w": np.ones((4, 4, 3, 3), np.float32),
    }
    used = {name for node in nodes for name in node.input}
    used |= {name for node in nodes for a in node.attribute if a.HasField("g") for n in a.g.node for name in n.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(value, name) for name, value in tensors.items() if name in used],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


WEIGHT = helper.make_node("DequantizeLinear", ["w8", "scale", "zero_s"], ["w_dq"], name="w/DQ")
CONV = helper.make_node("Conv", ["x_dq", "w_dq"], ["c"], name="c/Conv", pads=[1, 1, 1, 1])


def test_an_operator_counts_when_both_data_and_weights_are_dequantized(tmp_path: Path) -> None:
    both = write(tmp_path / "both.onnx", [*quantized("x", "x_dq"), WEIGHT, CONV, *quantized("c", "y")])
    assert quantized_operators(both) == 1


@pytest.mark.parametrize(
    ("data", "weights"),
    [("x", "w_dq"), ("x_dq", "w"), ("x", "w")],
    ids=["data in float", "weights in float", "both in float"],
)
def test_an_operator_does_not_count_when_one_is_float(data: str, weights: str, tmp_path: Path) -> None:
    conv = helper.make_node("Conv", [data, weights], ["y"], name="c/Conv", pads=[1, 1, 1, 1])
    path = write(tmp_path / "half.onnx", [*quantized("x", "x_dq"), WEIGHT, conv])
    assert quantized_operators(path) == 0


def test_transposed_weights_and_two_activations_count(tmp_path: Path) -> None:
    nodes = [
        *quantized("x", "x_dq"),
        helper.make_node("DequantizeLinear", ["m8", "scale", "zero_s"], ["m_dq"], name="m/DQ"),
        helper.make_node("Transpose", ["m_dq"], ["m_t"], name="m/T", perm=[1, 0]),
        helper.make_node("MatMul", ["x_dq", "m_t"], ["a"], name="a/MatMul"),
        *quantized("a", "a_dq"),
        helper.make_node("MatMul", ["a_dq", "x_dq"], ["y"], name="b/MatMul"),
    ]
    assert quantized_operators(write(tmp_path / "two.onnx", nodes)) == 2


def test_subgraphs_and_integer_operators_count(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "zero_u"], ["xq"]),
            helper.make_node("MatMulInteger", ["xq", "m8", "zero_u", "zero_s"], ["i"], name="inner/MatMulInteger"),
            helper.make_node("Cast", ["i"], ["out"], to=TensorProto.FLOAT),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["other"])],
        "else",
        [],
        [helper.make_tensor_value_info("other", TensorProto.FLOAT, None)],
    )
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0),
        helper.make_node("Cast", ["top"], ["yes"], to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["y"], name="if", then_branch=inner, else_branch=same),
    ]
    assert quantized_operators(write(tmp_path / "if.onnx", nodes)) == 1


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
@pytest.mark.parametrize("kind", ["u", "s"])
def test_what_is_told_is_what_the_profiler_saw_run(level: str, kind: str, tmp_path: Path) -> None:
    """The optimized graph against the runtime's own record of the nodes it executed, at every level and in two dialects."""
    import onnxruntime

    nodes = [
        *quantized("x", "x_dq", kind),
        WEIGHT,
        CONV,
        helper.make_node("Relu", ["c"], ["r"], name="c/Relu"),
        *quantized("r", "r_dq", "r" if kind == "u" else "s"),
        helper.make_node("Add", ["r_dq", "x_dq"], ["s"], name="s/Add"),
        *quantized("s", "y", kind),
    ]
    path = write(tmp_path / "net.onnx", nodes)
    target = Target(name="t", backend="onnxruntime", options={"graph_optimization_level": level})
    with OnnxRuntime().compile(OnnxModel(path=path, signature=SIGNATURE), target, tmp_path) as runner:
        found = runner.executed_precision()
    settings = onnxruntime.SessionOptions()
    settings.enable_profiling = True
    settings.profile_file_prefix = str(tmp_path / "profile")
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = {
        "disable": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
        "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
        "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    }[level]
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    session.run(None, {"x": np.zeros((1, 4, 8, 8), np.float32)})
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(event["args"]["op_name"] for event in events if event["name"].endswith("_kernel_time"))
    assert found.operators == dict(ran)
    assert found.quantized_operators == 1
    assert found.int8_operators == (1 if level in ("extended", "all") and kind == "u" else 0)


@pytest.mark.parametrize(
    ("dtype", "said"), [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16")]
)
def test_float_precision_is_that_of_the_multiplying_operators(dtype: int, said: str, tmp_path: Path) -> None:
    def info(name: str, kind: int) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [1, 4, 8, 8])

    nodes = [
        helper.make_node("Cast", ["x"], ["a"], to=dtype),
        helper.make_node("Conv", ["a", "w"], ["b"], name="b/Conv"),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["c"], ["y"], name="y/Relu"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [info("x", TensorProto.FLOAT)],
        [info("y", TensorProto.FLOAT)],
        [helper.make_tensor("w", dtype, (4, 4, 1, 1), np.ones(16, np.float32))],
        value_info=[info("b", dtype)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), tmp_path / "m.onnx")
    found = executed_operators(tmp_path / "m.onnx")
    assert found.floats == {said: 1}
    assert found.operators == {"Cast": 2, "Conv": 1, "Relu": 1}
