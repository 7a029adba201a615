"""``accel benchmark`` of files that run on a device which is not here. Measuring itself: tests/end_to_end."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest
from rich.console import Console

from accel import engine_file
from accel.accelerate.tensorrt_engine import TensorRt
from accel.commands import benchmark
from accel.engine_file import EngineManifest, TypedLayers
from accel.errors import MissingBackend, ModelFault, UsageError
from accel.model import Signature, Target, TensorSpec
from accel.rows import Subject

SPECS = (TensorSpec("x", ("batch", 4), "float32"),)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(b"opaque")
    manifest = EngineManifest(
        library="tensorrt-rtx",
        library_version="1.7.1.116",
        compute_capabilities=["8.6"],
        gpu=None,
        driver=None,
        onnx_sha256="0" * 64,
        settings={},
        engine_sha256=hashlib.sha256(b"opaque").hexdigest(),
        engine_bytes=6,
        build_s=1.0,
        signature=Signature(SPECS, SPECS),
        layers=TypedLayers(quantized_operators=0, int8_typed=0, float_types={}),
    )
    engine_file.write(manifest, tmp_path)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Target]:
    """No GPU, whatever this machine has; and which targets were asked about."""
    seen: list[Target] = []

    def cannot_run(self: TensorRt, target: Target) -> str:
        seen.append(target)
        return "there is no NVIDIA GPU here"

    monkeypatch.setattr(TensorRt, "cannot_run", cannot_run)
    return seen


def measured(path: Path, *backends: str) -> int:
    console = Console(file=io.StringIO())
    return benchmark.run(
        path, backends=backends, device="cpu", against=(), threads=None, batch_size=None, shapes=(), duration_s=0.1,
        max_duration_s=1.0, pinning=True, cache=lambda _: path.parent / "cache", as_json=True, quiet=True,
        out=console, err=console,
    )  # fmt: skip


def test_an_engine_without_a_gpu_is_one_sentence(engine: Path, asked: list[Target]) -> None:
    with pytest.raises(MissingBackend) as caught:
        measured(engine)
    assert str(caught.value) == f"{engine}: there is no NVIDIA GPU here"
    assert caught.value.exit_code == 3
    assert (asked[0].backend, asked[0].device, asked[0].options) == ("tensorrt", "gpu", {"library": "tensorrt-rtx"})
    assert not (engine.parent / "cache").exists()


def test_an_engine_runs_on_tensorrt_only(engine: Path, asked: list[Target]) -> None:
    with pytest.raises(UsageError, match=r"--backend: found 'openvino', allowed for \.engine are tensorrt"):
        measured(engine, "openvino")
    with pytest.raises(MissingBackend):
        measured(engine, "tensorrt")


def test_an_engine_without_its_manifest_is_told_first(engine: Path) -> None:
    (engine.parent / "engine.json").unlink()
    with pytest.raises(ModelFault, match=r"no engine\.json beside it"):
        measured(engine)


def subject(name: str, backend: str) -> Subject:
    target = Target(name, backend, "cpu")
    return Subject(name=name, role="result", target_name=None, target=target, model={}, folder=Path(), main=Path())


def test_what_cannot_run_is_left_out_with_a_warning(asked: list[Target]) -> None:
    both = [subject("rtx", "tensorrt"), subject("ort", "onnxruntime")]
    here, left_out = benchmark._runnable(both)
    assert [each.name for each in here] == ["ort"]
    assert left_out == ["rtx was left out: there is no NVIDIA GPU here"]
    with pytest.raises(MissingBackend, match="rtx: there is no NVIDIA GPU here"):
        benchmark._runnable(both[:1])
