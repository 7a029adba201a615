"""Faults 24 to 27 of the fault list, one case for each item, and what ``read`` gives for files that are sound."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel import onnx_file
from accel.errors import AccelError, ModelFault, SafetyRefusal, UsageError
from accel.onnx_file import check, digest, files, parse, read, require_finite

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


@pytest.fixture
def external(tmp_path: Path) -> Path:
    """A model in its own folder whose weight lies in ``w.bin`` beside it."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "m.onnx"
    onnx.save_model(linear(), str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    return path


def relocated(path: Path, **fields: str) -> Path:
    """The same file with other values in its tensor's external data."""
    proto = onnx.load(str(path), load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = fields.pop(entry.key, entry.value)
    for key, text in fields.items():
        proto.graph.initializer[0].external_data.add(key=key, value=text)
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


# -- 25: external data --------------------------------------------------------------------------------------------------


def test_external_data_beside_the_model(external: Path) -> None:
    assert files(external) == (external, external.with_name("w.bin"))
    before = digest(external)
    assert check(external) == []
    external.with_name("w.bin").write_bytes(np.ones(12, np.float32).tobytes())
    assert digest(external) != before


def missing(path: Path) -> None:
    path.with_name("w.bin").unlink()


def truncated(path: Path) -> None:
    path.with_name("w.bin").write_bytes(bytes(40))


def past_the_end(path: Path) -> None:
    relocated(path, offset="4096")


def negative_offset(path: Path) -> None:
    relocated(path, offset="-4")


def not_a_number(path: Path) -> None:
    relocated(path, length="many")


def too_short(path: Path) -> None:
    relocated(path, length="16")


def huge_length(path: Path) -> None:
    relocated(path, length=str(1 << 60))


def climbing(path: Path) -> None:
    shutil.copy(path.with_name("w.bin"), path.parent.parent / "w.bin")
    relocated(path, location="../w.bin")


def climbing_inside(path: Path) -> None:
    relocated(path, location="sub/../w.bin")


def absolute(path: Path) -> None:
    relocated(path, location=str(path.with_name("w.bin")))


def symlink(path: Path) -> None:
    shutil.move(path.with_name("w.bin"), path.parent.parent / "w.bin")
    path.with_name("w.bin").symlink_to(path.parent.parent / "w.bin")


def symlinked_folder(path: Path) -> None:
    (path.parent.parent / "real").mkdir()
    shutil.move(path.with_name("w.bin"), path.parent.parent / "real" / "w.bin")
    path.with_name("sub").symlink_to(path.parent.parent / "real")
    relocated(path, location="sub/w.bin")


def hardlink(path: Path) -> None:
    os.link(path.with_name("w.bin"), path.parent.parent / "w.bin")


def folder(path: Path) -> None:
    path.with_name("w.bin").unlink()
    path.with_name("w.bin").mkdir()


def pipe(path: Path) -> None:
    path.with_name("w.bin").unlink()
    os.mkfifo(path.with_name("w.bin"))


def no_location(path: Path) -> None:
    relocated(path, location="")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (missing, ModelFault),
        (truncated, ModelFault),
        (past_the_end, ModelFault),
        (negative_offset, ModelFault),
        (not_a_number, ModelFault),
        (too_short, ModelFault),
        (huge_length, ModelFault),
        (folder, ModelFault),
        (pipe, ModelFault),
        (no_location, ModelFault),
        (climbing, SafetyRefusal),
        (climbing_inside, SafetyRefusal),
        (absolute, SafetyRefusal),
        (symlink, SafetyRefusal),
        (symlinked_folder, SafetyRefusal),
        (hardlink, SafetyRefusal),
    ],
)
def test_external_data_that_is_damaged_or_elsewhere(
    external: Path, damage: Callable[[Path], None], error: type[AccelError]
) -> None:
    damage(external)
    for use in (read, files, digest, require_finite, check):
        with pytest.raises(error, match="'w'"):
            use(external)


@pytest.mark.parametrize("place", ["attribute", "subgraph", "sparse"])
def test_external_data_is_found_wherever_it_hides(tmp_path: Path, place: str) -> None:
    tensor = TensorProto(name="hidden", data_type=FLOAT, dims=[3], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    constant = helper.make_node("Constant", [], ["c"], "hiding")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    if place == "attribute":
        proto = model([constant, helper.make_node("Add", ["x", "c"], ["y"])], outputs=[value("y", ["batch", 3])])
    elif place == "subgraph":
        branch = helper.make_graph([constant], "branch", [], [value("c", [3])])
        choice = helper.make_node("If", ["x"], ["y"], "choice", then_branch=branch, else_branch=branch)
        proto = model([choice], inputs=[value("x", [], TensorProto.BOOL)], outputs=[value("y", [3])])
    else:
        proto = model([helper.make_node("Identity", ["x"], ["y"])], outputs=[value("y", ["batch", 4])])
        proto.graph.sparse_initializer.add().values.CopyFrom(tensor)
    with pytest.raises(SafetyRefusal, match="outside the model's folder"):
        read(saved(tmp_path, proto))


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


# -- 27: weights --------------------------------------------------------------------------------------------------------------


def with_bits(kind: int, dtype: str, bits: int, count: int = 12) -> Any:
    raw = np.zeros(count, dtype)
    raw[count // 2] = bits
    raw[0] = 1 << (raw.dtype.itemsize * 8 - 3)  # a finite value that is not zero
    return helper.make_tensor("w", kind, [4, 3], raw.tobytes(), raw=True)


@pytest.mark.parametrize(
    ("kind", "dtype", "bits", "what"),
    [
        (TensorProto.FLOAT, "<u4", 0x7FC00000, "NaN"),
        (TensorProto.FLOAT, "<u4", 0xFF800000, "Inf"),
        (TensorProto.DOUBLE, "<u8", 0x7FF8000000000000, "NaN"),
        (TensorProto.FLOAT16, "<u2", 0x7E00, "NaN"),
        (TensorProto.FLOAT16, "<u2", 0xFC00, "Inf"),
        (TensorProto.BFLOAT16, "<u2", 0x7FC0, "NaN"),
        (TensorProto.BFLOAT16, "<u2", 0x7F80, "Inf"),
        (TensorProto.FLOAT8E4M3FN, "<u1", 0x7F, "NaN"),
        (TensorProto.FLOAT8E5M2, "<u1", 0x7C, "Inf"),
        (TensorProto.FLOAT8E5M2, "<u1", 0x7E, "NaN"),
        (TensorProto.FLOAT8E4M3FNUZ, "<u1", 0x80, "NaN"),
        (TensorProto.FLOAT8E5M2FNUZ, "<u1", 0x80, "NaN"),
    ],
)
def test_weights_that_are_no_numbers_in_every_float_type(tmp_path: Path, kind: int, dtype: str, bits: int, what: str) -> None:
    require_finite(saved(tmp_path, linear(with_bits(kind, dtype, 0)), "sound.onnx"))
    with pytest.raises(ModelFault, match=f"'w' holds {what}"):
        require_finite(saved(tmp_path, linear(with_bits(kind, dtype, bits))))


def test_nan_in_typed_fields_in_external_data_and_in_a_constant(tmp_path: Path, external: Path) -> None:
    typed = helper.make_tensor("w", FLOAT, [4, 3], [1.0, float("nan"), *[0.0] * 10])
    with pytest.raises(ModelFault, match="'w' holds NaN"):
        require_finite(saved(tmp_path, linear(typed)))
    external.with_name("w.bin").write_bytes(np.full(12, np.nan, np.float32).tobytes())
    with pytest.raises(ModelFault, match="'w' holds NaN"):
        require_finite(external)
    constant = helper.make_node("Constant", [], ["w"], "made", value=helper.make_tensor("", FLOAT, [1], [float("nan")]))
    with pytest.raises(ModelFault, match="'made' holds NaN"):
        require_finite(saved(tmp_path, model([constant, helper.make_node("Mul", ["x", "w"], ["y"])])))


def test_a_mask_of_zeros_and_infinities_is_no_fault_but_such_a_weight_is(tmp_path: Path) -> None:
    mask = numpy_helper.from_array(np.triu(np.full((4, 4), -np.inf, np.float32), 1), "mask")
    require_finite(saved(tmp_path, model([helper.make_node("Add", ["x", "mask"], ["y"])], [mask])))
    with pytest.raises(ModelFault, match="'w' holds Inf"):
        require_finite(saved(tmp_path, linear(np.full((4, 3), np.inf, np.float32))))


def test_all_zero_layers_and_denormals_are_warnings(tmp_path: Path) -> None:
    zero = check(saved(tmp_path, linear(np.zeros((4, 3), np.float32))))
    assert zero == ["w: all 12 weights are zero"]
    small = np.ones((4, 3), np.float32)
    small[0] = 1e-40
    assert check(saved(tmp_path, linear(small))) == ["w: 3 denormal values, slow on some CPUs; round them to zero"]


def test_a_weight_with_too_few_bytes(tmp_path: Path) -> None:
    with pytest.raises(ModelFault, match="needs 48 bytes"):
        require_finite(saved(tmp_path, linear(TensorProto(name="w", data_type=FLOAT, dims=[4, 3], raw_data=bytes(40)))))


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
