"""Faults 24 and 26 of the fault list, one case for each item, and what ``read`` gives for files that are sound."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import onnx_file, onnx_graph
from accel.errors import AccelError, ModelFault, UsageError
from accel.onnx_file import check, files, parse, read, require_finite

FLOAT = TensorProto.FLOAT
Shape = Sequence[int | str | None]


def value(name: str, shape: Shape, kind: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: Sequence[Any],
    weights: Sequence[Any] = (),
    *,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    opset: int = 17,
) -> Any:
    graph = helper.make_graph(
        nodes, "g", inputs or [value("x", ["batch", 4])], outputs or [value("y", ["batch", 3])], list(weights)
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def linear(weight: Any = None) -> Any:
    if weight is None:
        weight = np.arange(12, dtype=np.float32).reshape(4, 3) / 7
    tensor = weight if isinstance(weight, TensorProto) else numpy_helper.from_array(weight, "w")
    return model([helper.make_node("MatMul", ["x", "w"], ["y"], "layer/MatMul")], [tensor])


def saved(folder: Path, proto: Any, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def test_signature_of_named_and_unnamed_axes_and_listed_initializers(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "mm")],
        [numpy_helper.from_array(np.ones((4, 3), np.float32), "w")],
        inputs=[value("x", [None, "length", None, 4]), value("w", [4, 3])],
        outputs=[value("y", [None, "length", None, 3])],
    )
    signature = read(saved(tmp_path, proto)).signature
    assert [(spec.name, spec.shape, spec.dtype) for spec in signature.inputs] == [
        ("x", ("batch", "length", "x_dim2", 4), "float32")
    ]
    assert signature.outputs[0].shape == ("batch", "length", "y_dim2", 3)


def test_an_output_without_a_shape_is_inferred(tmp_path: Path) -> None:
    proto = linear()
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert read(saved(tmp_path, proto)).signature.outputs[0].shape == ("batch", 3)


@pytest.mark.parametrize(
    ("kind", "name"), [(TensorProto.INT64, "int64"), (TensorProto.BOOL, "bool"), (TensorProto.FLOAT16, "float16")]
)
def test_dtypes_are_numpys(tmp_path: Path, kind: int, name: str) -> None:
    proto = model([helper.make_node("Identity", ["x"], ["y"])], inputs=[value("x", [2], kind)], outputs=[value("y", [2], kind)])
    assert read(saved(tmp_path, proto)).signature.inputs[0].dtype == name


def test_an_input_that_is_no_tensor(tmp_path: Path) -> None:
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, [2])
    proto = model([helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0)], inputs=[sequence], outputs=[value("y", [2])])
    with pytest.raises(ModelFault, match="'x' is a sequence"):
        read(saved(tmp_path, proto))


# -- 24: files that are no model ----------------------------------------------------------------------------------------


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelFault, match="empty"):
        read(tmp_path / "m.onnx")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(random.Random(seed).randbytes(4096))
    with pytest.raises(ModelFault, match=r"m\.onnx"):
        read(path)


def test_truncated_anywhere(tmp_path: Path) -> None:
    whole = linear().SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFault):
            read(path)


def test_flipped_bytes_end_in_our_errors_only(tmp_path: Path) -> None:
    generator = random.Random(1)
    whole = linear().SerializeToString()
    path = tmp_path / "m.onnx"
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 1, 3])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            check(path)
            onnx_graph.summary(path)
        except AccelError:
            refused += 1
    assert refused > 100


def test_a_name_that_is_not_text_and_an_input_that_is_missing(tmp_path: Path) -> None:
    path = saved(tmp_path, linear())
    path.write_bytes(path.read_bytes().replace(b"layer/MatMul", b"layer/\xff\xfetMul"))
    with pytest.raises(ModelFault, match="not text"):
        read(path)
    with pytest.raises(ModelFault, match=r"'short' \(MatMul\) has 1 inputs"):
        read(saved(tmp_path, model([helper.make_node("MatMul", ["x"], ["y"], "short")])))


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        read(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="not a file"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00" + b'{"a":{}}        ', "safetensors"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
        (b"\x1c\x00\x00\x00TFL3" + bytes(40), "TensorFlow Lite"),
    ],
)
def test_wrong_extension_says_what_it_looks_like(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFault, match=says):
        read(path)


def test_a_checkpoint_called_onnx(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.onnx", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(ModelFault, match="PyTorch checkpoint"):
        read(tmp_path / "m.onnx")


# -- 26: graphs that do not hold together ---------------------------------------------------------------------------------


def test_opset_too_new(tmp_path: Path) -> None:
    proto = linear()
    proto.opset_import[0].version = 999
    with pytest.raises(ModelFault, match=r"opset 999 \(first node: layer/MatMul\).*Upgrade"):
        read(saved(tmp_path, proto))


def test_ir_version_too_new(tmp_path: Path) -> None:
    proto = linear()
    proto.ir_version = 999
    with pytest.raises(ModelFault, match="IR version 999"):
        read(saved(tmp_path, proto))


def test_opset_too_old(tmp_path: Path) -> None:
    proto = linear()
    proto.opset_import[0].version = 4
    with pytest.raises(ModelFault, match=r"opset 4 .*older than 7"):
        read(saved(tmp_path, proto))


def test_unknown_operator(tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match=r"'odd' \(Frobnicate\)"):
        read(saved(tmp_path, model([helper.make_node("Frobnicate", ["x"], ["y"], "odd")])))


def test_operator_newer_than_the_opset(tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match=r"'g' \(Gelu\) does not exist in opset 17"):
        read(saved(tmp_path, model([helper.make_node("Gelu", ["x"], ["y"], "g")])))


@pytest.mark.parametrize("declared", [True, False])
def test_unknown_domain(tmp_path: Path, declared: bool) -> None:
    proto = model([helper.make_node("Magic", ["x"], ["y"], "odd", domain="com.example")])
    if declared:
        proto.opset_import.append(helper.make_opsetid("com.example", 1))
    with pytest.raises(ModelFault, match=r"'odd'.*com\.example"):
        read(saved(tmp_path, proto))


def test_cycle_names_its_nodes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"], "second"),
             helper.make_node("Relu", ["b"], ["y"], "third")]  # fmt: skip
    with pytest.raises(ModelFault, match=r"cycle.*first.*second"):
        read(saved(tmp_path, model(nodes)))


def test_unsorted_and_dangling(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["a"], ["y"], "late"), helper.make_node("Relu", ["x"], ["a"], "early")]
    with pytest.raises(ModelFault, match=r"'late'.*before.*'early'"):
        read(saved(tmp_path, model(nodes)))
    with pytest.raises(ModelFault, match=r"'late'.*nothing makes"):
        read(saved(tmp_path, model(nodes[:1])))


def test_more_than_one_protobuf_holds(tmp_path: Path) -> None:
    path = saved(tmp_path, linear())
    assert parse(path, limit_bytes=path.stat().st_size).graph.name == "g"
    with pytest.raises(ModelFault, match="external data"):
        parse(path, limit_bytes=path.stat().st_size - 1)
    assert onnx_file.PROTOBUF_LIMIT_BYTES == 2**31 - 1


def test_shapes_that_contradict_each_other(tmp_path: Path) -> None:
    path = saved(tmp_path, linear(np.ones((5, 3), np.float32)))
    with pytest.raises(ModelFault, match="layer/MatMul"):
        check(path)


def test_an_ir_is_read_without_a_runtime(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    path = tmp_path / "m.xml"
    openvino.save_model(openvino.Core().read_model(str(saved(tmp_path, linear()))), path, compress_to_fp16=False)
    signature = read(path).signature
    assert (signature.inputs[0].name, signature.inputs[0].shape, signature.inputs[0].dtype) == ("x", ("batch", 4), "float32")
    assert (signature.outputs[0].name, signature.outputs[0].shape) == ("y", ("batch", 3))
    assert files(path) == (path, tmp_path / "m.bin")
    assert check(path) == []
    weights = (tmp_path / "m.bin").read_bytes()
    (tmp_path / "m.bin").write_bytes(np.float32(np.nan).tobytes() + weights[4:])
    with pytest.raises(ModelFault, match="'w' holds NaN"):
        require_finite(path)
    (tmp_path / "m.bin").write_bytes(weights[:20])
    with pytest.raises(ModelFault, match=r"'w' is not inside m\.bin"):
        check(path)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelFault, match=r"m\.bin"):
        read(path)


def test_xml_that_is_no_ir(tmp_path: Path) -> None:
    (tmp_path / "m.bin").touch()
    for text in ("", "<net", "<svg/>", "<net><layers/></net>"):
        (tmp_path / "m.xml").write_text(text)
        with pytest.raises(ModelFault):
            read(tmp_path / "m.xml")
