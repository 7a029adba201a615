"""Paths in a recipe: below its folder, or absolute on purpose; on the command line: anywhere, from where one stands."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from accel.errors import SafetyRefusal
from accel.recipe.document import Document
from accel.recipe.tree import Entries, Items, Location, Node, Scalar, dotted, find, shown
from accel.tasks.label_csv import OF_A_TAR, below

What = Literal["file", "folder", "output"]

_SPLITS = ("training", "calibration", "selection", "validation")


def settle(document: Document, folder: Path, current: Path) -> list[str]:
    """Refuse what escapes; make the relative paths of overrides absolute, from ``current``. Gives notes on absolute paths."""
    notes = []
    _require_beside(document)
    for location, _ in _paths(document.root):
        node = find(document.root, location)
        assert isinstance(node, Scalar)
        assert isinstance(node.value, str)
        text = node.value
        if refusal := _refusal(text, location, node.place.override):
            document.report_at(location, refusal)
        elif Path(text).is_absolute():
            notes.append(f"{dotted(location)} is absolute: {text}")
        elif node.place.override:
            absolute = os.path.normpath(current / text)
            document.root = _with(document.root, location, Scalar(absolute, node.place))
            notes.append(f"{dotted(location)} is absolute: {absolute}")
    return notes


def _require_beside(document: Document) -> None:
    """The CSV of a tar is in it, beside it or below that, whoever names it: no way out by an override."""
    for split in _SPLITS:
        location = ("data", split, "tar", "csv")
        node = find(document.root, location)
        if isinstance(node, Scalar) and isinstance(node.value, str):
            try:
                below(node.value, dotted(location), OF_A_TAR)
            except SafetyRefusal as refusal:
                document.report(node.place, str(refusal))


def _refusal(text: str, location: Location, override: str) -> str:
    """Why this path cannot be meant; empty if it can."""
    if not text:
        return "found an empty path"
    if text.startswith("~"):
        return f"found {shown(text)}; ~ is not expanded here: write an absolute path"
    if override or Path(os.path.normpath(text)).parts[:1] != (os.pardir,):
        return ""
    way = f"give an absolute path, or override it on the command line: {dotted(location)}=PATH"
    return f"{shown(text)} leaves the recipe's folder; {way}"


def require_inputs(document: Document, folder: Path) -> None:
    """Report every file and folder to be read that is not there."""
    for location, what, node in _inputs(document.root):
        path = folder / str(node.value)
        try:
            there = path.is_dir() if what == "folder" else path.is_file()
            wrong = "is not a" if path.exists() else "there is no such"
        except OSError:  # a name that the system cannot even look up
            there, wrong = False, "there is no such"
        if not there:
            way = "" if node.place.override else f"; override it with {dotted(location)}=PATH"
            document.report_at(location, f"{wrong} {what} {shown(str(path), 200)}{way}")


def require_apart(document: Document, folder: Path, output_dir: str, name: str) -> None:
    """Refuse an output folder that is the folder of the model, its weights or the data, or lies in a folder of images."""
    outputs = {Path(os.path.normpath(folder / output_dir / last)) for last in (".", name)}
    for location, what, node in _inputs(document.root):
        path = Path(os.path.normpath(folder / str(node.value)))
        if location[0] == "gates":
            replaced = Path(os.path.normpath(folder / output_dir / name))
            if replaced in path.parents and path != replaced / "report.json":  # that one is read before it is replaced
                document.report_at(location, f"{shown(str(node.value))} lies in the results, which the run replaces; move it")
            continue
        home = path if what == "folder" else path.parent
        inside = what == "folder" and any(home in output.parents for output in outputs)
        if home in outputs or inside:
            document.report_at(
                ("output_dir",),
                f"{shown(output_dir)} holds {dotted(location)} ({node.value}); results need a folder of their own",
            )


def _inputs(root: Node) -> Iterator[tuple[Location, What, Scalar]]:
    """Every path to something that is read, but for those that ``settle`` refuses."""
    for location, what in _paths(root):
        node = find(root, location)
        if what != "output" and isinstance(node, Scalar) and not _refusal(str(node.value), location, node.place.override):
            yield location, what, node


def _paths(root: Node) -> Iterator[tuple[Location, What]]:
    """Every path that is given as text, and what it should lead to."""
    candidates: list[tuple[Location, What]] = [
        (("output_dir",), "output"),
        (("cache_dir",), "output"),
        (("model", "path"), "file"),
        (("model", "weights"), "file"),
    ]
    for split in _SPLITS:
        candidates += [
            (("data", split, "arrays"), "file"),
            (("data", split, "arrays", "path"), "file"),
            (("data", split, "folder"), "folder"),
            (("data", split, "csv"), "file"),
            (("data", split, "csv", "path"), "file"),
            (("data", split, "csv", "root"), "folder"),
            (("data", split, "tar"), "file"),
            (("data", split, "tar", "path"), "file"),
            (("data", split, "torchvision", "root"), "folder"),
        ]
    listed = find(root, ("passes",))
    for index in range(len(listed.items) if isinstance(listed, Items) else 0):
        candidates.append((("passes", index, "teacher", "weights"), "file"))
    listed = find(root, ("gates",))
    for index in range(len(listed.items) if isinstance(listed, Items) else 0):
        stored = find(root, ("gates", index, "vs"))
        if isinstance(stored, Scalar) and str(stored.value).endswith(".json"):
            candidates.append((("gates", index, "vs"), "file"))
    for location, what in candidates:
        node = find(root, location)
        if isinstance(node, Scalar) and isinstance(node.value, str):
            yield location, what


def _with(node: Node, location: Location, value: Node) -> Node:
    if not location:
        return value
    part = location[0]
    if isinstance(node, Entries):
        return node.having(str(part), _with(node.entries[str(part)][1], location[1:], value))
    assert isinstance(node, Items)
    assert isinstance(part, int)
    return Items((*node.items[:part], _with(node.items[part], location[1:], value), *node.items[part + 1 :]), node.place)
