from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from accel.compress.casting.types import LOW_TYPES, Ports, _infer, element_types, in_an_opset_for, opset, ports
from accel.errors import PassFault

FP16, BF16 = LOW_TYPES["fp16"], LOW_TYPES["bf16"]
FLOAT, INT64, BOOL, INT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT8
TYPES = {"x": FLOAT, "y": FLOAT, "z": FLOAT, "i": INT64, "b": BOOL, "q": INT8, "h": TensorProto.FLOAT16}


def of(kind: str, inputs: str, outputs: str, version: int = 20, low: str = "fp16", **attributes: object) -> Ports:
    node = helper.make_node(kind, inputs.split(" "), outputs.split(), **attributes)
    return ports(node, TYPES, version, LOW_TYPES[low])


def test_what_the_schema_lets_be_in_16_bits() -> None:
    assert of("Conv", "x y z", "z") == Ports((0, 1, 2), (0,), True)
    assert of("Where", "b x y", "z") == Ports((1, 2), (0,), True)
    assert of("Gather", "x i", "z") == Ports((0,), (0,), True)
    assert of("Concat", "x y x y", "z").inputs == (0, 1, 2, 3)
    assert of("TopK", "x i", "z i") == Ports((0,), (0,), True)
    assert of("Resize", "x y z", "y", mode="linear") == Ports((0,), (0,), True), "roi and scales stay"
    assert of("LayerNormalization", "x y z", "x y z", 17).outputs == (0,), "mean and deviation stay"
    assert of("Shape", "x", "i") == Ports((0,), (), False)
    assert of("Cast", "i", "x", to=FLOAT) == Ports((), (0,), True)
    assert of("Cast", "x", "i", to=INT64) == Ports((0,), (), False)
    assert of("Add", "i i", "i") == Ports() == of("Relu", "h", "h")
    assert of("Clip", "x  y", "z") == Ports((0, 2), (0,), True), "an input that is left out has no type"


def test_opsets_differ() -> None:
    assert of("DequantizeLinear", "q x", "y", 13).why_not == "DequantizeLinear has no fp16 in opset 13"
    assert of("DequantizeLinear", "q x", "y", 19) == Ports((1,), (0,), True)
    assert of("DequantizeLinear", "q x", "y", 23) == Ports((1,), (0,), True)
    assert of("DequantizeLinear", "q x", "y", 23, output_dtype=FLOAT).why_not
    assert of("QuantizeLinear", "x y", "q", 19) == Ports((0, 1), (), False)
    assert of("Conv", "x y", "z", 20, "bf16").why_not == "Conv has no bf16 in opset 20"
    assert of("Conv", "x y", "z", 22, "bf16") == Ports((0, 1), (0,), True)


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs", "why"),
    [
        ("RandomNormalLike", "x", "y", "it draws at random"),
        ("NonZero", "x", "i", "the shape of what it makes depends on values"),
        ("Range", "x y z", "z", "Range has no fp16 in opset 20"),
        ("Relu", "x", "unknown", "the type of 'unknown' is not known"),
        ("NoSuchThing", "x", "y", "ONNX has no schema for"),
    ],
)
def test_what_must_stay_says_why(kind: str, inputs: str, outputs: str, why: str) -> None:
    assert of(kind, inputs, outputs).why_not.startswith(why)


def test_dropout_is_random_only_in_training() -> None:
    assert not of("Dropout", "x y", "z").why_not
    assert of("Dropout", "x y b", "z").why_not == "it draws at random"


def test_16_bits_round_to_nearest_and_overflow() -> None:
    values = np.array([1 / 3, 65519, 65520, 1e-8], np.float32)
    np.testing.assert_array_equal(FP16.rounded(values), np.array([1 / 3, 65504, np.inf, 0], np.float16))
    largest = np.array([BF16.largest, 3.4e38, 1.0 + BF16.roundoff * 0.9], np.float32)
    np.testing.assert_array_equal(BF16.rounded(largest).astype(np.float32), np.array([BF16.largest, np.inf, 1.0], np.float32))
    info = np.finfo(np.float16)
    assert [FP16.largest, FP16.smallest, FP16.roundoff] == [float(info.max), float(info.tiny), float(info.eps) / 2]


def old(version: int, text: str, **weights: np.ndarray) -> onnx.ModelProto:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {version}]> g {text}')
    for name, values in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return proto


def test_the_opset_goes_up_as_far_as_it_must() -> None:
    big = np.random.default_rng(0).standard_normal((2048, 1, 1, 1))
    text = "(float[n,1,4,4] x) => (float[n,2048,4,4] y) { y = Conv(x, w) }"
    before = old(17, text, w=big)
    assert in_an_opset_for(before, FP16) == (before, ())
    after, notes = in_an_opset_for(before, BF16)
    assert opset(after) == 22 and notes == ("converted from opset 17 to 22: bf16 of Conv needs it",)
    np.testing.assert_array_equal(numpy_helper.to_array(after.graph.initializer[0]), big.astype(np.float32))
    assert opset(before) == 17
    integers = old(17, "(int64[2] s) => (int64[n] y) { y = ConstantOfShape<value = int64[1] {1}>(s) }")
    assert in_an_opset_for(integers, BF16) == (integers, ()), "integers need no opset"


def test_a_model_too_old_that_cannot_be_converted_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
        raise RuntimeError("no adapter")

    monkeypatch.setattr(onnx.version_converter, "convert_version", refuse)
    text = "(float[n,1,4,4] x) => (float[n,1,4,4] y) { y = Conv(x, w) }"
    with pytest.raises(PassFault, match=r"opset 9 cannot be converted to 13 .*no adapter; export the model again"):
        in_an_opset_for(old(9, text, w=np.ones((1, 1, 1, 1))), FP16)
    model, notes = in_an_opset_for(old(17, text, w=np.ones((1, 1, 1, 1))), BF16)
    assert opset(model) == 17 and notes[0].startswith("warning: opset 17 cannot be converted to 22")


def test_types_are_found_without_the_weights() -> None:
    model = old(
        17, "(float[n,1,4,4] x) => (float[n,1,4,4] y) { a = Conv(x, w)  s = Shape(a)  y = Relu(a) }", w=np.ones((1, 1, 1, 1))
    )
    assert element_types(model) == {"x": FLOAT, "w": FLOAT, "a": FLOAT, "s": INT64, "y": FLOAT}


def test_types_go_on_behind_what_inference_does_not_know() -> None:
    text = """(float[n,4,4,4] x) => (float[n,4] y)
        { a = GroupNormalization<num_groups = 2>(x, w, w)  b = Einsum<equation = "bchw,bchw->bc">(a, x)  y = Relu(b) }"""
    found = element_types(old(21, text, w=np.ones(4)))
    assert found["a"] == found["b"] == found["y"] == FLOAT


def test_what_a_loop_carries_is_not_guessed_from_its_neighbour() -> None:
    """One name of a type in the schema stands for all that it carries: here a float and an integer."""
    text = """<ir_version: 10, opset_import: ["" : 20]> g (float[2] x, int64 m, int64 i) => (float[2] y) {
        l, k = Loop(m, , i, x) <body = b (int64 it, bool c, int64 j, float[2] s) => (bool d, int64 j2, float[2] e)
            { d = Identity(c)  j2 = Identity(j)  e = Relu(s) }>  y = Add(x, x) }"""
    model = parser.parse_model(text)
    types = {"x": FLOAT, "m": INT64, "i": INT64}
    _infer(model.graph.node[0], types, 20)
    assert set(types) == {"x", "m", "i"}
