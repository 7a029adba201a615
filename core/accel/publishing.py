"""What lies in the output folder beside the report: the resolved recipe, the manifests, the deployment scripts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from accel import catalog
from accel.benchmarks.manifest import manifest
from accel.benchmarks.snippet import deployment_snippet
from accel.contracts import SuitsFile
from accel.errors import UsageError
from accel.model import Target, signature_from
from accel.recipe.settings import Recipe
from accel.report import Report
from accel.tasks.image_files import list_folder
from accel.tasks.settings import EmbeddingSettings, ImageClassificationSettings, TextSettings


def resolved_recipe(recipe: Recipe) -> str:
    """The recipe with every default and override written out, as YAML that reads back the same from the same folder."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    text = io.StringIO()
    text.write(f"# Resolved by accel: defaults and overrides included. To run it again, put it back beside {recipe.path}.\n")
    yaml.dump(recipe.document(), text)
    return text.getvalue()


def read_resolved(path: Path) -> dict[str, Any]:
    """What :func:`resolved_recipe` wrote. UsageError where it cannot be read."""
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, YAMLError) as error:
        raise UsageError(f"{path}: cannot be read ({type(error).__name__}); run the recipe again") from None
    if not isinstance(document, dict):
        raise UsageError(f"{path}: is no recipe; run the recipe again")
    return document


def manifest_text(recipe: Recipe, report: Report, target: str, model: Mapping[str, Any]) -> str:
    """``manifest.json`` of one target. ``model``: what the builder says of the files that ship."""
    row = next(row for row in report.rows if row.target == target and row.role == "result")
    return manifest(
        report,
        row,
        main_file=model["main"] or "model.safetensors",
        signature=signature_from(model["signature"]),
        version=recipe.about.version,
        author=recipe.about.author or None,
        description=recipe.about.description or None,
        preprocessing=_preprocessing(recipe),
        classes=class_names(recipe),
    ).json_text()


def deployment(recipe: Recipe, target: Target, built: Mapping[str, Any]) -> str:
    """A script that runs the shipped file with the bare runtime; empty where none can be written."""
    from accel.tasks.preprocess import snippet

    model = built["model"]
    if isinstance(recipe.task, TextSettings):
        return ""  # it would have to repeat the tokenizer, which is code of the user's
    if target.backend == "eager" and (recipe.model.kwargs or recipe.passes):
        return ""  # the script would have to repeat the factory's arguments or the edits, which need not be writable as source
    backend = catalog.backend(target.backend)
    if not hasattr(backend, "runtime_settings"):
        return ""  # a backend of another distribution, which no script is known for either
    if isinstance(backend, SuitsFile) and model["main"]:
        settings = backend.runtime_settings_for(target, Path(built["folder"]) / model["main"])
    else:
        settings = backend.runtime_settings(target)
    try:
        return deployment_snippet(
            target.backend,
            model["main"] or "model.safetensors",
            signature_from(model["signature"]),
            snippet(recipe.task.preprocess if recipe.task else None),
            class_names(recipe),
            settings=settings,
            factory=recipe.model.factory,
        )
    except UsageError:
        return ""


def class_names(recipe: Recipe) -> tuple[str, ...] | None:
    """``task.classes``, or the subfolders that an image folder is labelled by, in the order of the labels."""
    if recipe.task is None or isinstance(recipe.task, EmbeddingSettings):
        return None
    if recipe.task.classes is not None:
        return recipe.task.classes
    for source in (recipe.data.validation, recipe.data.training, recipe.data.calibration):
        if source is not None and source.folder is not None:
            found = list_folder(recipe.folder / source.folder)
            return tuple(found.classes) if found.classes else None
    return None


def _preprocessing(recipe: Recipe) -> dict[str, Any] | None:
    from accel.tasks.preprocess import describe

    return describe(recipe.task.preprocess) if isinstance(recipe.task, ImageClassificationSettings) else None
