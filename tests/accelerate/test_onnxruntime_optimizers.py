"""Which files need an optimizer of ONNX Runtime off: read without onnx, and true of what the runtime then computes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from accel.accelerate import onnxruntime_optimizers
from accel.accelerate.onnxruntime_optimizers import ALWAYS_OFF, NOTE, REQUANTIZES_BIASES, disabled, has_half_scales
from accel.accelerate.onnxruntime_session import OnnxRuntime
from accel.model import Target
from accel.onnx_file import read

HEAD = '<ir_version: 10, opset_import: ["" : 21]> g'
SCALES = {  # in text, a float16 is given by its bits: 14336 is 0.5
    "FP32": ("float[n] x", "s = Constant<value = float {0.5}>()", False),
    "FP16, a Constant": ("float16[n] x", "s = Constant<value = float16 {14336}>()", True),
    "BF16, made by a Cast": ("bfloat16[n] x", "f = Constant<value = float {0.5}>()  s = Cast<to = 16>(f)", True),
    "FP16, made by a Cast": ("float16[n] x", "f = Constant<value = float {0.5}>()  s = Cast<to = 10>(f)", True),
    "FP32, made by a Cast": ("float[n] x", "f = Constant<value = float16 {14336}>()  s = Cast<to = 1>(f)", False),
    "FP16, an input": ("float16[n] x, float16 s", "", True),
    "FP32 beside a half": ("float[n] x", "s = Constant<value = float {0.5}>()  h = Cast<to = 10>(s)", False),
}


def saved(path: Path, text: str, **weights: Any) -> Path:
    model = parser.parse_model(f"{HEAD} {text}")
    model.graph.initializer.extend(numpy_helper.from_array(values, name) for name, values in weights.items())
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("inputs", "scale", "half"), SCALES.values(), ids=SCALES.keys())
def test_the_type_of_a_scale_is_found_wherever_it_is_written(inputs: str, scale: str, half: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.onnx", f"({inputs}) => (int8[n] y) {{ {scale}  y = QuantizeLinear<output_dtype = 3>(x, s) }}")
    assert has_half_scales(path) is half
    assert disabled(path) == ((*ALWAYS_OFF, REQUANTIZES_BIASES) if half else ALWAYS_OFF)


def test_initializers_inner_graphs_and_data_apart_are_read_too(tmp_path: Path) -> None:
    inner = """(bool b, int8[n] x) => (float16[n] y) {
        y = If (b) < then_branch = a () => (float16[n] c) { c = DequantizeLinear(x, s) },
                     else_branch = e () => (float16[n] d) { d = Cast<to = 10>(x) } > }"""
    assert has_half_scales(saved(tmp_path / "inner.onnx", inner, s=np.array(0.5, np.float16)))
    assert not has_half_scales(
        saved(tmp_path / "not.onnx", inner.replace("float16", "float").replace("= 10", "= 1"), s=np.array(0.5, np.float32))
    )
    apart = "(int8[n,4] x) => (float16[n,4] y) { y = DequantizeLinear<axis = 1>(x, s) }"
    path = saved(tmp_path / "whole.onnx", apart, s=np.full(4, 0.5, np.float16))
    onnx.save(onnx.load(path), tmp_path / "apart.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert has_half_scales(tmp_path / "apart.onnx")


def test_a_file_that_is_no_model_is_left_to_the_session(tmp_path: Path) -> None:
    whole = saved(
        tmp_path / "a.onnx", "(int8[n] x) => (float16[n] y) { y = DequantizeLinear(x, s) }", s=np.array(0.5, np.float16)
    )
    content = whole.read_bytes()
    for length in range(len(content)):
        (tmp_path / "cut.onnx").write_bytes(content[:length])
        has_half_scales(tmp_path / "cut.onnx")  # whatever it says
    for other in (b"", b"\xff" * 40, b"\x0b" * 40, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"):
        (tmp_path / "b.onnx").write_bytes(other)
        assert disabled(tmp_path / "b.onnx") == ALWAYS_OFF
    assert disabled(tmp_path / "absent.onnx") == ALWAYS_OFF


def test_asking_loads_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is part of the time that compiling takes."""
    path = saved(tmp_path / "a.onnx", "(float[n] x) => (float[n] y) { y = Relu(x) }")
    for name in [name for name in sys.modules if name.partition(".")[0] == "onnx"]:
        monkeypatch.delitem(sys.modules, name)
    assert not has_half_scales(path)
    assert "onnx" not in sys.modules


@pytest.fixture
def convolution(tmp_path: Path) -> Callable[[Any], Path]:
    """A convolution between symmetric Q/DQ with a float bias, in a type."""

    def make(dtype: Any) -> Path:
        drawn = np.random.default_rng(0)
        kind = "float16" if dtype is np.float16 else "float"
        text = f"""({kind}[n,8,6,6] x) => ({kind}[n,16,6,6] y) {{
            xq = QuantizeLinear(x, s, z)  xd = DequantizeLinear(xq, s, z)  wd = DequantizeLinear<axis = 0>(w, ws)
            c = Conv<pads = [1, 1, 1, 1]>(xd, wd, b)  cq = QuantizeLinear(c, t, z)  y = DequantizeLinear(cq, t, z) }}"""
        return saved(
            tmp_path / f"{kind}.onnx",
            text,
            s=np.array(0.02, dtype),
            t=np.array(0.03, dtype),
            z=np.array(0, np.int8),
            w=drawn.integers(-127, 128, (16, 8, 3, 3)).astype(np.int8),
            ws=np.full(16, 0.0004, dtype),
            b=drawn.standard_normal(16).astype(dtype),
        )

    return make


def decibels(path: Path, folder: Path) -> float:
    """Of what ONNX Runtime makes of a file against onnx's own evaluator."""
    model = read(path)
    x = np.random.default_rng(1).standard_normal((4, 8, 6, 6)).astype(model.signature.inputs[0].dtype)
    wanted = np.asarray(ReferenceEvaluator(str(path)).run(None, {"x": x})[0], np.float64)
    with OnnxRuntime().compile(model, Target("t", "onnxruntime"), folder) as runner:
        found = np.asarray(runner({"x": x})[0], np.float64)
    return float(10 * np.log10((wanted**2).sum() / max(((found - wanted) ** 2).sum(), 1e-30)))


def test_biases_beside_scales_in_fp16_stay_what_the_file_says(
    convolution: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    path = convolution(np.float16)
    good = decibels(path, tmp_path)
    assert good > 35
    monkeypatch.setattr(onnxruntime_optimizers, "disabled", lambda path: ALWAYS_OFF)
    assert decibels(path, tmp_path) < good - 10  # or else the optimizer may be left on again


@pytest.mark.parametrize(("dtype", "int8"), [(np.float32, 1), (np.float16, 0)])
def test_fp32_files_keep_the_optimizer_and_run_in_int8(
    convolution: Callable[[Any], Path], tmp_path: Path, dtype: Any, int8: int
) -> None:
    pytest.importorskip("onnxruntime")
    with OnnxRuntime().compile(read(convolution(dtype)), Target("t", "onnxruntime"), tmp_path) as runner:
        ran = runner.executed_precision()
    assert ran.int8_operators == int8 and ran.quantized_operators == 1
    assert (NOTE in ran.notes) is (dtype is np.float16)
    assert any("in fp16 ran in fp32, between casts" in note for note in ran.notes) is (dtype is np.float16)
