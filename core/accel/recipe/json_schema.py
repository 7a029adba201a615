"""The recipe as a JSON schema (2020-12), for editors: ``# yaml-language-server: $schema=accel.schema.json``."""

from __future__ import annotations

import json
from typing import Any

from pydantic import TypeAdapter

from accel import catalog
from accel.recipe.passes import OWN_KEYS, Leaf, adapter, default_engine, leaves, load
from accel.recipe.settings import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schema() -> dict[str, Any]:
    """Every key, with the passes as a union over the catalogue's classes. Aliases are left out: editors offer one spelling."""
    known = leaves()
    inputs: list[Any] = [("recipe", "validation", TypeAdapter(Recipe))]
    inputs += [(leaf.key, "validation", adapter(load(leaf))) for leaf in known]
    references, shared = TypeAdapter.json_schemas(inputs)
    definitions: dict[str, Any] = shared["$defs"]
    root = definitions.pop("Recipe")
    del definitions["PassEntry"]
    for leaf in known:
        name = references[(leaf.key, "validation")]["$ref"].rpartition("/")[2]
        definitions[name] = _entry(leaf, definitions[name])
    root["properties"]["passes"]["items"] = {"anyOf": [references[(leaf.key, "validation")] for leaf in known]}
    root["properties"]["targets"]["items"] = {"$ref": "#/$defs/TargetSettings"}
    definitions["TargetSettings"]["properties"]["backend"] = {"enum": list(catalog.backends()), "title": "Backend"}
    for schema in (root, definitions["TargetSettings"]):
        schema["required"] = [name for name in schema["required"] if name != "name"]  # has a default that is not a constant
    root["patternProperties"] = {"^x-": {"description": "Yours, for anchors"}}
    root["description"] = "What accel makes of which model, for which targets, and how it is judged."
    whole = {"$schema": DIALECT, **root, "$defs": dict(sorted(definitions.items()))}
    return {key: _ordered(value) for key, value in whole.items()}


def _ordered(part: Any) -> Any:
    """With alternatives in an order of their own: Python's is that of whichever equal union was written first."""
    if isinstance(part, list):
        return [_ordered(entry) for entry in part]
    if not isinstance(part, dict):
        return part
    found = {key: _ordered(value) for key, value in part.items()}
    if isinstance(found.get("anyOf"), list):
        found["anyOf"].sort(key=lambda one: (one.get("type") == "null", json.dumps(one)))
    return found


def json_schema_text() -> str:
    """As committed: two spaces, sorted only where the order says nothing, a newline at the end."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _entry(leaf: Leaf, schema: dict[str, Any]) -> dict[str, Any]:
    """A pass's own schema with the keys that every entry has."""
    own: dict[str, Any] = {"type": {"const": leaf.type}}
    required = ["type"]
    if leaf.approach is not None:
        own["approach"] = {"const": leaf.approach}
    if leaf.engine is not None:
        own["engine"], required = _engine(leaf)
    own["allow_noop"] = {"type": "boolean", "default": False, "description": "The pass may find nothing to change"}
    rest = {name: value for name, value in schema.get("properties", {}).items() if name not in OWN_KEYS}
    return {**schema, "properties": {**own, **rest}, "required": [*required, *schema.get("required", [])]}


def _engine(leaf: Leaf) -> tuple[dict[str, Any], list[str]]:
    """The key ``engine`` of an entry, and what an entry has to have."""
    if leaf.key in catalog.ONLY_BY_NAME:
        return {"const": leaf.engine}, ["type", "engine"]
    if default_engine(leaf.type, leaf.approach) is None:
        return {"const": leaf.engine, "description": "Left out: the engine that the target's backend prefers"}, ["type"]
    return {"enum": ["auto", leaf.engine], "default": "auto"}, ["type"]
