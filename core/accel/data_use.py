"""What a recipe says about data, metrics and classes, held against what is there. Part of a child: it may import user code."""

from __future__ import annotations

import json

from accel.contracts import Split
from accel.errors import UsageError
from accel.imports import ImportPolicy, load
from accel.model import Signature
from accel.recipe.settings import Recipe


def source_of(recipe: Recipe, split: Split) -> str:
    """Where the samples of a split come from, as the recipe has it, for the report."""
    source = getattr(recipe.data, split)
    if source is None:
        return "split off"
    record = source.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    record.pop("batch_size", None)
    return json.dumps(record, ensure_ascii=False)


def require_metrics(recipe: Recipe, policy: ImportPolicy) -> None:
    """Import the user's metrics now: one that is not there should not be found out after everything is built."""
    for metric in recipe.task.metrics if recipe.task is not None else ():
        if ":" in metric:
            load(metric, policy)


def require_classes(recipe: Recipe, signature: Signature) -> list[str]:
    """UsageError where the first output does not fit ``task.classes``; a warning where there are outputs besides it."""
    if recipe.task is None or not signature.outputs:
        return []
    first, names = signature.outputs[0], getattr(recipe.task, "classes", None)
    width = first.shape[-1] if len(first.shape) == 2 else None
    if names is not None and isinstance(width, int) and width != len(names):
        raise UsageError(
            f"task.classes names {len(names)} classes, but output {first.name} of the model has {width} values; name all of"
            " them, in the order of the model's outputs"
        )
    if len(signature.outputs) > 1:
        others = ", ".join(spec.name for spec in signature.outputs[1:])
        return [f"the model has several outputs; {first.name}, the first, is what is scored, and not {others}"]
    return []
