"""``accel plan``: the steps of a run, what is stored already, and what each target will get. Imports no user code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from accel import catalog, onnx_file
from accel.contracts import Backend, Pass, Split
from accel.errors import MissingBackend
from accel.imports import ImportPolicy, configured_imports
from accel.model import Target
from accel.origin import torch_origin
from accel.rebuilding import teacher_digest
from accel.recipe.checks import require_allowed
from accel.recipe.reader import read
from accel.recipe.settings import Recipe
from accel.steps import declared_inputs, missing, not_run, selects, settings_of, source_digest, step_key, use_of_data
from accel.store import Store
from accel.tasks.digests import split_digest
from accel.tasks.splits import part

_UNKNOWN = "known at run time"
_SHIPS = {"ir": "model.xml and model.bin", "engine": "model.engine and engine.json"}


@dataclass(frozen=True)
class PlannedStep:
    """``state``: ``cached``, ``to run``, or ``known at run time`` where an earlier result or user data decides the key."""

    name: str
    settings: dict[str, Any]
    state: str
    key: str | None


@dataclass(frozen=True)
class PlannedTarget:
    """``available``: None, or why the target cannot be served here."""

    name: str
    backend: str
    device: str
    precision: str
    optional: bool
    missing: str | None
    profile: dict[str, Any]
    format: str
    not_run: str | None = None
    steps: list[PlannedStep] = field(default_factory=list)


def run(
    path: Path,
    overrides: Sequence[str],
    *,
    output: Path | None,
    cache: Callable[[Path | None], Path],
    allowed: Sequence[str],
    as_json: bool,
    out: Console,
) -> int:
    """Exit code 0 also where a target is missing: the plan says so."""
    recipe = read(path, overrides)
    policy = ImportPolicy(recipe.folder, (*allowed, *configured_imports(recipe.folder)))
    require_allowed(recipe, policy)
    store = Store(cache(recipe.cache_folder))
    targets = [planned(recipe, target, store, policy) for target in recipe.targets_resolved()]
    final = (output.absolute() if output else recipe.folder / recipe.output_dir) / recipe.name
    document = {"recipe": recipe.name, "output": str(final), "cache": str(store.folder), "notes": list(recipe.notes)}
    if as_json:
        out.file.write(json.dumps({**document, "targets": [asdict(target) for target in targets]}, indent=2) + "\n")
        return 0

    def say(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    say(f"recipe {recipe.name}: output {final}, store {store.folder}")
    for note in recipe.notes:
        say(f"note: {note}")
    for target in targets:
        say(f"\ntarget {target.name}: {target.backend} on {target.device}, not quantized parts in {target.precision}")
        if target.missing:
            say(f"  {'skipped' if target.optional else 'missing'}: {target.missing}")
        for number, step in enumerate(target.steps, 1):
            say(f"  {number}. {step.name:32} {step.state}")
        dialect = target.profile
        files = _SHIPS.get(target.format, "model.onnx")
        how = target.not_run or "measured beside the untouched model"
        say(f"  ships {files}, {how}; a quantize pass writes {dialect['activation']} activations")
        say(f"  and {dialect['weight_granularity'].replace('_', '-')} weights for it")
    return 0


def planned(recipe: Recipe, target: Target, store: Store, policy: ImportPolicy) -> PlannedTarget:
    """The steps of one target, with the state of each."""
    backend: Backend = catalog.backend(target.backend)
    steps: list[PlannedStep] = []
    source = _source(recipe, policy)
    absent = missing(recipe, target)
    for key, a_pass in recipe.passes_for(target):
        name = _key(recipe, policy, key, a_pass, source, backend, target)
        entry = None if name is None else store.find(name, evict=False)
        state = _UNKNOWN if name is None else "cached" if entry else "to run"
        steps.append(PlannedStep(key, settings_of(a_pass), state, name))
        source = entry.digest if entry else None
    return PlannedTarget(
        target.name,
        target.backend,
        target.device,
        target.precision,
        target.optional,
        absent,
        asdict(backend.quantization),
        "engine" if target.backend == "tensorrt" else str(target.options.get("format", "onnx")),
        None if absent else not_run(target),
        steps,
    )


def _source(recipe: Recipe, policy: ImportPolicy) -> str | None:
    settings = recipe.model
    if settings.path:
        return onnx_file.digest(recipe.folder / settings.path)
    if settings.weights is None:
        return None  # the factory loads or draws its own: known when it is built
    origin = torch_origin(
        factory=settings.factory,
        torchvision=settings.torchvision,
        kwargs=settings.kwargs,
        weights=recipe.folder / settings.weights,
        policy=policy,
    )
    return source_digest(origin.digest, declared_inputs(recipe), recipe.seed)


def _key(
    recipe: Recipe, policy: ImportPolicy, key: str, a_pass: Pass, source: str | None, backend: Backend, target: Target
) -> str | None:
    """The step's key, or None where something that is only known at run time decides it."""
    if source is None:
        return None
    data = use_of_data(recipe, a_pass)
    for split in get_args(Split):
        if split in a_pass.needs:
            digest = _data_digest(recipe, split)
            if digest is None:
                return None
            data[split] = digest
    if "probe" in a_pass.needs:
        return None  # which may need data, and asks the machine: a run does that
    teacher = teacher_digest(recipe, policy, a_pass, lambda: _source(recipe, policy))
    if teacher is None and "teacher" in a_pass.needs:
        return None
    try:
        return step_key(
            key,
            a_pass,
            source=source,
            data=data,
            profile=backend.quantization if "profile" in a_pass.needs else None,
            target=target if "target" in a_pass.needs else None,
            seed=recipe.seed,
            teacher=teacher,
        )
    except MissingBackend:
        return None


def _data_digest(recipe: Recipe, split: Split) -> str | None:
    if recipe.task is None or part(recipe.data, split, selects(recipe)) is None:
        return None
    return split_digest(recipe.task, recipe.data, split, recipe.folder, seed=recipe.seed, hold_selection=selects(recipe))
