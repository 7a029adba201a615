"""A recipe's text, or its resolved form, to a Recipe; every problem at once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from accel.errors import Problem, RecipeError
from accel.recipe import aliases, checks, faults, overrides, paths, task_checks
from accel.recipe.document import MAX_BYTES, Document, parse
from accel.recipe.entries import classes, read_entries
from accel.recipe.passes import PassEntry
from accel.recipe.settings import VERSION, Recipe, name_of
from accel.recipe.tree import Entries, Items, Scalar, described, find, from_plain, locate, plain, word


def read(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the file ``path``, with ``key.path=value`` overrides. RecipeError holds all of its problems.

    Reads the recipe only and looks whether the files it names are there; imports none of its code.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_BYTES + 1)
            size = os.fstat(stream.fileno()).st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(str(path), [Problem(0, 0, f"the recipe cannot be read: {reason}")]) from None
    document = parse(raw, str(path), size)
    return _resolved(document, _absolute(path), overrides, at_work=True)


def from_document(document: Mapping[str, Any], *, path: Path, notes: Sequence[str] = ()) -> Recipe:
    """The recipe in plain data, as ``Recipe.document()`` gives it. ``path``: its file, which need not exist.

    ``notes`` come before those of reading it. Whether the files it names are there is not looked at.
    """
    try:
        tree = from_plain(document)
    except ValueError as error:
        raise RecipeError(str(path), [Problem(0, 0, str(error))]) from None
    recipe = _resolved(Document(str(path), tree), _absolute(path), (), at_work=False)
    return recipe.at(recipe.path, (*notes, *recipe.notes), recipe.gate_places) if notes else recipe


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))  # links stay: the folder is the one the author sees


def _resolved(document: Document, path: Path, overriding: Sequence[str], *, at_work: bool) -> Recipe:
    _require_mapping(document)
    notes = _canonical(document)
    overrides.apply(document, overriding)
    _require_mapping(document)
    _drop_free_keys(document)
    _require_version(document)
    notes += _canonical(document)
    notes += paths.settle(document, path.parent, Path.cwd())
    _fill_names(document, path)

    sections = _sections(document)
    entries = read_entries(document, [target.backend for target in sections.get("targets") or ()])
    notes += _checked(document, sections, entries, path.parent, at_work=at_work)
    document.check()
    recipe = Recipe(**sections, passes=tuple(entry for entry in entries if entry is not None))
    places = [locate(document.root, ("gates", index)) for index in range(len(recipe.gates))]
    return recipe.at(path, tuple(dict.fromkeys(notes)), tuple((place.line, place.column) for place in places))


def _require_mapping(document: Document) -> None:
    root = document.root
    if isinstance(root, Scalar) and root.value is None:
        document.report(root.place, "the recipe is empty; `accel init MODEL` writes one to start from")
        document.check()
    if not isinstance(root, Entries):
        document.report(root.place, f"a recipe is a mapping that starts with `version: {VERSION}`, found {described(root)}")
        document.check()


def _require_version(document: Document) -> None:
    """A recipe from the future is told so, and nothing else: its other keys mean what we cannot know."""
    version = find(document.root, ("version",))
    if isinstance(version, Scalar) and isinstance(version.value, int) and version.value > VERSION:
        document.problems.clear()
        found = f"found {version.value}, this accel reads {VERSION}"
        document.report_at(("version",), f"{found}; upgrade accel: pip install --upgrade accel-toolkit")
        document.check()
    if isinstance(version, Scalar) and isinstance(version.value, bool | float) and version.value == VERSION:
        document.report_at(("version",), f"found {described(version)}, allowed: {VERSION}")  # Python takes it for 1


def _drop_free_keys(document: Document) -> None:
    """``x-*`` at the top is the author's own, for anchors; a key with nothing after it counts as not given."""
    root = document.root
    assert isinstance(root, Entries)
    empty = [key for key, (_, node) in root.entries.items() if isinstance(node, Scalar) and node.value is None]
    document.root = root.without(*empty, *(key for key in root.entries if key.startswith("x-")))


def _canonical(document: Document) -> list[str]:
    """Replace aliases, section by section; a pass may have the keys of any class that its entry may mean."""
    notes: list[str] = []
    root = document.root
    assert isinstance(root, Entries)
    for name, field in Recipe.model_fields.items():
        node = root.get(name)
        if node is None or name == "passes":
            continue
        changed, found = aliases.canonical(document, node, [field.annotation], (name,))
        root, notes = (root.having(name, changed) if found else root), notes + found
    listed = root.get("passes")
    if isinstance(listed, Items):
        entries = []
        for index, node in enumerate(listed.items):
            changed, found = aliases.canonical(document, node, classes(node), ("passes", index))
            entries.append(changed)
            notes += found
        root = root.having("passes", Items(tuple(entries), listed.place))
    document.root = root
    return notes


def _fill_names(document: Document, path: Path) -> None:
    """A recipe is called like its file, a target like its backend, unless they say otherwise."""
    root = document.root
    assert isinstance(root, Entries)
    if "name" not in root.entries:
        root = root.having("name", Scalar(name_of(path)))
    targets = root.get("targets")
    if isinstance(targets, Items):
        named = []
        for node in targets.items:
            backend = word(node, "backend")
            if isinstance(node, Entries) and backend is not None and "name" not in node.entries:
                device = word(node, "device")
                name = backend if device in (None, "cpu") else f"{backend}-{device}"
                node = node.having("name", Scalar(name, node.entries["backend"][1].place))
            named.append(node)
        root = root.having("targets", Items(tuple(named), targets.place))
    document.root = root


def _sections(document: Document) -> dict[str, Any]:
    """Every section that is right by itself; the others are reported."""
    root = document.root
    assert isinstance(root, Entries)
    fields = {name: field for name, field in Recipe.model_fields.items() if name != "passes"}
    given = {name: plain(node) for name, (_, node) in root.entries.items() if name != "passes"}
    try:
        whole = Recipe.model_validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        faults.report(document, error.errors(include_url=False), Recipe)
    else:
        return {name: getattr(whole, name) for name in fields}
    sections: dict[str, Any] = {}
    for name, field in fields.items():
        if name in given:
            try:
                annotation: Any = field.annotation
                adapter: TypeAdapter[Any] = TypeAdapter(annotation)
                sections[name] = adapter.validate_json(json.dumps(given[name]), strict=True)
            except ValidationError:
                continue  # reported above
        elif not field.is_required():
            sections[name] = field.get_default(call_default_factory=True)
    return sections


def _checked(
    document: Document, sections: Mapping[str, Any], entries: Sequence[PassEntry | None], folder: Path, *, at_work: bool
) -> list[str]:
    """Everything that concerns more than one section, as far as the sections are right. Gives notes."""
    notes: list[str] = []
    if (model := sections.get("model")) is not None:
        checks.model(document, model)
    if (task := sections.get("task")) is not None:
        task_checks.task(document, task)
    if (data := sections.get("data")) is not None and "task" in sections:
        notes += task_checks.data(document, data, task)
    if model is not None and sections.get("targets") is not None:
        notes += checks.unused_sizes(model, sections["targets"])
    if sections.get("benchmark") is not None:
        notes += checks.benchmark(sections["benchmark"])
    if (targets := sections.get("targets")) is not None and (benchmark := sections.get("benchmark")) is not None:
        checks.targets(document, targets, benchmark, model)
    notes += checks.passes(document, entries, sections)
    checks.gates(document, sections)
    if (output_dir := sections.get("output_dir")) is not None and (name := sections.get("name")) is not None:
        paths.require_apart(document, folder, output_dir, name)
    if at_work:
        checks.references(document, {**sections, "passes": entries}, folder)
        paths.require_inputs(document, folder)
    return notes
