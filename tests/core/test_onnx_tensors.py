"""Faults 25 and 27 of the fault list, one case for each item: external data, and weights that are no numbers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.errors import AccelError, ModelFault, SafetyRefusal
from accel.onnx_file import check, digest, files, read, require_finite

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
