"""Layer profiles from small files in the form TensorRT saves: an INT8 net with a residual, as an engine might run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.engines.layers import engine_layers, layer_times
from accel.accelerate.engines.names import OnnxNodes, nodes_of
from accel.accelerate.engines.profile import executed_precision, layer_profile, profile_from_files
from accel.contracts import LayerProfile
from accel.errors import AccelError, BackendFault, ModelFault, UsageError

INT8 = "Thirty-two wide channel vectorized row major Int8 format"
FP32 = "Row major linear FP32"
FP16 = "Channel major FP16 format where channel % 8 == 0"
KERNEL_INT8 = "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_tilesize64x32x64_stage1"
OPERATORS = {"stem/Conv": "int8", "mid/Conv": "int8", "head/Gemm": "fp32"}


def layer(name: str, kind: str, reads: dict[str, str], makes: dict[str, str], *nodes: str, **more: Any) -> dict[str, Any]:
    """As TensorRT 10 writes one with detailed verbosity."""
    record: dict[str, Any] = {"Name": name, "LayerType": kind, "StreamId": 0}
    for side, tensors in (("Inputs", reads), ("Outputs", makes)):
        record[side] = [{"Name": each, "Dimensions": [1, 32, 8, 8], "Format/Datatype": told} for each, told in tensors.items()]
    record["Metadata"] = "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes)
    return record | more


def convolution(
    name: str, reads: dict[str, str], makes: dict[str, str], *nodes: str, tactic: str = KERNEL_INT8, **more: Any
) -> dict[str, Any]:
    more = {"ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 9216}, "TacticName": tactic} | more
    return layer(name, "CaskConvolution", reads, makes, *nodes, **more)


QUANTIZE = layer("Q0", "Reformat", {"image": FP32}, {"q": INT8}, "Q0", ParameterType="Reformat", Origin="QDQ")
STEM = convolution("stem.weight + stem/Conv + stem/Relu", {"q": INT8}, {"s": INT8}, "stem/Conv", "stem/Relu")
COPY = layer(
    "Reformatting CopyNode for Input Tensor 0 to pool/MaxPool", "Reformat", {"s": INT8}, {"s2": FP32}, Origin="REFORMAT"
)
POOL = layer("pool/MaxPool", "CaskPooling", {"s2": FP32}, {"p": FP32}, "pool/MaxPool")
MID = convolution("mid/Conv", {"p": INT8}, {"m": FP32}, "mid/Conv")
ADD = layer("PWN(mid/Add, mid/Relu)", "PointWiseV2", {"m": FP32, "p": FP32}, {"r": FP32}, "mid/Add", "mid/Relu")
HEAD = layer("head/Gemm", "gemm", {"r": FP32}, {"logits": FP32}, "head/Gemm", TacticName="ampere_sgemm_128x64_tn")
LAYERS = [QUANTIZE, STEM, COPY, POOL, MID, ADD, HEAD]
TIMES = {"Q0": 0.01, STEM["Name"]: 0.2, COPY["Name"]: 0.04, "pool/MaxPool": 0.05, "mid/Conv": 0.3, ADD["Name"]: 0.06}
TIMES["head/Gemm"] = 0.04


def inspected(layers: list[Any]) -> str:
    return json.dumps({"Layers": layers, "Bindings": ["image", "logits"]})


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    node = helper.make_node
    nodes = [
        node("Conv", ["image", "w"], ["a"], "stem/Conv"),
        node("Relu", ["a"], ["b"], "stem/Relu"),
        node("MaxPool", ["b"], ["c"], "pool/MaxPool", kernel_shape=[2, 2]),
        node("Conv", ["c", "w"], ["d"], "mid/Conv"),
        node("Add", ["c", "d"], ["e"], "mid/Add"),
        node("Relu", ["e"], ["f"], "mid/Relu"),
        node("Gemm", ["f", "w"], ["logits"], "head/Gemm"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("image", "logits")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], [numpy_helper.from_array(np.ones(1, np.float32), "w")])
    path = tmp_path_factory.mktemp("onnx") / "m.onnx"
    onnx.save(helper.make_model(graph), str(path))
    return path


@pytest.fixture(scope="module")
def known(onnx_file: Path) -> OnnxNodes:
    return nodes_of(onnx_file)


def note(profile: LayerProfile, start: str) -> str:
    """The one note that starts so."""
    (found,) = [each for each in profile.notes if each.startswith(start)]
    return found


def noted(profile: LayerProfile, part: str) -> bool:
    return any(part in each for each in profile.notes)


def test_layers_are_mapped_back_and_timed(known: OnnxNodes) -> None:
    profile = layer_profile(inspected(LAYERS), TIMES, known)
    rows = [(run.kind, run.nodes, run.precision, run.ms) for run in profile.layers]
    assert rows == [
        ("Reformat", (), "int8", 0.01),
        ("CaskConvolution", ("stem/Conv", "stem/Relu"), "int8", 0.2),
        ("Reformat", (), "fp32", 0.04),
        ("CaskPooling", ("pool/MaxPool",), "fp32", 0.05),
        ("CaskConvolution", ("mid/Conv",), "int8", 0.3),
        ("PointWiseV2", ("mid/Add", "mid/Relu"), "fp32", 0.06),
        ("gemm", ("head/Gemm",), "fp32", 0.04),
    ]


def test_reformats_are_named_with_their_cost() -> None:
    profile = layer_profile(inspected(LAYERS), TIMES)
    assert note(profile, "1 reformat layer").startswith(
        "1 reformat layer, 0.04 of 0.7 ms (6 %): before pool/MaxPool (0.04 ms); "
    )
    assert note(profile, "1 conversion layer").startswith("1 conversion layer, 0.01 of 0.7 ms (1 %): Q0 (0.01 ms); ")
    assert profile.layers[0].nodes == ("Q0",)
    assert not noted(layer_profile(inspected([STEM, MID, HEAD])), "reformat")


def test_a_lost_fusion_is_named(known: OnnxNodes) -> None:
    profile = layer_profile(inspected(LAYERS), TIMES, known)
    assert note(profile, "mid/Add").startswith("mid/Add ran in a layer of its own after mid/Conv (0.06 ms), not within it; ")
    assert not noted(profile, "stem/Relu ran")


def test_a_fusion_that_was_made_is_not_lost(known: OnnxNodes) -> None:
    fused = convolution("mid/Conv + mid/Add + mid/Relu", {"p": INT8}, {"r": FP32}, "mid/Conv", "mid/Add", "mid/Relu")
    assert not noted(layer_profile(inspected([STEM, POOL, fused, HEAD]), None, known), "of its own")


def test_what_lies_between_is_told() -> None:
    known = OnnxNodes(
        {"a/Conv": "Conv", "a/Q": "QuantizeLinear", "a/D": "DequantizeLinear", "a/Relu": "Relu"},
        {"a/Conv": ("a/Q",), "a/Q": ("a/D",), "a/D": ("a/Relu",), "a/Relu": ()},
    )
    layers = [convolution("a/Conv", {}, {"m": INT8}, "a/Conv"), layer("a/Relu", "PointWiseV2", {"m": INT8}, {}, "a/Relu")]
    profile = layer_profile(inspected(layers), None, known)
    assert note(profile, "a/Relu") == "a/Relu ran in a layer of its own after a/Conv, not within it; between them: a/Q, a/D"


def test_a_convolution_that_two_read_had_no_fusion_to_lose() -> None:
    known = OnnxNodes(
        {"a/Conv": "Conv", "a/Relu": "Relu", "b/MaxPool": "MaxPool"},
        {"a/Conv": ("a/Relu", "b/MaxPool"), "a/Relu": (), "b/MaxPool": ()},
    )
    layers = [convolution("a/Conv", {}, {"m": INT8}, "a/Conv"), layer("a/Relu", "PointWiseV2", {"m": INT8}, {}, "a/Relu")]
    assert not noted(layer_profile(inspected(layers), None, known), "of its own")


def test_an_island_in_float_is_named() -> None:
    profile = layer_profile(inspected(LAYERS), TIMES)
    assert note(profile, "in float between INT8 layers").startswith(
        "in float between INT8 layers, 0.05 of 0.7 ms (7 %): pool/MaxPool in fp32 (0.05 ms); "
    )
    kept = layer("pool/MaxPool", "CaskPooling", {"s": INT8}, {"p": INT8}, "pool/MaxPool")
    assert not noted(layer_profile(inspected([QUANTIZE, STEM, kept, MID, ADD, HEAD])), "in float between")


def test_sparse_kernels_are_counted() -> None:
    sparse = convolution("mid/Conv", {}, {}, "mid/Conv", tactic="sm80_xmma_sparse_conv_f16f16_f16f32_f32", HasSparseWeights=1)
    dense = convolution("end/Conv", {}, {}, "end/Conv", tactic="sm80_xmma_fprop_f16f16_f16f32_f32", HasSparseWeights=1)
    profile = layer_profile(inspected([STEM, sparse, dense]))
    assert note(profile, "1 of 3") == "1 of 3 convolution and matrix layers ran 2:4 sparse kernels: mid/Conv"
    assert note(profile, "1 layer with 2:4").startswith(
        "1 layer with 2:4 sparse weights ran dense kernels, the faster ones there: end/Conv;"
    )
    assert not noted(layer_profile(inspected([STEM])), "2:4")


@pytest.mark.parametrize(
    ("tactic", "data", "output", "precision"),
    [
        (KERNEL_INT8, INT8, FP32, "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw", INT8, FP32, "int8"),
        ("volta_int8x4_icudnn_int8x4_128x32_relu", INT8, INT8, "int8"),
        ("cutlass_80_tensorop_i16832gemm_s8_128x64", INT8, FP16, "int8"),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc", FP32, FP32, "tf32"),
        ("sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc", FP16, FP16, "bf16"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc", FP16, FP16, "fp16"),
        ("turing_fp16_s1688cudnn_fp16_128x128_ldg8_relu", FP16, FP16, "fp16"),
        ("ampere_scudnn_128x64_relu_medium_nn_v1", FP32, FP32, "fp32"),
        ("sm89_xmma_gemm_e4m3f32_e4m3f32_f32_tn_n", "Row major linear FP8", FP32, "fp8"),
        ("", INT8, FP32, "int8"),
        ("", FP16, FP16, "fp16"),
        ("", "N/A due to dynamic shapes", "N/A due to dynamic shapes", "unknown"),
    ],
)
def test_the_precision_of_a_layer(tactic: str, data: str, output: str, precision: str) -> None:
    (found,) = engine_layers(inspected([convolution("a/Conv", {"x": data}, {"y": output}, tactic=tactic)]))
    assert found.precision == precision


def test_weights_alone_in_int8_are_multiplied_in_float() -> None:
    (found,) = engine_layers(inspected([convolution("a/Conv", {"x": FP16}, {"y": FP16}, tactic="")]))
    assert found.precision == "fp16"


def test_types_as_tensorrt_11_tells_them() -> None:
    record = layer("pool", "CaskPooling", {}, {})
    record["Outputs"] = [{"Name": "p", "Datatype": "Half", "Format": "Row major linear FP16 format (kLINEAR)"}]
    (found,) = engine_layers(json.dumps({"Layers": [record], "I/O Tensors": [{"Name": "image", "IOMode": "Input"}]}))
    assert found.precision == "fp16"


def test_what_dynamic_shapes_hide_is_said() -> None:
    hidden = convolution("a/Conv", {"x": "N/A due to dynamic shapes"}, {"y": "N/A due to dynamic shapes"}, tactic="")
    assert note(layer_profile(inspected([hidden])), "the precision of 1 layer is not told (a/Conv)")


def test_an_engine_that_tells_only_names(known: OnnxNodes) -> None:
    names = ["Q0", "stem.weight + stem/Conv + stem/Relu", COPY["Name"], "{ForeignNode[pool/MaxPool...mid/Relu]}", "head/Gemm_7"]
    profile = layer_profile(json.dumps({"Layers": names, "Bindings": []}), {names[3]: 0.5}, known)
    assert [run.nodes for run in profile.layers] == [
        (), ("stem/Conv", "stem/Relu"), (), ("pool/MaxPool", "mid/Conv", "mid/Add", "mid/Relu"), ("head/Gemm",),
    ]  # fmt: skip
    assert {run.precision for run in profile.layers} == {"unknown"}
    assert note(profile, "the engine tells only the names")
    assert note(profile, "no time for stem.weight + stem/Conv + stem/Relu, head/Gemm_7; ")


def test_times_of_other_layers_are_kept_and_named() -> None:
    profile = layer_profile(inspected([STEM]), {STEM["Name"]: 0.2, "elsewhere": 0.125})
    assert [(run.name, run.ms) for run in profile.layers] == [(STEM["Name"], 0.2), ("elsewhere", 0.125)]
    assert note(profile, "0.125 ms in layers that the inspector does not list: elsewhere")


def test_two_layers_of_one_name_are_not_timed_twice() -> None:
    profile = layer_profile(inspected([POOL, POOL]), {"pool/MaxPool": 0.5})
    assert [run.ms for run in profile.layers] == [0.5, None]


def test_what_was_executed(known: OnnxNodes) -> None:
    ran = executed_precision(inspected(LAYERS), OPERATORS)
    assert (ran.quantized_operators, ran.int8_operators, ran.float_precision, ran.notes) == (2, 2, "fp32", ())
    assert ran.operators["CaskConvolution"] == 2
    fallen = convolution("mid/Conv", {"p": FP16}, {"m": FP16}, "mid/Conv", tactic="sm80_xmma_fprop_f16f16_f16f32_f32")
    ran = executed_precision(inspected([STEM, fallen, HEAD]), OPERATORS, known)
    assert (ran.quantized_operators, ran.int8_operators, ran.float_precision) == (2, 1, "fp16")
    assert "quantized, and ran in fp16: mid/Conv" in ran.notes
    assert "1 of 2 quantized operators did not run in INT8" in ran.notes
    ran = executed_precision(inspected([STEM, HEAD]), OPERATORS)
    assert "1 of 3 operators: in what they ran is not told: mid/Conv" in ran.notes


def test_tf32_is_not_called_fp32() -> None:
    tf32 = convolution("a/Conv", {"x": FP32}, {"y": FP32}, "a/Conv", tactic="sm80_xmma_fprop_f32f32_tf32f32_f32")
    assert executed_precision(inspected([tf32, HEAD]), {"a/Conv": "fp32", "head/Gemm": "fp32"}).float_precision == "tf32"


def test_the_layer_that_multiplies_tells_the_precision_of_a_node() -> None:
    cast = layer("__myl_Cast", "kgen", {"x": FP32}, {"y": FP16}, "mid/Conv")
    ran = executed_precision(inspected([MID, cast]), {"mid/Conv": "int8"})
    assert ran.int8_operators == 1


def test_a_compiled_region_that_reads_int8_ran_in_int8() -> None:
    region = layer("__myl_MulSum", "kgen", {"x": INT8}, {"y": FP16}, "mid/Conv")
    assert executed_precision(inspected([region]), {"mid/Conv": "int8"}).int8_operators == 1
    region = layer("__myl_MulSum", "kgen", {"x": FP16}, {"y": FP16}, "mid/Conv")
    assert executed_precision(inspected([region]), {"mid/Conv": "int8"}).int8_operators == 0


def trtexec_times(times: dict[str, float]) -> str:
    rows: list[dict[str, Any]] = [{"count": 4}]
    rows += [{"name": name, "timeMs": 4 * ms, "averageMs": ms, "medianMs": ms, "percentage": 1} for name, ms in times.items()]
    return json.dumps(rows)


def test_files_that_trtexec_saved(tmp_path: Path, onnx_file: Path) -> None:
    layers, times = tmp_path / "layers.json", tmp_path / "times.json"
    # TensorRT has been seen to write the separator as it is, which strict JSON does not allow.
    layers.write_text(inspected(LAYERS).replace("\\u001e", "\x1e"))
    times.write_text(trtexec_times(TIMES))
    profile = profile_from_files(layers, times, onnx_file)
    assert profile == layer_profile(inspected(LAYERS), TIMES, nodes_of(onnx_file))
    assert profile_from_files(layers, None, None).layers[1].ms is None


def test_times_without_a_mean_are_divided_by_the_count() -> None:
    assert layer_times('[{"count": 4}, {"name": "a", "timeMs": 2.0}]') == {"a": 0.5}


@pytest.mark.parametrize(
    ("layers", "times", "message"),
    [
        ("{", None, "layers.json: not JSON, or cut short"),
        ("[]", None, "layers.json: not what an engine inspector writes"),
        ('{"Layers": []}', None, "layers.json: it lists no layers"),
        ('{"Layers": [3]}', None, "layers.json: layer 0 is neither a name nor an object with a Name"),
        (trtexec_times({"a": 1.0}), None, "layers.json: these are layer times"),
        (inspected([STEM]), inspected([STEM]), "times.json: these are layers"),
        (inspected([STEM]), "[]", "times.json: no layer times in it"),
        (inspected([STEM]), "3", "times.json: no layer times in it"),
        (inspected([STEM]), '[{"name": "a", "averageMs": NaN}]', "times.json: layer 'a' has no time that is a number"),
        (inspected([STEM]), '[{"count": 0}, {"name": "a", "timeMs": 1}]', "times.json: layer 'a' has no time that is a number"),
    ],
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, layers: str, times: str | None, message: str) -> None:
    (tmp_path / "layers.json").write_text(layers)
    (tmp_path / "times.json").write_text(times or "")
    with pytest.raises(BackendFault) as caught:
        profile_from_files(tmp_path / "layers.json", tmp_path / "times.json" if times else None, None)
    assert str(caught.value).startswith(message)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "model.engine").write_bytes(b"\xff\xfe")
    (tmp_path / "layers.json").write_text(inspected([STEM]))
    cases: list[tuple[str, type[AccelError], str]] = [
        ("absent.json", UsageError, "no such file"),
        (".", UsageError, "a folder"),
        ("model.engine", BackendFault, "not text"),
    ]
    for name, error, message in cases:
        with pytest.raises(error, match=message):
            profile_from_files(tmp_path / name, None, None)
    with pytest.raises(ModelFault, match="not an ONNX model"):
        profile_from_files(tmp_path / "layers.json", None, tmp_path / "layers.json")
