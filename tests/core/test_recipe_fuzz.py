"""Whatever is thrown at the reader comes back as a Recipe or as a RecipeError."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.errors import RecipeError
from accel.recipe.reader import from_document, read
from accel.recipe.settings import Recipe

WORDS = [
    *Recipe.model_fields,
    *("path", "factory", "weights", "inputs", "type", "approach", "engine", "quantize", "simplify", "export_onnx", "static"),
    *(
        "calibration",
        "validation",
        "arrays",
        "folder",
        "csv",
        "tar",
        "torchvision",
        "num_samples",
        "subset_size",
        "kl",
        "method",
    ),
    *(
        "backend",
        "onnxruntime",
        "openvino",
        "eager",
        "device",
        "vpu",
        "options",
        "threads",
        "image_classification",
        "preprocess",
    ),
    *("x-a", "<<", "..", "~", "m.onnx", "net.py:build", "resize", "shape", "batch", "dynamic", "min", "allow_noop", "fp16"),
]
KEYS = st.sampled_from(WORDS) | st.text(max_size=5)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=25,
)
DOCUMENTS = st.dictionaries(st.sampled_from([*Recipe.model_fields, "x-a", "fp16"]), PLAIN, max_size=8)
PIECES = """version: 1\n|model: |{path: m.onnx}|targets: |\n|- |  |&a |*a|<<: |[|]|{|}|: |, |'|"|>\n|? |!x |---\n|...\n
|%YAML 1.2\n|#|\t|\\|\r|\x85|\ufeff|\0|1e-3|\x1b"""
SNIPPETS = st.lists(st.sampled_from(PIECES.split("|")), max_size=30).map("".join)
FEW = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def file() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "recipe.yaml"


def attempt(file: Path, raw: bytes, *overrides: str) -> None:
    file.write_bytes(raw)
    try:
        found = read(file, overrides)
    except RecipeError as error:
        assert error.problems
        assert all(line.isprintable() for line in str(error).split("\n"))
    else:
        assert from_document(json.loads(json.dumps(found.document())), path=found.path) == found


@FEW
@given(raw=st.binary(max_size=200))
def test_any_bytes(file: Path, raw: bytes) -> None:
    attempt(file, raw)


@FEW
@given(text=SNIPPETS | st.text(max_size=200))
def test_any_text(file: Path, text: str) -> None:
    attempt(file, text.encode("utf-8", "surrogatepass"))


@FEW
@given(document=DOCUMENTS)
def test_any_data_under_known_keys(file: Path, document: dict[str, Any]) -> None:
    started = {"version": 1, "model": {"path": "m.onnx"}, "targets": [{"backend": "onnxruntime"}], **document}
    (file.parent / "m.onnx").touch()
    attempt(file, json.dumps(started).encode())
    try:
        from_document(started, path=file)
    except RecipeError as error:
        assert error.problems


@FEW
@given(
    path=st.lists(KEYS | st.integers(-1, 3).map(str), min_size=1, max_size=4).map(".".join),
    value=SNIPPETS | st.text(max_size=20),
)
def test_any_override(file: Path, path: str, value: str) -> None:
    (file.parent / "m.onnx").touch()
    attempt(file, b"version: 1\nmodel: {path: m.onnx}\ntargets: [{backend: onnxruntime}]\n", f"{path}={value}")


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "cache_dir": st.just("cache") | st.none(),
        "about": st.fixed_dictionaries({}, optional={"version": st.text(max_size=5), "author": st.text(max_size=5)}),
        "benchmark": st.fixed_dictionaries(
            {},
            optional={
                "warmup": st.integers(0, 9),
                "min_duration_s": st.floats(0.1, 9),
                "threads": st.integers(1, 4) | st.just([2]),
            },
        ),
        "report": st.just({"formats": ["json"]}),
        "task": st.just({"type": "image_classification"}),
    },
)
QUANTIZE = st.fixed_dictionaries(
    {"type": st.just("quantize")},
    optional={
        "engine": st.sampled_from(["auto", "onnxruntime", "nncf"]),
        "calibration": st.fixed_dictionaries(
            {}, optional={"method": st.sampled_from(["minmax", "percentile"]), "num_samples": st.integers(1, 9)}
        ),
        "ignored_scope": st.fixed_dictionaries(
            {}, optional={"names": st.lists(st.text(max_size=5)), "validate": st.booleans()}
        ),
        "allow_noop": st.booleans(),
    },
)


@FEW
@given(sections=SETTINGS, quantize=st.none() | QUANTIZE, data=st.fixed_dictionaries({}, optional={"skip": st.integers(0, 9)}))
def test_what_is_right_reads_back_equal(
    sections: dict[str, Any], quantize: dict[str, Any] | None, data: dict[str, Any]
) -> None:
    document = {
        "version": 1,
        "model": {"path": "m.onnx"},
        "targets": [{"backend": "onnxruntime"}, {"backend": "openvino"}],
        **sections,
    }
    if quantize is not None:
        document |= {
            "task": {"type": "image_classification"},
            "data": {"calibration": {"arrays": "d.npz", **data}},
            "passes": [quantize],
        }
    found = from_document(document, path=Path("recipe.yaml"))
    again = from_document(json.loads(json.dumps(found.document())), path=Path("recipe.yaml"))
    assert again == found
    assert again.document() == found.document()
    for target in found.targets:
        assert again.passes_for(target) == found.passes_for(target)
