"""Pass entries: which classes an entry may mean, whether its settings suit them, and whether neighbours fit together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from accel import catalog
from accel.contracts import Pass
from accel.errors import UsageError

Kind = Literal["TorchModel", "OnnxModel"]
KINDS: tuple[Kind, ...] = ("TorchModel", "OnnxModel")
OWN_KEYS = ("type", "approach", "engine", "allow_noop")


class PassEntry(BaseModel):
    """One entry of ``passes``. ``settings`` are the pass's own, defaults filled in as far as all engines agree on them."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    type: str
    approach: str | None = None
    engine: str | None = None
    allow_noop: Annotated[bool, Field(description="The pass may find nothing to change")] = False
    settings: dict[str, Any] = Field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """As a recipe has it."""
        own = {"type": self.type, "approach": self.approach, "engine": self.engine}
        noop = {"allow_noop": True} if self.allow_noop else {}
        return {**{key: value for key, value in own.items() if value is not None}, **noop, **self.settings}


@dataclass(frozen=True)
class Leaf:
    """One class of the catalogue: ``key`` is ``type[/approach[/engine]]``."""

    key: str
    type: str
    approach: str | None
    engine: str | None
    reference: str


@dataclass(frozen=True)
class Refused:
    """Why a leaf does not take an entry's settings: pydantic's errors, or one of its own in their form."""

    leaf: Leaf
    errors: Sequence[Mapping[str, Any]]


def load(leaf: Leaf) -> type[Any]:
    """The leaf's class. Importing it is light; UsageError if a plug-in's is not there."""
    try:
        found: type[Any] = catalog.load(leaf.reference)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"the pass {leaf.key} cannot be loaded from {leaf.reference}: {error}") from None
    return found


def leaves() -> list[Leaf]:
    """Every leaf of the catalogue, in its order."""
    found = []
    for key, reference in catalog.passes().items():
        type_, approach, engine = (*key.split("/"), None, None)[:3]
        found.append(Leaf(key, str(type_), approach, engine, reference))
    return found


def leaves_of(type_: str, approach: str | None = None, engine: str | None = None) -> list[Leaf]:
    """The leaves that an entry may mean. None leaves the choice to the target's backend, and so does ``auto`` where no leaf is
    called so."""
    among = [leaf for leaf in leaves() if leaf.type == type_ and approach in (None, leaf.approach)]
    chosen = {leaf.approach for leaf in among if leaf.engine == "auto"}
    return [leaf for leaf in among if leaf.engine is None or _meant(leaf, engine, chosen)]


def _meant(leaf: Leaf, engine: str | None, chosen: set[str | None]) -> bool:
    """``chosen``: the approaches that have a leaf called ``auto``."""
    if engine == "auto" and leaf.approach not in chosen:
        engine = None
    return leaf.key not in catalog.ONLY_BY_NAME if engine is None else engine == leaf.engine


def engines_of(type_: str, approach: str | None) -> list[str]:
    """What ``engine`` may be in an entry; empty for a pass that has none."""
    found = [leaf.engine for leaf in leaves() if (leaf.type, leaf.approach) == (type_, approach) and leaf.engine is not None]
    return list(dict.fromkeys(["auto", *found])) if found else []


def default_engine(type_: str, approach: str | None) -> str | None:
    """What is written for an entry that names none: None where ``auto`` is an engine of its own."""
    own = any((leaf.type, leaf.approach, leaf.engine) == (type_, approach, "auto") for leaf in leaves())
    return "auto" if engines_of(type_, approach) and not own else None


def default_approach(type_: str) -> str | None:
    """The approach that is meant where none is named: the only one, or ``static``. None where there is none to choose."""
    approaches = list(dict.fromkeys(leaf.approach for leaf in leaves_of(type_) if leaf.approach is not None))
    if "static" in approaches:
        return "static"
    return approaches[0] if len(approaches) == 1 else None


def accept(leaf: Leaf, settings: Mapping[str, Any], allow_noop: bool = False) -> Pass | Refused:
    """The pass with these settings, or why it cannot have them."""
    found = load(leaf)
    given = {**settings, "allow_noop": True} if allow_noop and "allow_noop" in keys_of_pass(found) else settings
    try:
        made: Pass = adapter(found).validate_json(json.dumps(given), strict=True)
    except ValidationError as error:
        return Refused(leaf, error.errors(include_url=False))
    return made


def candidates(entry: PassEntry) -> list[tuple[Leaf, Pass]]:
    """The leaves that take the entry's settings, in the catalogue's order."""
    found = []
    for leaf in leaves_of(entry.type, entry.approach, entry.engine):
        made = accept(leaf, entry.settings, entry.allow_noop)
        if not isinstance(made, Refused):
            found.append((leaf, made))
    return found


def preferred_engine(backend: str) -> str | None:
    """The engine whose Q/DQ files the backend runs fast; None for a backend that is not known."""
    try:
        engine: str = catalog.backend(backend).quantization.engine
    except (KeyError, ImportError, AttributeError):
        return None
    return engine


def leaf_for(entry: PassEntry, backend: str) -> tuple[str, Pass]:
    """Catalogue key and pass for one target's backend: its own engine if that takes the settings, else the first that does."""
    found = candidates(entry)
    if not found:
        raise UsageError(f"no pass takes the settings of {entry.type}")
    wanted = preferred_engine(backend)
    leaf, made = next(((leaf, made) for leaf, made in found if leaf.engine == wanted), found[0])
    return leaf.key, made


def filled(settings: Mapping[str, Any], found: Sequence[tuple[Leaf, Pass]]) -> dict[str, Any]:
    """The settings with the defaults of the leaves in ``found``, as far as they all have them and agree."""
    dumps = [adapter(type(made)).dump_python(made, mode="json") for _, made in found]
    agreed = {
        key: value
        for key, value in dumps[0].items()
        if key not in OWN_KEYS and all(key in other and other[key] == value for other in dumps[1:])
    }
    return {**agreed, **{key: value for key, value in settings.items() if key not in agreed}}


def adapter(found: type[Any]) -> TypeAdapter[Any]:
    """What validates and dumps a pass class; cheap, since the class brings its own schema."""
    return TypeAdapter(found)


def keys_of_pass(found: type[Any]) -> Mapping[str, Any]:
    """Name to annotation of a pass's settings."""
    return {name: field.annotation for name, field in found.__pydantic_fields__.items()}


def takes(found: type[Any]) -> frozenset[Kind]:
    """The kinds of model that a pass's ``__call__`` is annotated to take."""
    annotations = found.__call__.__annotations__
    return _kinds(next((text for name, text in annotations.items() if name not in ("return", "job")), ""))


def gives(found: type[Any]) -> frozenset[Kind]:
    """The kinds of model that it is annotated to give."""
    return _kinds(found.__call__.__annotations__.get("return", ""))


def _kinds(annotation: Any) -> frozenset[Kind]:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    named = frozenset(kind for kind in KINDS if kind in text)
    return named or frozenset(KINDS)


def passed_on(found: type[Any], kind: Kind | None) -> Kind | None:
    """What comes out when ``kind`` goes in: the annotation, or the same kind where both are possible."""
    given = gives(found)
    return next(iter(given)) if len(given) == 1 else kind


def gives_file(found: type[Any]) -> bool:
    """Whether a module that goes in comes out as a file: what a backend that runs modules stands before."""
    return passed_on(found, "TorchModel") == "OnnxModel"


def kind_for_backend(name: str) -> Kind | None:
    """What a backend deploys: as its ``deploy`` is annotated; where that says any model, eager takes modules, others ONNX."""
    try:
        found = catalog.load(catalog.backends()[name])
    except (KeyError, ImportError, AttributeError):
        return None
    annotation = str(found.deploy.__annotations__.get("model", ""))
    named = [kind for kind in KINDS if kind in annotation]
    if len(named) == 1:
        return named[0]
    return "TorchModel" if name == "eager" else "OnnxModel"
