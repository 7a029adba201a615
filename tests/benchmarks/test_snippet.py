from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from accel import catalog
from accel.benchmarks.snippet import deployment_snippet
from accel.errors import UsageError
from accel.model import Signature, Target, TensorSpec

PREPROCESS = """import numpy as np
from PIL import Image


def preprocess(image_path):
    image = Image.open(image_path).convert("RGB").resize((8, 8), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
"""
NAMES = ["cat", 'd"og', "::error::x", "##[error]\x1b[31m", "ünï\n"]


def signature(classes: int) -> Signature:
    return Signature(
        inputs=(TensorSpec("image", ("batch", 3, 8, 8), "float32"),),
        outputs=(TensorSpec("logits", ("batch", classes), "float32"),),
    )


def given(backend: str, **changes: Any) -> Mapping[str, Any]:
    """What the backend says that it gives its runtime."""
    found: Mapping[str, Any] = catalog.backend(backend).runtime_settings(Target(name="t", backend=backend, **changes))
    return found


def weights(classes: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(size=(192, classes)).astype(np.float32)


def write_model(path: Path, classes: int) -> None:
    """Flatten, then one matrix product."""
    nodes = [helper.make_node("Flatten", ["image"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])]
    graph = helper.make_graph(nodes, "small", inputs, outputs, [numpy_helper.from_array(weights(classes), "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "an image.png")
    return tmp_path / "an image.png"


def expected(image: Path, classes: int) -> list[tuple[int, float]]:
    scope: dict[str, object] = {}
    exec(PREPROCESS, scope)
    preprocess = scope["preprocess"]
    assert callable(preprocess)
    scores = preprocess(image).reshape(-1) @ weights(classes)
    return [(int(index), float(scores[index])) for index in scores.argsort()[::-1][:5]]


def ran(folder: Path, code: str, image: Path) -> list[list[str]]:
    (folder / "run.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(folder / "run.py"), str(image)], capture_output=True, cwd=folder.parent, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [line.split("\t") for line in done.stdout.decode().splitlines()]


def assert_scores(lines: Sequence[Sequence[str]], wanted: Sequence[tuple[int, float]], names: Sequence[str] | None) -> None:
    assert [line[0] for line in lines] == [str(index) if names is None else names[index] for index, _ in wanted]
    assert [float(line[1]) for line in lines] == pytest.approx([value for _, value in wanted], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("names", [None, ["a", "b", "c\"'", "d", "e", "f"]], ids=["numbers", "names"])
def test_onnxruntime(tmp_path: Path, image: Path, names: list[str] | None) -> None:
    write_model(tmp_path / "model.onnx", 6)
    code = deployment_snippet("onnxruntime", "model.onnx", signature(6), PREPROCESS, names, settings=given("onnxruntime"))
    assert "accel" not in code
    assert_scores(ran(tmp_path, code, image), expected(image, 6), names)


def test_openvino_onnx(tmp_path: Path, image: Path) -> None:
    write_model(tmp_path / "model.onnx", 6)
    code = deployment_snippet("openvino", "model.onnx", signature(6), PREPROCESS, settings=given("openvino"))
    assert "'INFERENCE_PRECISION_HINT': 'f32'" in code
    assert_scores(ran(tmp_path, code, image), expected(image, 6), None)


def test_openvino_ir_with_options(tmp_path: Path, image: Path) -> None:
    import openvino

    write_model(tmp_path / "source.onnx", 6)
    openvino.save_model(openvino.convert_model(tmp_path / "source.onnx"), tmp_path / "model.xml", compress_to_fp16=False)
    (tmp_path / "source.onnx").unlink()
    options = {"format": "ir", "performance_hint": "throughput", "num_streams": 1}
    code = deployment_snippet("openvino", "model.xml", signature(6), PREPROCESS, settings=given("openvino", options=options))
    assert_scores(ran(tmp_path, code, image), expected(image, 6), None)


def test_eager_with_a_factory_file_beside_it(tmp_path: Path, image: Path) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(192, 6, bias=False))\n"
    )
    save_file({"1.weight": torch.from_numpy(weights(6).T.copy())}, tmp_path / "model.safetensors")
    settings = given("eager")
    code = deployment_snippet("eager", "model.safetensors", signature(6), PREPROCESS, settings=settings, factory="net.py:build")
    assert_scores(ran(tmp_path, code, image), expected(image, 6), None)


def test_many_classes_are_read_from_the_manifest(tmp_path: Path, image: Path) -> None:
    names = [f"class {index}" for index in range(100)]
    write_model(tmp_path / "model.onnx", 100)
    code = deployment_snippet("onnxruntime", "model.onnx", signature(100), PREPROCESS, names, settings=given("onnxruntime"))
    assert "class 7" not in code
    (tmp_path / "manifest.json").write_text(f'{{"classes": {names}}}'.replace("'", '"'))
    assert_scores(ran(tmp_path, code, image), expected(image, 100), names)


def test_outputs_that_are_no_classes_are_printed(tmp_path: Path, image: Path) -> None:
    spec = TensorSpec("logits", ("batch", 6, 1), "float32")
    shape = Signature(signature(6).inputs, (spec,))
    code = deployment_snippet("onnxruntime", "model.onnx", shape, PREPROCESS, settings=given("onnxruntime"))
    assert code.endswith("print(scores)\n")
    compile(code, "run.py", "exec")


def test_names_cannot_leave_their_quotes() -> None:  # fault 31
    code = deployment_snippet("onnxruntime", 'a"b\n.onnx', signature(5), PREPROCESS, NAMES, settings=given("onnxruntime"))
    compile(code, "run.py", "exec")
    assert "\x1b" not in code
    assert "##[" not in code
    assert not any(line.lstrip().startswith("::") for line in code.splitlines())
    line = next(line for line in code.splitlines() if line.startswith("classes = "))
    scope: dict[str, object] = {}
    exec(line, scope)
    assert scope["classes"] == NAMES


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_threads_are_those_that_were_measured(backend: str, threads: int) -> None:
    code = deployment_snippet(backend, "model.onnx", signature(5), PREPROCESS, settings=given(backend, threads=threads))
    assert f"num_threads = {threads}" in code or f"'INFERENCE_NUM_THREADS': {threads}" in code


def test_providers_and_level_are_the_targets() -> None:
    options = {"execution_providers": ["CUDAExecutionProvider"], "graph_optimization_level": "basic"}
    code = deployment_snippet(
        "onnxruntime", "model.onnx", signature(5), PREPROCESS, settings=given("onnxruntime", options=options)
    )
    assert "providers = [('CUDAExecutionProvider', {'use_tf32': '0'})]" in code
    assert "GraphOptimizationLevel.ORT_ENABLE_BASIC" in code


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precision_is_the_targets(precision: str) -> None:
    code = deployment_snippet(
        "openvino", "model.onnx", signature(5), PREPROCESS, settings=given("openvino", precision=precision)
    )
    assert f"'INFERENCE_PRECISION_HINT': '{ {'fp32': 'f32', 'bf16': 'bf16'}[precision] }'" in code


def test_what_no_script_can_be_written_for() -> None:
    eager = given("eager")
    with pytest.raises(UsageError, match="backend 'coreml'"):
        deployment_snippet("coreml", "model.plan", signature(5), PREPROCESS, settings={})
    two = Signature(signature(5).inputs * 2, signature(5).outputs)
    with pytest.raises(UsageError, match="one input, this has 2"):
        deployment_snippet("onnxruntime", "model.onnx", two, PREPROCESS, settings=given("onnxruntime"))
    with pytest.raises(UsageError, match="needs the factory"):
        deployment_snippet("eager", "model.safetensors", signature(5), PREPROCESS, settings=eager)
    with pytest.raises(UsageError, match="expected file"):
        deployment_snippet("eager", "model.safetensors", signature(5), PREPROCESS, settings=eager, factory="net.py")
    with pytest.raises(ValueError, match="defines no function"):
        deployment_snippet("onnxruntime", "model.onnx", signature(5), "import numpy\n", settings=given("onnxruntime"))


@pytest.mark.parametrize(("library", "module"), [("tensorrt", "tensorrt"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_an_engine_is_run_by_the_library_that_built_it(library: str, module: str) -> None:
    text = deployment_snippet("tensorrt", "model.engine", signature(3), PREPROCESS, settings={"library": library})
    compile(text, "run.py", "exec")
    assert f"import {module} as trt" in text
    assert "'model.engine'" in text
    assert ("create_runtime_config" in text) == (library == "tensorrt-rtx")


def test_the_script_for_an_engine_calls_what_the_library_has() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    text = deployment_snippet("tensorrt", "model.engine", signature(3), PREPROCESS, settings={"library": "tensorrt-rtx"})
    owners = {
        "trt": trt,
        "runtime": trt.Runtime,
        "engine": trt.ICudaEngine,
        "context": trt.IExecutionContext,
        "config": trt.IRuntimeConfig,
        "strategies": trt.DynamicShapesKernelSpecializationStrategy,
    }
    used = [
        (node.value.id, node.attr)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in owners
    ]
    assert len(used) > 10
    assert [pair for pair in used if not hasattr(owners[pair[0]], pair[1])] == []


def test_an_engine_of_an_unknown_library_has_no_script() -> None:
    with pytest.raises(UsageError, match="which library built it"):
        deployment_snippet("tensorrt", "model.engine", signature(3), PREPROCESS, settings={"library": "auto"})
