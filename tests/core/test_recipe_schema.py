"""The JSON schema for editors: current, valid, and of one mind with the reader."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from accel import catalog
from accel.commands import schema as schema_command
from accel.errors import UsageError
from accel.recipe.document import parse
from accel.recipe.json_schema import DIALECT, json_schema, json_schema_text
from accel.recipe.reader import from_document
from accel.recipe.template import init
from accel.recipe.tree import plain

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def recipe(**sections: Any) -> dict[str, Any]:
    return {"version": 1, "model": {"path": "m.onnx"}, "targets": [{"backend": "openvino"}], **sections}


def test_the_committed_schema_is_current() -> None:
    committed = (RECIPES / "accel.schema.json").read_text(encoding="utf-8")
    assert committed == json_schema_text(), "write it again: accel schema > recipes/accel.schema.json"


def test_it_names_its_dialect_and_every_pass_and_backend() -> None:
    schema = json_schema()
    assert schema["$schema"] == DIALECT
    assert len(schema["properties"]["passes"]["items"]["anyOf"]) == len(catalog.passes())
    assert schema["$defs"]["TargetSettings"]["properties"]["backend"]["enum"] == list(catalog.backends())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_it_takes_the_recipes_that_ship(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    validator.validate(plain(parse(path.read_bytes(), path.name).root))


def test_it_takes_what_init_writes_and_what_the_reader_resolves(
    validator: jsonschema.Draft202012Validator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.onnx").touch()
    written = plain(parse(init("m.onnx", folder=tmp_path).encode(), "recipe.yaml").root)
    validator.validate(written)
    validator.validate(from_document(written, path=tmp_path / "recipe.yaml").document())


@pytest.mark.parametrize(
    "good",
    [
        recipe(),
        recipe(**{"x-mine": [1, {"a": None}]}),
        recipe(benchmark={"threads": 2, "batch_sizes": [1]}),
        recipe(passes=[{"type": "quantize"}, {"type": "quantize", "engine": "nncf"}, {"type": "simplify", "allow_noop": True}]),
        recipe(task={"type": "image_classification"}, data={"validation": {"arrays": {"path": "x.npz"}}}),
    ],
)
def test_it_takes_what_is_right(validator: jsonschema.Draft202012Validator, good: dict[str, Any]) -> None:
    validator.validate(good)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        recipe(version=2),
        recipe(sed=1),
        recipe(seed="1"),
        recipe(targets=[]),
        recipe(targets=[{"backend": "tensort"}]),
        recipe(passes=[{"type": "prun"}]),
        recipe(passes=[{"approach": "static"}]),
        recipe(passes=[{"type": "quantize", "engine": "nncf", "calibration": {"method": "entropy"}}]),
        recipe(passes=[{"type": "quantize", "calibration": {"metod": "minmax"}}]),
        recipe(benchmark={"threads": []}),
    ],
)
def test_it_refuses_what_is_wrong(validator: jsonschema.Draft202012Validator, bad: dict[str, Any]) -> None:
    assert not validator.is_valid(bad)


@pytest.mark.parametrize("kind", schema_command.KINDS)
def test_the_command_prints_one_document(kind: str) -> None:
    text = io.StringIO()
    assert schema_command.run(kind, out=Console(file=text, width=20)) == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(text.getvalue()))


def test_the_command_refuses_other_schemas() -> None:
    with pytest.raises(UsageError, match="did you mean 'report'"):
        schema_command.run("reprot", out=Console(file=io.StringIO()))
