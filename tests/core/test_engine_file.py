from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from accel import engine_file, onnx_file
from accel.engine_file import EngineManifest, TypedLayers
from accel.errors import ModelFault, UsageError
from accel.model import Signature, TensorSpec

BYTES = b"vtrt\0\0\0\0 an engine, as far as this test goes"
SIGNATURE = Signature(
    (TensorSpec("image", ("batch", 3, 32, 32), "float32"),),
    (TensorSpec("logits", ("batch", 10), "float16"),),
)


def manifest(**changes: Any) -> EngineManifest:
    fields: dict[str, Any] = {
        "library": "tensorrt-rtx",
        "library_version": "1.7.1.116",
        "compute_capabilities": ["8.6", "12.0"],
        "gpu": None,
        "driver": None,
        "onnx_sha256": "0" * 64,
        "settings": {"tf32": False, "profiles": [{"image": ((1, 3, 32, 32), (8, 3, 32, 32), (32, 3, 32, 32))}]},
        "engine_sha256": hashlib.sha256(BYTES).hexdigest(),
        "engine_bytes": len(BYTES),
        "build_s": 0.25,
        "signature": SIGNATURE,
        "layers": TypedLayers(quantized_operators=9, int8_typed=9, float_types={"fp32": 1}, operators={"conv1/Conv": "int8"}),
        "notes": ["a note"],
    }
    return EngineManifest(**fields | changes)


def saved(folder: Path, **changes: Any) -> Path:
    engine = folder / "model.engine"
    engine.write_bytes(BYTES)
    engine_file.write(manifest(**changes), folder)
    return engine


def edited(engine: Path, **changes: Any) -> Path:
    """The manifest as another hand would have changed it."""
    place = engine.with_name("engine.json")
    place.write_text(json.dumps(json.loads(place.read_text()) | changes))
    return engine


def test_what_was_written_is_read(tmp_path: Path) -> None:
    engine = saved(tmp_path)
    assert engine_file.read(engine) == manifest()
    assert engine_file.read(engine).settings["profiles"][0]["image"][0] == [1, 3, 32, 32]
    assert engine_file.signature(engine) == SIGNATURE
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_model_in_an_engine_is_known_without_reading_it(tmp_path: Path) -> None:
    engine = saved(tmp_path)
    assert onnx_file.read(engine).signature == SIGNATURE
    assert [path.name for path in onnx_file.files(engine)] == ["model.engine", "engine.json"]
    assert onnx_file.check(engine) == []
    before = onnx_file.digest(engine)
    engine_file.write(manifest(build_s=1.0), tmp_path)
    assert onnx_file.digest(engine) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not JSON, or cut short"),
        (b'{"format": 1, "engine_sha', "not JSON, or cut short"),
        (b"\xff\xfe\x00", "not JSON, or cut short"),
        (b"[" * 100_000, "not JSON, or cut short"),
        (b"[1]", "not a manifest that accel wrote"),
        (b'{"name": "another tool\'s"}', "not a manifest that accel wrote"),
        (b'{"format": true, "engine_sha256": ""}', "not a manifest that accel wrote"),
        (b'{"format": 2, "engine_sha256": ""}', "format 2; this version of accel reads up to 1. Upgrade"),
        (b'{"format": 0, "engine_sha256": ""}', "format: "),
    ],
)
def test_a_manifest_that_is_none_is_one_sentence(tmp_path: Path, text: bytes, message: str) -> None:
    engine = saved(tmp_path)
    (tmp_path / "engine.json").write_bytes(text)
    with pytest.raises(ModelFault, match=r"^engine\.json, beside model\.engine: ") as caught:
        engine_file.read(engine)
    assert message in str(caught.value)
    assert "accel optimize" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"library": "openvino"}, "library: "),
        ({"engine_sha256": "Z" * 64}, "engine_sha256: "),
        ({"engine_bytes": -1}, "engine_bytes: "),
        ({"build_s": None}, "build_s: "),
        ({"compute_capabilities": ["86"]}, "compute_capabilities: "),
        ({"signature": {"inputs": [], "outputs": []}}, "signature: "),
        ({"signature": {"inputs": [{"name": "x", "shape": [-1], "dtype": "float32"}], "outputs": []}}, "signature: "),
        ({"surprise": 1}, "surprise: "),
        ({"layers": {"quantized_operators": 1}}, "layers.int8_typed: "),
    ],
)
def test_a_field_that_cannot_be_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ModelFault, match=rf"^engine\.json, beside model\.engine: {field}"):
        engine_file.read(edited(saved(tmp_path), **changes))


def test_a_missing_manifest_says_where_it_comes_from(tmp_path: Path) -> None:
    engine = tmp_path / "trtexec.engine"
    engine.write_bytes(BYTES)
    for ask in (engine_file.read, onnx_file.read, onnx_file.files):
        with pytest.raises(ModelFault, match=r"^trtexec\.engine: no engine\.json beside it"):
            ask(engine)


def test_an_engine_cut_short_or_replaced_is_refused(tmp_path: Path) -> None:
    engine = saved(tmp_path)
    engine.write_bytes(BYTES[:-1])
    for ask in (onnx_file.read, onnx_file.check, onnx_file.require_finite):
        with pytest.raises(ModelFault, match=rf"{len(BYTES) - 1} bytes, .* one with {len(BYTES)}"):
            ask(engine)
    engine.write_bytes(BYTES[::-1])
    onnx_file.read(engine)  # cheap: looks at the size only
    for ask in (onnx_file.check, onnx_file.require_finite):
        with pytest.raises(ModelFault, match="engine_sha256 is "):
            ask(engine)
    engine.write_bytes(b"")
    with pytest.raises(ModelFault, match="empty"):
        onnx_file.read(engine)
    engine.unlink()
    with pytest.raises(UsageError, match="no such file"):
        onnx_file.read(engine)


@pytest.mark.parametrize("settings", [{"x": float("nan")}, {"x": object()}])
def test_settings_are_json(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="settings"):
        manifest(settings=settings)


def test_an_engine_under_another_name_is_recognized(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(BYTES)
    with pytest.raises(ModelFault, match="looks like a TensorRT engine"):
        onnx_file.read(tmp_path / "model.onnx")
