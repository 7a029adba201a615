from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, parser
from pydantic import TypeAdapter, ValidationError

from accel.compress.cast import Cast
from accel.compress.ignored_scope import IgnoredScope
from accel.compress.onnx_writing import write
from accel.compress.quantize_onnxruntime import QuantizeStaticOnnxRuntime
from accel.compress.same_outputs import run
from accel.contracts import Batch, Job, QuantizationProfile
from accel.errors import DataFault, PassFault
from accel.model import OnnxModel
from accel.onnx_file import read, signature

Array = NDArray[Any]
MakeJob = Callable[..., Job]
Make = Callable[..., OnnxModel]
FP32, FP16, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16
DRAWN = np.random.default_rng(0)
START = DRAWN.bit_generator.state


class Data:
    """Calibration data: one batch of these inputs."""

    def __init__(self, **inputs: Array) -> None:
        self.inputs = inputs

    def has(self, split: str) -> bool:
        return split == "calibration"

    def calibration(self) -> Iterable[Batch]:
        yield Batch(self.inputs)


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Each test draws the same, whichever ran before."""
    DRAWN.bit_generator.state = START


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(text, name=values)``: the model in onnx's text form, with these initializers."""

    def made(text: str, *, ir_version: int = 10, opset: int = 20, listed: Sequence[str] = (), **weights: Array) -> OnnxModel:
        proto = parser.parse_model(f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> g {text}')
        for name, values in weights.items():
            kept = np.asarray(values)
            numbers = kept.astype(np.float32) if kept.dtype.kind == "f" else kept
            proto.graph.initializer.append(numpy_helper.from_array(numbers, name))
            if name in listed:
                proto.graph.input.append(helper.make_tensor_value_info(name, FP32, np.shape(values)))
        for node in proto.graph.node:
            node.name = f"{node.output[0]}/{node.op_type}"
        path = tmp_path / "given" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        write(proto, path)
        return read(path)

    return made


def matrix(*shape: int) -> Array:
    """Weights of a size at which a product stays about as large as what goes in."""
    return drawn(*shape) / np.float32(np.sqrt(shape[0]))


def drawn(*shape: int) -> Array:
    return DRAWN.standard_normal(shape).astype(np.float32)


def graph_of(model: OnnxModel) -> onnx.GraphProto:
    return onnx.load(str(model.path)).graph


def types_of(model: OnnxModel) -> dict[str, int]:
    """Node name to the element type of what it makes first."""
    proto = onnx.shape_inference.infer_shapes(onnx.load(str(model.path)), strict_mode=True)
    types = {value.name: value.type.tensor_type.elem_type for value in (*proto.graph.value_info, *proto.graph.output)}
    return {node.name: types[node.output[0]] for node in proto.graph.node if node.output[0] in types}


def casts(model: OnnxModel) -> list[str]:
    return [node.name for node in graph_of(model).node if node.op_type == "Cast"]


def decibels(model: OnnxModel) -> float:
    """As its only note on an output says."""
    [note] = [note for note in model.notes if "against the file before" in note]
    return float(note.split("SQNR ")[1].split(" dB")[0])


def both(job: Job, before: OnnxModel, after: OnnxModel, inputs: Mapping[str, Array]) -> list[tuple[Array, Array]]:
    """Each output of the file before and of the file after."""
    assert job.execute is not None
    given = {spec.name: inputs[spec.name].astype(spec.dtype) for spec in after.signature.inputs}
    return list(zip(job.execute(before.path, inputs), job.execute(after.path, given), strict=True))


def require_close(job: Job, before: OnnxModel, after: OnnxModel, inputs: Mapping[str, Array], tolerance: float = 2e-3) -> None:
    for one, other in both(job, before, after, inputs):
        assert np.linalg.norm(one.astype(np.float64) - other) <= tolerance * np.linalg.norm(one.astype(np.float64))


# -- what a user sees first ------------------------------------------------------------------------------------------------


def test_a_residual_net_is_whole_in_fp16_and_a_drop_in(float_model: OnnxModel, make_job: MakeJob, images: Array) -> None:
    before = float_model.path.read_bytes()
    job = make_job()
    result = Cast()(float_model, job)
    assert float_model.path.read_bytes() == before
    assert result.signature == float_model.signature == signature(onnx.load(str(result.path)))
    assert set(types_of(result).values()) == {FP16, FP32}
    assert [name for name, kind in types_of(result).items() if kind == FP32] == ["fc/Gemm/cast_fp32"]
    assert casts(result) == ["image/cast_fp16", "fc/Gemm/cast_fp32"]
    assert {weight.data_type for weight in graph_of(result).initializer} <= {FP16, TensorProto.INT64}
    assert result.path.stat().st_size < 0.6 * float_model.path.stat().st_size
    assert result.notes[0] == "15 of 15 nodes that make floats are in fp16, 2 Cast added"
    assert result.notes[1].startswith("output logits: SQNR ") and decibels(result) > 60
    require_close(job, float_model, result, {"image": images})


def test_nodes_keep_their_names_and_order(float_model: OnnxModel, make_job: MakeJob) -> None:
    result = Cast()(float_model, make_job())
    names = [node.name for node in graph_of(result).node if node.op_type != "Cast"]
    assert names == [node.name for node in graph_of(float_model).node]


def test_same_bytes_again(float_model: OnnxModel, make_job: MakeJob) -> None:
    first, second = (Cast()(float_model, make_job(folder=name)) for name in "ab")
    assert first.path.read_bytes() == second.path.read_bytes() and first.notes == second.notes


def test_bf16_raises_the_opset_and_says_what_this_runtime_lacks(float_model: OnnxModel, make_job: MakeJob) -> None:
    result = Cast(dtype="bf16")(float_model, make_job())
    proto = onnx.load(str(result.path))
    assert proto.opset_import[0].version == 22
    assert casts(result) == ["image/cast_bf16", "fc/Gemm/cast_fp32"]
    assert BF16 in types_of(result).values() and FP16 not in types_of(result).values()
    assert result.notes[1] == "converted from opset 20 to 22: bf16 of Conv needs it"
    assert result.notes[2].startswith("output logits: SQNR ") and 35 < decibels(result) < 60
    assert "cannot run this one" in result.notes[3] and "Conv(22)" in result.notes[3]


def test_bf16_where_the_runtime_has_it(make: Make, make_job: MakeJob) -> None:
    model = make("(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  y = Add(a, b) }", w=matrix(8, 8), b=drawn(8))
    x = drawn(8, 8)
    job = make_job(task=Data(x=x))
    result = Cast(dtype="bf16")(model, Job.local(job.folder, Data(x=x)))  # type: ignore[arg-type] # onnx's own evaluator
    assert result.notes[0] == "2 of 2 nodes that make floats are in bf16, 2 Cast added"
    assert 40 < decibels(result) < 60


def test_keep_io_types_false_gives_a_file_that_takes_and_gives_fp16(
    float_model: OnnxModel, make_job: MakeJob, images: Array
) -> None:
    job = make_job()
    result = Cast(keep_io_types=False)(float_model, job)
    assert [spec.dtype for spec in (*result.signature.inputs, *result.signature.outputs)] == ["float16", "float16"]
    assert not casts(result)
    assert [spec.name for spec in result.signature.inputs] == ["image"]
    require_close(job, float_model, result, {"image": images})


def test_keep_io_types_false_leaves_ends_that_do_not_fit(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x, float[n,8] big) => (float[n,8] y, float[n,8] z) { y = MatMul(x, w)  z = MatMul(big, w) }"
    model = make(text, w=matrix(8, 8))
    inputs = {"x": drawn(8, 8), "big": 1e6 * drawn(8, 8)}
    job = make_job(task=Data(**inputs))
    result = Cast(keep_io_types=False)(model, job)
    specs = (*result.signature.inputs, *result.signature.outputs)
    assert {spec.name: spec.dtype for spec in specs} == {"x": "float16", "big": "float32", "y": "float16", "z": "float32"}
    assert any(note.startswith("big stays FP32: values up to") for note in result.notes)
    require_close(job, model, result, inputs)


# -- what is kept, and why -------------------------------------------------------------------------------------------------


def test_a_node_that_overflows_is_kept_and_named_with_its_number(make: Make, make_job: MakeJob) -> None:
    text = """(float[n,8] x) => (float[n,8] y)
        { a = MatMul(x, w)  b = MatMul(a, up)  c = MatMul(b, down)  y = MatMul(c, w) }"""
    eye = np.eye(8, dtype=np.float32)
    model = make(text, w=matrix(8, 8), up=60000 * eye, down=eye / 3000)
    x = drawn(64, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    kinds = types_of(result)
    assert [kinds[name] for name in ("a/MatMul", "b/MatMul", "c/MatMul")] == [FP16, FP32, FP32]
    assert casts(result) == ["x/cast_fp16", "a/MatMul/cast_fp32", "c/MatMul/cast_fp16", "y/MatMul/cast_fp32"]
    [note] = [note for note in result.notes if note.startswith("b/MatMul kept FP32: it makes 'b', up to ")]
    assert "fp16 ends at 65504, and a factor of 2 is left" in note
    [note] = [note for note in result.notes if note.startswith("c/MatMul kept FP32: it reads 'b', up to ")]
    require_close(job, model, result, {"x": x})


def test_half_of_the_range_is_left_for_data_not_seen(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  y = Tanh(a) }"
    kept = []
    for largest in (30000.0, 35000.0):
        model = make(text, w=largest * np.eye(8, dtype=np.float32))
        result = Cast()(model, make_job(task=Data(x=np.ones((4, 8), np.float32)), folder=str(largest)))
        kept.append(any("a/MatMul kept FP32" in note for note in result.notes))
    assert kept == [False, True]


def test_underflow_is_kept_and_named_with_its_share(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  b = Mul(a, tiny)  c = Div(b, tiny)  y = MatMul(c, w) }"
    model = make(text, w=matrix(8, 8), tiny=np.float32(1e-7))
    x = drawn(32, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    assert types_of(result)["b/Mul"] == types_of(result)["c/Div"] == FP32
    [note] = [note for note in result.notes if note.startswith("b/Mul kept FP32")]
    assert "'tiny', where 100% of the values that are not zero are below 6.1e-05, the smallest normal number of fp16" in note
    require_close(job, model, result, {"x": x})


def test_faint_values_beside_strong_ones_are_no_reason(make: Make, make_job: MakeJob) -> None:
    """A sharp softmax: nearly all that it makes is below FP16's normal numbers, and nearly all of its sum is not."""
    text = "(float[n,64] x) => (float[n,8] y) { a = Mul(x, sharp)  p = Softmax(a)  y = MatMul(p, w) }"
    model = make(text, sharp=np.float32(20), w=matrix(64, 8))
    result = Cast()(model, make_job(task=Data(x=drawn(32, 64))))
    assert result.notes[0].startswith("3 of 3 nodes"), result.notes


def test_weights_out_of_range_keep_their_node_alone(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  b = MatMul(a, huge)  y = MatMul(b, v) }"
    huge = matrix(8, 8) / 1000
    huge[3, 3] = 7e4
    model = make(text, w=matrix(8, 8) * 0.1, huge=huge, v=matrix(8, 8))
    x = drawn(16, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    [note] = [note for note in result.notes if "b/MatMul kept FP32" in note]
    assert note.endswith("it reads 'huge', up to 7e+04; fp16 ends at 65504")
    assert {weight.name: weight.data_type for weight in graph_of(result).initializer} == {"w": FP16, "huge": FP32, "v": FP16}


def test_infinite_constants_are_the_same_in_any_type(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  b = Add(a, mask)  y = Softmax(b) }"
    model = make(text, w=matrix(8, 8), mask=np.array([0, 0, 0, 0, 0, -np.inf, -np.inf, 0], np.float32))
    x = drawn(16, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    assert result.notes[0] == "3 of 3 nodes that make floats are in fp16, 2 Cast added"
    require_close(job, model, result, {"x": x})


def test_what_rounding_harms_is_kept_with_what_makes_it(make: Make, make_job: MakeJob) -> None:
    """1000 + x less its mean: x has 3 digits left in FP16, whatever computes the difference."""
    text = """(float[n,8] x) => (float[n,8] y)
        { a = MatMul(x, w)  b = Add(a, thousand)  m = ReduceMean<keepdims = 1>(b, axis)  c = Sub(b, m)  y = MatMul(c, w) }"""
    model = make(text, w=matrix(8, 8), thousand=np.float32(1000), axis=np.array([1]))
    x = drawn(32, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    kinds = types_of(result)
    assert [kinds[name] for name in ("b/Add", "m/ReduceMean", "c/Sub")] == [FP32] * 3
    assert [kinds[name] for name in ("a/MatMul", "y/MatMul/cast_fp32")] == [FP16, FP32]
    assert any(
        note.startswith("c/Sub kept FP32: rounding what it reads to 16 bits changes what it makes by 0.")
        for note in result.notes
    )
    assert any(note.startswith("b/Add kept FP32: c/Sub needs what it makes exactly: an error of 0.") for note in result.notes)
    require_close(job, model, result, {"x": x}, 3e-3)
    loose = Cast(max_relative_error=1.0)(model, make_job(task=Data(x=x), folder="loose"))
    assert loose.notes[0].startswith("5 of 5")
    assert decibels(loose) < 20 < 50 < decibels(result)


def test_what_was_lost_further_up_is_a_warning(make: Make, make_job: MakeJob) -> None:
    """A chain of six nodes that each pass on a thousand times what matters at its end."""
    steps = "".join(f"a{n + 1} = MatMul(a{n}, turn) " for n in range(6))
    text = f"(float[n,8] x) => (float[n,8] y) {{ a0 = MatMul(x, turn) {steps} b = MatMul(a6, narrow)  y = Relu(b) }}"
    turn = np.linalg.qr(matrix(8, 8))[0].astype(np.float32)
    narrow = np.linalg.matrix_power(turn, 7).T[:, :1] @ np.ones((1, 8), np.float32)
    x = drawn(16, 8) * np.array([1e-4, *[1.0] * 7], np.float32)
    result = Cast()(make(text, turn=turn, narrow=narrow), make_job(task=Data(x=x)))
    assert any(note.startswith("warning: b/MatMul: its error is ") for note in result.notes), result.notes


def test_few_nodes_between_nodes_in_fp32_get_no_casts(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  b = Relu(a)  c = MatMul(b, w)  y = MatMul(c, w) }"
    scope = IgnoredScope(names=("a/MatMul", "c/MatMul"))
    result = Cast(ignored_scope=scope)(make(text, w=matrix(8, 8)), make_job(task=Data(x=drawn(8, 8))))
    assert casts(result) == ["c/MatMul/cast_fp16", "y/MatMul/cast_fp32"]
    assert "b/Relu kept FP32: between nodes in FP32, where 16 bits would only add casts" in result.notes
    assert "a/MatMul kept FP32: in ignored_scope" in result.notes


def test_an_ignored_scope_that_matches_nothing_is_an_error(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(PassFault, match=r"patterns: 'head.*' \(must match"):
        Cast(ignored_scope=IgnoredScope(patterns=(r"head\..*",)))(float_model, make_job())


def test_operators_without_the_type_stay_and_are_named(make: Make, make_job: MakeJob) -> None:
    """Range has no FP16 before opset 27; the scales of Resize are FP32 in any."""
    text = """(float[n,1,4,4] x) => (float[n,1,8,8] y, float[m] z)
        { r = Range(zero, stop, one)  z = Mul(r, one)  a = Conv(x, w)  y = Resize<mode = "linear">(a, , scales) }"""
    model = make(
        text, w=drawn(1, 1, 1, 1), scales=np.array([1.0, 1, 2, 2]), zero=np.array(0.0), stop=np.array(5.0), one=np.array(1.0)
    )
    x = drawn(4, 1, 4, 4)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    assert "r/Range kept FP32: Range has no fp16 in opset 20" in result.notes
    assert {weight.name: weight.data_type for weight in graph_of(result).initializer}["scales"] == FP32
    assert types_of(result)["y/Resize"] == types_of(result)["a/Conv"] == FP16
    assert casts(result) == ["x/cast_fp16", "y/Resize/cast_fp32"]
    require_close(job, model, result, {"x": x})


# -- graphs of every shape -------------------------------------------------------------------------------------------------


def test_a_constant_of_cast_and_of_kept_nodes_is_there_twice(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  b = Add(a, v)  c = MatMul(b, w)  y = Add(c, v) }"
    model = make(text, w=matrix(8, 8), v=drawn(8))
    x = drawn(8, 8)
    job = make_job(task=Data(x=x))
    result = Cast(ignored_scope=IgnoredScope(names=("c/MatMul",)))(model, job)
    weights = {weight.name: weight.data_type for weight in graph_of(result).initializer}
    assert weights == {"w": FP32, "w_fp16": FP16, "v": FP32, "v_fp16": FP16}
    assert not [node for node in graph_of(result).node if node.op_type == "Cast" and node.input[0] in weights]
    require_close(job, model, result, {"x": x})


def test_an_inner_graph_stays_fp32_and_reads_what_it_read(make: Make, make_job: MakeJob) -> None:
    text = """(float[n,8] x, bool[1] flag) => (float[n,8] y)
        { a = MatMul(x, w)  b = Relu(a)
          c = If(flag) <then_branch = t () => (float[n,8] p) { p = Add(b, w0) },
                        else_branch = e () => (float[n,8] q) { q = Identity(b) }>
          y = MatMul(c, w) }"""
    model = make(text, w=matrix(8, 8), w0=drawn(8))
    x = drawn(4, 8)
    for keep_io in (True, False):
        for flag in (True, False):
            inputs = {"x": x[:1], "flag": np.array([flag])}
            job = make_job(task=Data(**inputs), folder=f"{keep_io}{flag}")
            result = Cast(keep_io_types=keep_io)(model, job)
            assert "c/If kept FP32: it holds graphs of its own, which stay as they are" in result.notes
            assert types_of(result)["a/MatMul"] == FP16
            require_close(job, model, result, inputs)


def test_several_inputs_and_outputs_one_read_twice_one_inside(make: Make, make_job: MakeJob) -> None:
    """``a`` is an output and is read on; ``x`` is read twice by one node; ids and what indexes by them stay integers."""
    text = """(float[n,8] x, int64[n] ids) => (float[n,8] a, float[n,8] y, int64[n] best)
        { a = MatMul(x, w)  s = Mul(x, x)  e = Gather(table, ids)  b = Add(a, s)  y = Add(b, e)
          best = ArgMax<axis = 1, keepdims = 0>(y) }"""
    model = make(text, w=matrix(8, 8), table=drawn(5, 8))
    inputs = {"x": drawn(10, 8), "ids": DRAWN.integers(0, 5, 10)}
    job = make_job(task=Data(**inputs))
    result = Cast()(model, job)
    assert result.signature == model.signature
    assert casts(result) == ["x/cast_fp16", "a/MatMul/cast_fp32", "y/Add/cast_fp32"]
    assert [node.input[0] for node in graph_of(result).node if node.op_type == "ArgMax"] == ["y_fp16"]
    (one, other), *rest = both(job, model, result, inputs)
    np.testing.assert_allclose(one, other, atol=1e-2)
    np.testing.assert_array_equal(*rest[-1])
    assert "output best: the same as of the file before, on 10 calibration samples" in result.notes
    for count in (1, 7):
        given = {name: values[:count] for name, values in inputs.items()}
        require_close(job, model, result, given)


def test_shape_reads_what_is_there_without_a_cast(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y, int64[2] s) { s = Shape(x)  a = MatMul(x, w)  t = Shape(a)  y = Reshape(a, t) }"
    result = Cast()(make(text, w=matrix(8, 8)), make_job(task=Data(x=drawn(4, 8))))
    reads = {node.name: node.input[0] for node in graph_of(result).node}
    assert reads["s/Shape"] == "x" and reads["t/Shape"] == "a"
    assert casts(result) == ["x/cast_fp16", "y/Reshape/cast_fp32"]


@pytest.mark.parametrize("ir_version", [3, 8])
def test_weights_that_are_listed_as_inputs_are_folded_too(make: Make, make_job: MakeJob, ir_version: int) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  y = Relu(a) }"
    model = make(text, ir_version=ir_version, opset=11, listed=("w",), w=matrix(8, 8))
    x = drawn(4, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    assert {weight.name: weight.data_type for weight in graph_of(result).initializer} == {"w": FP16}
    assert [value.name for value in graph_of(result).input] == ["x"]
    assert any(note.startswith("1 weights were listed as inputs too") for note in result.notes)
    assert any(note.startswith("converted from opset 11 to 13") for note in result.notes)
    require_close(job, model, result, {"x": x})


def test_constant_nodes_and_types_in_attributes_change_in_place(make: Make, make_job: MakeJob) -> None:
    text = """(float[n,8] x, int64[n,8] ids) => (float[n,8] y)
        { half = Constant<value_float = 0.5>()  a = MatMul(x, w)  b = Mul(a, half)  f = Cast<to = 1>(ids)  c = Add(b, f)
          s = Shape(c)  z = ConstantOfShape(s)  y = Add(c, z) }"""
    model = make(text, w=matrix(8, 8))
    inputs = {"x": drawn(4, 8), "ids": DRAWN.integers(0, 9, (4, 8))}
    job = make_job(task=Data(**inputs))
    result = Cast()(model, job)
    assert casts(result) == ["x/cast_fp16", "f/Cast", "y/Add/cast_fp32"]
    kinds = types_of(result)
    assert {kinds[name] for name in ("half/Constant", "f/Cast", "z/ConstantOfShape")} == {FP16}
    require_close(job, model, result, inputs)


def test_a_model_that_is_half_in_fp16_gets_no_pairs_of_casts(make: Make, make_job: MakeJob) -> None:
    text = """(float[n,8] x) => (float[n,8] y)
        { a = MatMul(x, w)  h = Cast<to = 10>(a)  r = Relu(h)  f = Cast<to = 1>(r)  y = MatMul(f, w) }"""
    model = make(text, w=matrix(8, 8))
    x = drawn(4, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    assert casts(result) == ["x/cast_fp16", "y/MatMul/cast_fp32"]
    require_close(job, model, result, {"x": x})
    kept = Cast(ignored_scope=IgnoredScope(names=("y/MatMul",)))(model, make_job(task=Data(x=x), folder="kept"))
    assert casts(kept) == ["x/cast_fp16", "f/Cast"], "the model's own, by its own name"
    require_close(job, model, kept, {"x": x})


def test_a_pair_that_the_model_rounds_with_stays_a_rounding(make: Make, make_job: MakeJob) -> None:
    text = "(float[n,8] x) => (float[n,8] y) { h = Cast<to = 10>(x)  f = Cast<to = 1>(h)  y = MatMul(f, w) }"
    model = make(text, w=matrix(8, 8))
    x = drawn(4, 8)
    job = make_job(task=Data(x=x))
    result = Cast()(model, job)
    assert casts(result) == ["h/Cast", "y/MatMul/cast_fp32"]
    require_close(job, model, result, {"x": x})


def test_described_values_get_their_new_types(make: Make, make_job: MakeJob) -> None:
    model = make("(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  y = Relu(a) }", w=matrix(8, 8))
    proto = onnx.shape_inference.infer_shapes(onnx.load(str(model.path)))
    write(proto, model.path)
    result = Cast()(model, make_job(task=Data(x=drawn(4, 8))))
    assert {value.name: value.type.tensor_type.elem_type for value in graph_of(result).value_info} == {"a": FP16}


def test_external_data_comes_along(float_model: OnnxModel, make_job: MakeJob, tmp_path: Path, images: Array) -> None:
    big = tmp_path / "big.onnx"
    write(onnx.load(str(float_model.path)), big, limit=1000)
    job = make_job()
    result = Cast()(OnnxModel(path=big, signature=float_model.signature), job)
    require_close(job, float_model, result, {"image": images})


# -- Q/DQ ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["cpu", "tensorrt"])
def quantized(request: pytest.FixtureRequest, float_model: OnnxModel, make_job: MakeJob) -> OnnxModel:
    profile: QuantizationProfile = request.getfixturevalue(request.param)
    return QuantizeStaticOnnxRuntime()(float_model, make_job(profile=profile, folder="int8"))


def test_what_is_between_integers_is_in_fp16_and_scales_too(quantized: OnnxModel, make_job: MakeJob, images: Array) -> None:
    job = make_job()
    result = Cast()(quantized, job)
    kinds = types_of(result)
    assert {kind for name, kind in kinds.items() if name.split("/")[-1] in ("Conv", "Gemm", "Add")} == {FP16}
    weights = {weight.name: weight.data_type for weight in graph_of(result).initializer}
    kept = {
        node.name for node in graph_of(result).node if node.op_type == "DequantizeLinear" and weights[node.input[1]] == FP32
    }
    assert all(name.endswith("bias_DequantizeLinear") for name in kept), (
        "scales of INT32 biases are below FP16's normal numbers"
    )
    integers = Counter(node.op_type for node in graph_of(quantized).node)
    assert Counter(node.op_type for node in graph_of(result).node) - integers == Counter(Cast=2 + len(kept))
    assert decibels(result) > 35
    reference = Job.local(job.folder)  # ONNX Runtime 1.32 loses float biases of a Q/DQ file in FP16 (WeightBiasQuantization)
    one, other = (run(model.path, {"image": images[:4]}, reference)[0] for model in (quantized, result))
    assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)


def test_a_scale_that_fp16_cannot_hold_keeps_its_pair(make: Make, make_job: MakeJob) -> None:
    text = """(float[n,8] x) => (float[n,8] y)
        { a = MatMul(x, w)  q = QuantizeLinear(a, s, zp)  d = DequantizeLinear(q, s, zp)  b = MatMul(d, up)  y = Relu(b) }"""
    model = make(text, w=matrix(8, 8) * 1e-3, up=matrix(8, 8), s=np.float32(1e-9), zp=np.array(0, np.int8))
    result = Cast()(model, make_job(task=Data(x=drawn(8, 8))))
    for name in ("q/QuantizeLinear", "d/DequantizeLinear"):
        assert any(note.startswith(f"{name} kept FP32") for note in result.notes), result.notes
    assert {w.name: w.data_type for w in graph_of(result).initializer}["s"] == FP32


def test_a_shared_scale_keeps_both_where_one_is_kept(quantized: OnnxModel, make_job: MakeJob) -> None:
    name = next(node.name for node in graph_of(quantized).node if node.op_type == "QuantizeLinear" and node.name != "")
    result = Cast(ignored_scope=IgnoredScope(names=(name,)))(quantized, make_job())
    assert any(note.endswith(f"kept FP32: {name} stays FP32, and the two share a scale") for note in result.notes)


# -- faults ----------------------------------------------------------------------------------------------------------------


def test_nothing_to_cast_gives_the_model_back_and_says_so(make: Make, make_job: MakeJob, float_model: OnnxModel) -> None:
    once = Cast(keep_io_types=False)(float_model, make_job(folder="once"))
    halves = {name: values.astype(np.float16) for name, values in {"image": np.ones((4, 1, 16, 16))}.items()}
    again = Cast()(once, make_job(task=Data(**halves), folder="again"))
    assert again.path == once.path
    assert again.notes[-1] == "cast changed nothing: no node makes FP32 values; is the model in fp16 already?"
    scope = IgnoredScope(patterns=(".*",))
    nothing = Cast(ignored_scope=scope)(float_model, make_job(folder="none"))
    assert nothing.path == float_model.path
    assert nothing.notes[0] == "cast changed nothing: none of 15 nodes that make floats can be in fp16"


def test_no_calibration_data_is_a_fault(float_model: OnnxModel, make_job: MakeJob) -> None:
    with pytest.raises(DataFault, match=r"cast: ranges are measured on calibration data.*set data\.calibration"):
        Cast()(float_model, make_job(task=None))


def test_outputs_that_are_not_finite_are_refused(make: Make, make_job: MakeJob) -> None:
    """A runtime that adds up in FP16 overflows where the model of this pass does not."""
    model = make("(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  y = Relu(a) }", w=matrix(8, 8))
    job = make_job(task=Data(x=drawn(4, 8)))
    assert job.execute is not None
    plain = job.execute

    def overflowing(path: Path, inputs: Mapping[str, Array]) -> Sequence[Array]:
        found = plain(path, inputs)
        return [np.full_like(one, np.inf) for one in found] if path.parent == job.folder else found

    with pytest.raises(PassFault, match=r"output 'y' holds NaN or Inf where it held numbers; name the nodes"):
        Cast()(model, replace(job, execute=overflowing))


def test_a_runtime_that_is_worse_than_rounding_is_a_warning(float_model: OnnxModel, make_job: MakeJob) -> None:
    job = make_job()
    assert job.execute is not None
    plain = job.execute

    def wrong(path: Path, inputs: Mapping[str, Array]) -> Sequence[Array]:
        found = plain(path, inputs)
        return [one + 0.3 * np.abs(one).max() for one in found] if path.parent == job.folder else found

    result = Cast()(float_model, replace(job, execute=wrong))
    assert decibels(result) > 60
    assert any(
        note.startswith("warning: output logits: SQNR ") and "rounding does not explain" in note for note in result.notes
    )


def test_a_runtime_that_drops_casts_is_not_measured_with(make: Make, make_job: MakeJob) -> None:
    """OpenVINO computes a Cast to FP16 and back as nothing: every node would look exact."""
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  b = Add(a, big)  c = Sub(b, big)  y = MatMul(c, w) }"
    model = make(text, w=matrix(8, 8), big=np.float32(10000))
    x = drawn(8, 8)
    job = make_job(task=Data(x=x))

    def openvino(path: Path, inputs: Mapping[str, Array]) -> Sequence[Array]:
        import openvino

        core = openvino.Core()
        compiled = core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return list(compiled(dict(inputs)).values())

    there, here = (Cast()(model, replace(job, execute=execute)) for execute in (openvino, job.execute))
    assert any("drops casts to fp16 and back" in note for note in there.notes)
    assert any(note.startswith("c/Sub kept FP32") for note in there.notes)
    assert [note for note in there.notes if "kept FP32" in note] == [note for note in here.notes if "kept FP32" in note]


def test_settings() -> None:
    adapter = TypeAdapter(Cast)
    with pytest.raises(ValidationError, match="keep_io_types: false needs dtype: fp16"):
        adapter.validate_python({"dtype": "bf16", "keep_io_types": False})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        adapter.validate_python({"max_relative_error": 2.0})
    assert adapter.validate_python({"calibration": {"num_samples": 8}}).calibration.num_samples == 8


def test_a_domain_that_onnx_does_not_know_is_no_obstacle(make: Make, make_job: MakeJob) -> None:
    model = make("(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)  c = Relu(a)  y = MatMul(c, w) }", w=matrix(8, 8))
    proto = onnx.load(str(model.path))
    proto.opset_import.add(domain="com.microsoft", version=1)
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "FastGelu", "com.microsoft"
    proto.graph.value_info.append(helper.make_tensor_value_info("c", FP32, ["n", 8]))  # as nothing else tells its type
    write(proto, model.path)
    result = Cast()(model, make_job(task=Data(x=drawn(8, 8))))
    assert result.notes[0] == "2 of 3 nodes that make floats are in fp16, 4 Cast added"
    assert result.notes[1] == "c/Relu kept FP32: ONNX has no schema for com.microsoft:FastGelu"
    assert decibels(result) > 55
