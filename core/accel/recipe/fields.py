"""Which keys and words a place of a recipe may have, read from the annotations: for aliases and for "did you mean"."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from accel.recipe.tree import Location

_LONGEST_WORD = 60


def variants(annotations: Sequence[Any]) -> list[Any]:
    """Unions and ``Annotated`` taken apart."""
    found: list[Any] = []
    for annotation in annotations:
        origin = get_origin(annotation)
        if origin in (Union, UnionType):
            found += variants(get_args(annotation))
        elif origin is Annotated:
            found += variants(get_args(annotation)[:1])
        else:
            found.append(annotation)
    return found


def keys(annotations: Sequence[Any]) -> dict[str, list[Any]]:
    """Key to the annotations of its value, over all variants that are settings classes."""
    found: dict[str, list[Any]] = {}
    for variant in variants(annotations):
        for name, annotation in _fields(variant).items():
            found.setdefault(name, []).append(annotation)
    return found


def items(annotations: Sequence[Any]) -> list[Any]:
    """The annotations of a list's items."""
    found: list[Any] = []
    for variant in variants(annotations):
        if get_origin(variant) in (tuple, list, frozenset, set):
            found += [item for item in get_args(variant) if item is not Ellipsis]
    return found


def values(annotations: Sequence[Any]) -> list[Any]:
    """The annotations of a free mapping's values."""
    return [get_args(variant)[1] for variant in variants(annotations) if get_origin(variant) is dict]


def words(annotations: Sequence[Any]) -> list[str]:
    """The words that literals allow."""
    return [
        word
        for variant in variants(annotations)
        if get_origin(variant) is Literal
        for word in get_args(variant)
        if isinstance(word, str)
    ]


def below(annotations: Sequence[Any], location: Location) -> list[Any]:
    """The annotations at ``location``; parts that are no key there are passed over, as in ``tree.locate``."""
    found = list(annotations)
    for part in location:
        inner = items(found) if isinstance(part, int) else keys(found).get(part, values(found))
        found = inner or found
    return found


def suggestion(word: object, known: Sequence[str]) -> str:
    """``; did you mean 'x'?``, or nothing."""
    text = str(word)
    if len(text) > _LONGEST_WORD:
        return ""
    close = get_close_matches(text, known, n=1) or get_close_matches(text.lower(), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _fields(variant: Any) -> dict[str, Any]:
    if not isinstance(variant, type):
        return {}
    if issubclass(variant, BaseModel):
        return {name: field.annotation for name, field in variant.model_fields.items()}
    declared = getattr(variant, "__pydantic_fields__", None)
    if declared is not None:
        return {name: field.annotation for name, field in declared.items()}
    if dataclasses.is_dataclass(variant):
        hints = get_type_hints(variant)
        return {field.name: hints[field.name] for field in dataclasses.fields(variant)}
    return {}
