"""ONNX files that the parser refuses: the error names every node, what is wrong with it, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.log import Messages
from accel.accelerate.engines.parse import parsed_network, refusal
from accel.errors import BackendFault, ModelFault

FILES = run_path(str(Path(__file__).with_name("tensorrt_files.py")))
conv, save, floating, quantized = (FILES[name] for name in ("conv", "save", "floating", "quantized"))


@pytest.fixture(scope="module")
def library() -> tensorrt_library.TensorRtLibrary:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    return tensorrt_library.chosen("tensorrt-rtx")


def operator(kind: str, *, name: str = "head/op", domain: str = "", **attributes: Any) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        odd = helper.make_node(kind, ["image"], ["a"], name=name, domain=domain, **attributes)
        written: Path = save(path, [odd, conv()])
        if domain:
            model = onnx.load(path)
            model.opset_import.append(helper.make_opsetid(domain, 1))
            onnx.save(model, path)
        return written

    return make


def half_data(path: Path) -> Path:
    cast = helper.make_node("Cast", ["image"], ["h"], name="in/Cast", to=TensorProto.FLOAT16)
    return Path(save(path, [cast, conv("h")]))


def reshaped(path: Path) -> Path:
    shape = numpy_helper.from_array(np.array([7, 5]), "shape")
    return Path(
        save(path, [helper.make_node("Reshape", ["image", "shape"], ["y"], name="head/Reshape")], [shape], (2, 8, 16, 16))
    )


@pytest.mark.parametrize(
    ("make", "node", "said", "way_out"),
    [
        (operator("Frobnicate", domain="com.acme"), "head/op (Frobnicate)", "no such operator", "backend onnxruntime"),
        (operator("NonZero"), "head/op (NonZero)", "no such operator", "backend onnxruntime"),
        (operator("Det"), "head/op (Det)", "does not take this operator", "type: simplify"),
        (operator("Det", name=""), "without a name that makes a (Det)", "does not take this operator", "type: simplify"),
        (operator("Cast", to=TensorProto.STRING), "head/op (Cast)", "data type that TensorRT does not have", "keep texts"),
        (lambda path: quantized(path, zero_point=3), "conv1/QuantizeLinear", "zero point is not 0", "`quantize` pass"),
        (
            lambda path: quantized(path, zero_point=131, unsigned=True),
            "conv1/QuantizeLinear",
            "takes symmetric quantization alone",
            "target with backend tensorrt",
        ),
        (lambda path: quantized(path, bias="int32"), "conv1/bias (DequantizeLinear)", "an INT32 tensor", "biases in float"),
        (half_data, "conv1/Conv (Conv)", "`input` type is Half but `kernel` is of type Float", "put a Cast before it"),
        (reshaped, "head/Reshape (Reshape)", "Reshaping [2,8,16,16] to [7,5]", "shapes that the model was exported with"),
    ],
)
def test_refused(
    make: Callable[[Path], Path], node: str, said: str, way_out: str, library: tensorrt_library.TensorRtLibrary, tmp_path: Path
) -> None:
    with pytest.raises(BackendFault) as caught:
        parsed_network(library, make(tmp_path / "odd.onnx"), Messages())
    message = str(caught.value)
    assert message.startswith(f"odd.onnx: TensorRT cannot take it: node {node}")
    assert said in message
    assert way_out in message
    assert "/_src/" not in message  # no places in NVIDIA's sources, nothing about the driver
    assert "cudaError" not in message
    assert "\n" not in message


def test_every_node_is_named(library: tensorrt_library.TensorRtLibrary, tmp_path: Path) -> None:
    odd = [helper.make_node("Det", ["image"], [f"a{index}"], name=f"layer{index}/Det") for index in range(7)]
    with pytest.raises(BackendFault) as caught:
        parsed_network(library, save(tmp_path / "odd.onnx", [*odd, conv()]), Messages())
    lines = str(caught.value).split("\n")
    assert [f"layer{index}/Det" in line for index, line in enumerate(lines[:5])] == [True] * 5
    assert lines[5:] == ["and 2 more"]


@pytest.mark.parametrize("content", [b"hello world" * 50, b"\x08\x0a\x12"])
def test_what_is_no_onnx(content: bytes, library: tensorrt_library.TensorRtLibrary, tmp_path: Path) -> None:
    """The library itself takes some such files for an empty network."""
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFault, match=r"odd\.onnx: not an ONNX model, or cut short"):
        parsed_network(library, path, Messages())


def test_cut_short(library: tensorrt_library.TensorRtLibrary, tmp_path: Path) -> None:
    path = floating(tmp_path / "odd.onnx")
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelFault, match=r"odd\.onnx: not an ONNX model, or cut short"):
        parsed_network(library, path, Messages())


def test_external_data_that_is_not_there(library: tensorrt_library.TensorRtLibrary, tmp_path: Path) -> None:
    path = floating(tmp_path / "odd.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    parsed_network(library, path, Messages())
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFault, match=r"weights\.bin"):
        parsed_network(library, path, Messages())


def test_a_network_outlives_its_parser(library: tensorrt_library.TensorRtLibrary, tmp_path: Path) -> None:
    parsed = parsed_network(library, quantized(tmp_path / "whole.onnx"), Messages())
    assert parsed.network.num_layers > 0
    assert parsed.network.get_flag(library.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


@dataclass(frozen=True)
class Said:
    """A ParserError."""

    text: str
    kind: str
    name: str = "conv1/Conv"
    operator: str = "Conv"
    index: int = 0

    def desc(self) -> str:
        return self.text

    def code(self) -> str:
        return f"ErrorCode.{self.kind}"

    def node(self) -> int:
        return self.index

    def node_name(self) -> str:
        return self.name

    def node_operator(self) -> str:
        return self.operator


def test_what_nobody_expected_is_passed_on(tmp_path: Path) -> None:
    path = floating(tmp_path / "odd.onnx")
    message = str(refusal(path, [Said("a new rule was broken", "INTERNAL_ERROR")], Messages()))
    assert "node conv1/Conv (Conv): a new rule was broken [INTERNAL_ERROR]; `accel lint --target tensorrt`" in message
    dynamic = str(refusal(path, [Said("TopK: K must be constant", "UNSUPPORTED_NODE_DYNAMIC")], Messages()))
    assert "where sizes vary (TopK: K must be constant); export the model with that axis fixed" in dynamic
    whole = str(refusal(path, [Said("no graph", "INVALID_GRAPH", name="", operator="", index=-1)], Messages()))
    assert "cannot take it: no graph [INVALID_GRAPH]" in whole
    inner = str(refusal(path, [Said("no", "INVALID_NODE", name="", operator="Add", index=0)], Messages()))
    assert "node number 0 (Add): no" in inner  # of a subgraph: the first node of the main one is a Conv
    assert "it gave no reason" in str(refusal(path, [], Messages()))
