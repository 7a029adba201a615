"""What every child of a run builds again from the recipe: its task, and its untouched torch model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import cast

from accel import catalog, onnx_file
from accel.contracts import Pass, RecipeTask
from accel.errors import ModelFault, UsageError
from accel.imports import ImportPolicy
from accel.model import Model, Origin, Signature, TensorSpec, TorchModel
from accel.model_source import ModelSource
from accel.origin import torch_model, torch_origin
from accel.recipe.settings import Recipe
from accel.steps import SPLITS, declared_inputs, selects
from accel.store import digest_of


def make_task(recipe: Recipe, policy: ImportPolicy) -> RecipeTask | None:
    """The recipe's task, or None where it has no data."""
    if recipe.task is None or not any(getattr(recipe.data, split) for split in SPLITS):
        return None
    kind = catalog.load(catalog.tasks()[recipe.task.type])
    return cast(
        "RecipeTask",
        kind(
            recipe.task,
            recipe.data,
            policy=policy,
            inputs=Signature(task_inputs(recipe), ()),
            seed=recipe.seed,
            hold_selection=selects(recipe),
        ),
    )


def task_inputs(recipe: Recipe) -> tuple[TensorSpec, ...]:
    """The model's inputs: as the recipe declares them, or the ONNX file's own."""
    if recipe.model.path:
        return onnx_file.read(recipe.folder / recipe.model.path).signature.inputs
    return declared_inputs(recipe)


def untouched_module(recipe: Recipe, policy: ImportPolicy) -> TorchModel:
    """Build the recipe's torch model: user code runs here, in a child process."""
    settings = recipe.model
    origin = torch_origin(
        factory=settings.factory,
        torchvision=settings.torchvision,
        kwargs=settings.kwargs,
        weights=recipe.folder / settings.weights if settings.weights else None,
        policy=policy,
    )
    return torch_model(origin, declared_inputs(recipe), policy, recipe.seed)


def teacher_digest(
    recipe: Recipe, policy: ImportPolicy, a_pass: Pass, baseline: Callable[[], str | None], *, build: bool = False
) -> str | None:
    """What identifies the model that a pass learns from; None for a pass without one, or where ``baseline`` gives None.

    A teacher whose factory loads or draws its own weights is known by these alone: with ``build`` it is built, else None.
    Otherwise reads bytes and imports nothing.
    """
    if "teacher" not in a_pass.needs:
        return None
    chosen = a_pass.teacher  # type: ignore[attr-defined]
    if chosen == "baseline":
        return baseline()
    origin = _teacher_origin(recipe, policy, chosen)
    if origin.weights is not None:
        return origin.digest
    if not build:
        return None
    built = torch_model(origin, declared_inputs(recipe), policy, recipe.seed)
    return digest_of({"origin": origin.digest, "state": state_digest(built)})


def taught_by(recipe: Recipe, policy: ImportPolicy, a_pass: Pass, baseline: Callable[[], Model]) -> TorchModel | None:
    """The model that a pass learns from, built here; ``baseline`` gives the one before the first pass.

    Its notes are what is to be said of it alone: of the baseline nothing, which the run tells anyway.
    """
    if "teacher" not in a_pass.needs:
        return None
    chosen = a_pass.teacher  # type: ignore[attr-defined]
    if chosen != "baseline":
        try:
            built = torch_model(_teacher_origin(recipe, policy, chosen), declared_inputs(recipe), policy, recipe.seed)
        except (ModelFault, UsageError) as error:
            raise type(error)(f"teacher: {error}") from None
        return replace(built, notes=tuple(f"teacher: {note}" for note in built.notes))
    found = baseline()
    if not isinstance(found, TorchModel):
        raise UsageError("teacher: baseline is an ONNX file here, and only a torch model can teach; name one by its factory")
    return replace(found, notes=())


def _teacher_origin(recipe: Recipe, policy: ImportPolicy, source: ModelSource) -> Origin:
    return torch_origin(
        factory=source.factory,
        torchvision=source.torchvision,
        kwargs=source.kwargs or {},
        weights=recipe.folder / source.weights if source.weights else None,
        policy=policy,
    )


def state_digest(model: TorchModel) -> str:
    """sha256 over names, types, shapes and bytes of all parameters and buffers."""
    import torch

    total = hashlib.sha256()
    for name, value in model.module.state_dict().items():
        if isinstance(value, torch.Tensor):
            total.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
            total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
