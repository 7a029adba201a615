"""Engines for real: TensorRT-RTX builds without a GPU. What needs one, TensorRT itself, is a fake at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

from accel import engine_file
from accel.accelerate import lint_tensorrt, nvidia_device
from accel.accelerate.engines import build as tensorrt_build
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines import precision as tensorrt_precision
from accel.accelerate.engines.build import Built, build
from accel.accelerate.engines.editions import edition
from accel.accelerate.engines.library import TensorRtLibrary
from accel.accelerate.engines.parse import ParsedNetwork
from accel.accelerate.engines.precision import TypedNetwork
from accel.accelerate.nvidia_device import NvidiaDevice
from accel.catalog import backend
from accel.contracts import Finding
from accel.errors import BackendFault, UsageError
from accel.model import OnnxModel, Target
from accel.onnx_file import read

FILES = run_path(str(Path(__file__).with_name("tensorrt_files.py")))
floating, quantized, residual, save = (FILES[name] for name in ("floating", "quantized", "residual", "save"))
RANGES = {"batch": (1, 4, 8)}
CAPABILITIES = ["8.6", "8.9"]
ON_IT = Target("edge", "tensorrt", "gpu", ranges=RANGES)  # on the GPU that is here
DEVICE = NvidiaDevice(0, "NVIDIA A100", "8.0", "580.1", 0)


def target(ranges: dict[str, tuple[int, int, int]] = RANGES, precision: str = "fp32", **options: Any) -> Target:
    """For two GPUs that are not here, unless ``options`` says otherwise."""
    named = {"compute_capabilities": CAPABILITIES} | options
    return Target("edge", "tensorrt", "gpu", precision=precision, ranges=ranges, options=named)


@pytest.fixture
def rtx(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX, and no GPU, also on a machine that has one."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    monkeypatch.setattr(nvidia_device, "problem", lambda: "there is no GPU here")
    monkeypatch.setattr(nvidia_device, "found", tuple)


def built(path: Path, asked: Target, folder: Path, **keywords: Any) -> Built:
    return build(read(path), asked, folder / "model.engine", cache=folder, **keywords)


def failing(path: Path, asked: Target, folder: Path, **keywords: Any) -> str:
    with pytest.raises((BackendFault, UsageError)) as caught:
        built(path, asked, folder, **keywords)
    assert not (folder / "model.engine").exists()
    assert not (folder / "engine.json").exists()
    return str(caught.value)


@pytest.mark.usefixtures("rtx")
def test_engine_and_manifest(tmp_path: Path) -> None:
    path = floating(tmp_path / "model.onnx")
    shown: list[int] = []
    made = built(path, target(), tmp_path, progress=lambda done, total, what: shown.append(done))
    engine = tmp_path / "model.engine"
    manifest = engine_file.read(engine)
    assert manifest == made.manifest
    assert manifest.engine_sha256 == sha256(engine.read_bytes()).hexdigest()
    assert manifest.compute_capabilities == CAPABILITIES
    assert (manifest.gpu, manifest.driver, manifest.library) == (None, None, "tensorrt-rtx")
    assert manifest.settings["profiles"] == [{"image": {"min": [1, 8, 16, 16], "opt": [4, 8, 16, 16], "max": [8, 8, 16, 16]}}]
    assert manifest.settings["library"] == "tensorrt-rtx"
    assert manifest.layers.float_types == {"fp32": 1}
    assert manifest.build_s == made.seconds > 0
    assert shown[-1] == 100
    facts = "\n".join(made.notes)
    assert "for compute capabilities 8.6, 8.9 in " in facts
    assert "not run" not in facts  # kept with the engine, which may run here later
    assert "times the ONNX file's" in facts
    assert "INT8" not in facts


@pytest.mark.usefixtures("rtx")
def test_named_capabilities_and_a_fixed_shape(tmp_path: Path) -> None:
    path = floating(tmp_path / "model.onnx", (2, 8, 16, 16))
    made = built(path, target({}, compute_capabilities=[8.6, "12.0"]), tmp_path)
    assert made.manifest.compute_capabilities == ["8.6", "12.0"]
    assert made.manifest.settings["profiles"] == []
    assert "built for compute capabilities 8.6, 12.0 in" in made.notes[0]


@pytest.mark.usefixtures("rtx")
def test_a_fixed_batch_is_the_engine_s_signature(tmp_path: Path) -> None:
    path = floating(tmp_path / "model.onnx")
    asked = Target("edge", "tensorrt", "gpu", batch=4, options={"compute_capabilities": CAPABILITIES})
    made = backend("tensorrt").deploy(read(path), asked, tmp_path, cache=tmp_path)
    assert made.path == tmp_path / "model.engine"
    assert made.signature.inputs[0].shape == (4, 8, 16, 16)
    assert engine_file.signature(made.path) == made.signature


@pytest.mark.usefixtures("rtx")
def test_int8_is_typed_and_doubted(tmp_path: Path) -> None:
    made = built(quantized(tmp_path / "model.onnx"), target(), tmp_path)
    assert (made.manifest.layers.quantized_operators, made.manifest.layers.int8_typed) == (1, 1)
    (doubt,) = [note for note in made.notes if "NVIDIA lists INT8" in note]  # once, though the lint knows it too
    assert "the 1 convolution with INT8 data may be computed in float" in doubt


@pytest.mark.usefixtures("rtx")
def test_a_residual_network_with_two_profiles(tmp_path: Path) -> None:
    sizes = {"min": [1, 8, 16, 16], "opt": [1, 8, 16, 16], "max": [1, 8, 16, 16]}
    many = {"min": [2, 8, 16, 16], "opt": [16, 8, 16, 16], "max": [32, 8, 16, 16]}
    asked = target({}, profiles=[{"image": sizes}, {"image": many}], tf32=True)
    made = built(residual(tmp_path / "model.onnx"), asked, tmp_path)
    assert len(made.manifest.settings["profiles"]) == 2
    assert made.manifest.layers.float_types == {"fp32": 4}
    assert any(note.startswith("tf32: ") for note in made.notes)


@pytest.mark.usefixtures("rtx")
def test_a_small_network_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    path = floating(tmp_path / "model.onnx")
    digests = [built(path, target(), tmp_path).manifest.engine_sha256 for _ in range(2)]
    assert digests[0] == digests[1]


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (target({}), "input image, axis batch varies"),
        (target(precision="fp16"), "`- type: cast, dtype: fp16`"),
        (target(timing_cache=True), "tensorrt-rtx has no timing_cache"),  # auto: known once the library is
        (replace(target(), batch=9), "batch 9 is outside the range 1 to 8"),
    ],
)
def test_refused(asked: Target, said: str, tmp_path: Path) -> None:
    assert said in failing(floating(tmp_path / "model.onnx"), asked, tmp_path)


@pytest.mark.usefixtures("rtx")
def test_no_engine_says_the_way_out(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "w")
    path = save(tmp_path / "model.onnx", [helper.make_node("MatMul", ["image", "w"], ["y"], name="head/MatMul")], [weight])
    message = failing(path, target(compute_capabilities=[7.5]), tmp_path)
    assert "built no engine: Cannot compile operation 'head/MatMul' for Turing (SM75)" in message
    assert "; leave 7.5 out of compute_capabilities" in message


@pytest.mark.usefixtures("rtx")
def test_a_build_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = count(step=10)  # each look at the clock is ten seconds later
    monkeypatch.setattr("accel.accelerate.engines.progress.time.monotonic", lambda: float(next(clock)))
    message = failing(residual(tmp_path / "model.onnx"), target(build_timeout_s=60), tmp_path)
    assert message == (
        "target edge: the build was not done after 60 s and was ended; raise the option build_timeout_s, or leave it out"
    )


@pytest.mark.usefixtures("rtx")
def test_what_the_bar_raises_comes_out(tmp_path: Path) -> None:
    def progress(done: int, total: int, what: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built(floating(tmp_path / "model.onnx"), target(), tmp_path, progress=progress)
    assert not (tmp_path / "model.engine").exists()


@pytest.mark.usefixtures("rtx")
def test_lint_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Finding("rule", "error", f"n{index}", "is wrong", "do this") for index in range(5)]
    monkeypatch.setattr(lint_tensorrt, "lint_rtx", lambda path: found)
    message = failing(floating(tmp_path / "model.onnx"), target(), tmp_path)
    assert "node n0: is wrong; do this\nnode n1: is wrong; do this\nnode n2" in message
    assert message.endswith("and 2 more; see `accel lint`")
    warned = [Finding("slow", "warning", f"n{index}", "is slow", "do that") for index in range(3)]
    warned.append(Finding("odd", "warning", "", "is odd", "look"))
    monkeypatch.setattr(lint_tensorrt, "lint_rtx", lambda path: warned)
    notes = built(tmp_path / "model.onnx", target(), tmp_path).notes
    assert [note for note in notes if note.startswith("lint: ")] == [
        "lint: node n0: is slow; do that (and 2 more, see `accel lint`)",
        "lint: is odd; look",
    ]


@pytest.mark.usefixtures("rtx")
@pytest.mark.parametrize(
    ("make", "node"),
    [
        (lambda path: quantized(path, zero_point=131, unsigned=True), "conv1/QuantizeLinear"),
        (lambda path: quantized(path, bias="int32"), "conv1/bias"),
    ],
)
def test_broken_files_name_the_node(make: Callable[[Path], Path], node: str, tmp_path: Path) -> None:
    assert node in failing(make(tmp_path / "model.onnx"), target(), tmp_path)


class FakeTensorRt:
    """TensorRT 11 as far as a build needs it: remembers what it was given, and gives ``engine``, or raises it."""

    def __init__(self, engine: bytes | Exception | None = b"an engine") -> None:
        self.engine = engine
        self.given: list[bytes] = []
        flags = ("VERSION_COMPATIBLE", "WEIGHT_STREAMING", "SPARSE_WEIGHTS", "REFIT", "TF32")
        self.trt = SimpleNamespace(
            BuilderFlag=SimpleNamespace(**{flag: flag for flag in flags}),
            ProfilingVerbosity=SimpleNamespace(DETAILED="detailed"),
            IProgressMonitor=object,
        )
        self.network = SimpleNamespace(num_inputs=0)

    def create_builder_config(self) -> Any:
        return SimpleNamespace(
            set_flag=lambda flag: None,
            clear_flag=lambda flag: None,
            create_timing_cache=self.created,
            set_timing_cache=lambda timing, ignore_mismatch: True,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: b"measured"),
        )

    def created(self, data: bytes) -> object:
        self.given.append(data)
        return object()

    def build_serialized_network(self, network: object, config: Any) -> bytes | None:
        assert network is self.network
        assert config.progress_monitor is not None
        if isinstance(self.engine, Exception):
            raise self.engine
        return self.engine


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    made = FakeTensorRt()
    library = TensorRtLibrary("tensorrt", "11.4.1", made.trt, edition("tensorrt", 11))

    def parsed(library: TensorRtLibrary, path: Path, messages: Any) -> ParsedNetwork:
        messages.sink("error", "the last thing it said")
        return ParsedNetwork(made, made.network, ())

    monkeypatch.setattr(tensorrt_library, "problem", lambda name: None)
    monkeypatch.setattr(tensorrt_build, "resolved", lambda target: "tensorrt")
    monkeypatch.setattr(tensorrt_build, "chosen", lambda name: library)
    monkeypatch.setattr(tensorrt_build, "parsed_network", parsed)
    monkeypatch.setattr(tensorrt_precision, "typed_network", lambda network: TypedNetwork((), (), ()))
    monkeypatch.setattr(nvidia_device, "found", lambda: (DEVICE,))
    return made


def test_on_a_gpu_with_a_timing_cache(on_gpu: FakeTensorRt, tmp_path: Path) -> None:
    path = floating(tmp_path / "model.onnx", (2, 8, 16, 16))
    first = built(path, ON_IT, tmp_path)
    second = built(path, ON_IT, tmp_path)
    third = built(path, replace(ON_IT, options={"timing_cache": False}), tmp_path)
    assert on_gpu.given == [b"", b"measured"]
    manifest = json.loads((tmp_path / "engine.json").read_text())
    assert (manifest["gpu"], manifest["gpu_compute_capability"], manifest["driver"]) == ("NVIDIA A100", "8.0", "580.1")
    assert manifest["compute_capabilities"] == []
    assert [made.manifest.settings["timing_cache"] for made in (first, second, third)] == [True, True, False]
    assert "built for NVIDIA A100 (8.0), driver 580.1 in" in first.notes[0]
    assert "not run" not in first.notes[0]


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        (None, "built no engine: the last thing it said"),
        (RuntimeError("OutOfMemory at 7"), "OutOfMemory at 7; set workspace_mb"),
        (MemoryError(), "out of memory; set workspace_mb"),
        (RuntimeError("CUDA driver version is insufficient"), "install a newer NVIDIA driver"),
    ],
)
def test_on_a_gpu_without_an_engine(engine: Exception | None, said: str, on_gpu: FakeTensorRt, tmp_path: Path) -> None:
    on_gpu.engine = engine
    message = failing(floating(tmp_path / "model.onnx", (2, 8, 16, 16)), ON_IT, tmp_path)
    assert message.startswith("target edge: tensorrt 11.4.1 built no engine: ")
    assert said in message


def test_deploy_asks_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = OnnxModel(path=tmp_path / "absent.onnx", signature=read(floating(tmp_path / "model.onnx")).signature)
    with pytest.raises(UsageError, match="type: cast"):
        backend("tensorrt").deploy(model, target(fp16=True), tmp_path, cache=tmp_path)
