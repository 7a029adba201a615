"""What names a step in the store: everything that decides its result, and nothing else.

Shared by ``plan``, which imports no user code, and by the builder, which runs the steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from accel import catalog
from accel.code_digest import of_folder, of_package
from accel.contracts import AheadOfTime, Pass, QuantizationProfile, Split
from accel.distributions import installed
from accel.errors import MissingBackend, UsageError
from accel.model import Target, TensorSpec
from accel.recipe.passes import takes
from accel.recipe.settings import Recipe
from accel.store import STORE_VERSION, digest_of
from accel.tasks.splits import part

_EXTRAS: Mapping[str, str] = {
    "onnxruntime": "onnxruntime",
    "nncf": "openvino",
    "openvino": "openvino",
    "torch-pruning": "prune",
    "torchao": "qat",
    "neural-compressor-pt": "neural-compressor",
}


SPLITS: tuple[Split, ...] = ("training", "calibration", "selection", "validation")


def library_version(distribution: str) -> str | None:
    """``1.32.0``, or ``1.32.0 (onnxruntime-gpu)`` for a flavour; None if it is not installed."""
    found = installed(distribution)
    if found is None:
        return None
    flavour, version = found
    return version if flavour == distribution else f"{version} ({flavour})"


def library_versions(distributions: tuple[str, ...], *, asked_by: str) -> dict[str, str]:
    """Versions by distribution. Raises MissingBackend naming who needs the absent one and the extra that brings it."""
    found = {}
    for distribution in distributions:
        version = library_version(distribution)
        if version is None:
            extra = _EXTRAS.get(distribution)
            way_out = f"pip install 'accel-toolkit[{extra}]'" if extra else f"pip install {distribution}"
            raise MissingBackend(f"{asked_by} needs {distribution}, which is not installed; {way_out}")
        found[distribution] = version
    return found


def missing(recipe: Recipe, target: Target) -> str | None:
    """None, or why the target cannot be served here: its backend, its device, or a library that a pass needs."""
    backend = catalog.backend(target.backend)
    ahead = isinstance(backend, AheadOfTime)
    reason: str | None = backend.cannot_build(target) if ahead else backend.unavailable(target.device)
    try:
        for key, a_pass in recipe.passes_for(target) if reason is None else ():
            library_versions(a_pass.libraries, asked_by=key)
    except MissingBackend as absent:
        return str(absent)
    return reason


def not_run(target: Target) -> str | None:
    """None, or why what is built for the target is not run here: it is meant for a device that this machine lacks."""
    backend = catalog.backend(target.backend)
    reason = backend.cannot_run(target) if isinstance(backend, AheadOfTime) else None
    return None if reason is None else f"built, not run: {reason}"


def settings_of(a_pass: Pass) -> dict[str, Any]:
    """The settings as JSON-ready values."""
    if not is_dataclass(a_pass):
        raise TypeError(f"{type(a_pass).__name__} is not a dataclass, as a pass has to be")
    return _plain({field.name: getattr(a_pass, field.name) for field in fields(a_pass)})


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def step_key(
    catalogue_key: str,
    a_pass: Pass,
    *,
    source: str,
    data: Mapping[str, Any],
    profile: QuantizationProfile | None,
    target: Target | None,
    seed: int,
    teacher: str | None = None,
    probe: Mapping[str, Any] | None = None,
) -> str:
    """The key of one step. ``source``: digest of the model that goes in; ``data``: split to digest, for the splits it needs,
    and :func:`use_of_data`.

    ``teacher``: digest of the model it learns from; ``probe``: what its timings depend on, and their number format.
    """
    return digest_of(
        {
            "store": STORE_VERSION,
            "pass": catalogue_key,
            "version": a_pass.version,
            "settings": settings_of(a_pass),
            "source": source,
            "data": dict(data),
            "profile": None if profile is None else _dialect(profile),
            "target": None if target is None else asdict(target),
            "seed": seed,
            "teacher": teacher,
            "probe": None if probe is None else dict(probe),
            "libraries": library_versions(a_pass.libraries, asked_by=catalogue_key),
        }
    )


def use_of_data(recipe: Recipe, a_pass: Pass) -> dict[str, Any]:
    """What decides a step's result beside the samples: how many a module sees together, and what selection is judged by.

    A metric of the user's counts with the code that it can reach. Imports nothing.
    """
    found: dict[str, Any] = {}
    splits: tuple[Split, ...] = ("training", "calibration")  # passes on files take samples in batches of their own
    for split in splits if takes(type(a_pass)) == {"TorchModel"} else ():
        if split in a_pass.needs and (share := part(recipe.data, split, selects(recipe))) is not None:
            found[f"{split} batch"] = share.source.batch_size
    if "selection" in a_pass.needs and recipe.task is not None:
        found["metrics"] = [[metric, _code(metric, recipe.folder)] for metric in recipe.task.metrics]
    return found


def _code(metric: str, folder: Path) -> str:
    left = metric.rpartition(":")[0]
    return of_folder(folder) if left.endswith(".py") else of_package(left) if left else ""


def _dialect(profile: QuantizationProfile) -> dict[str, Any]:
    """What makes two profiles differ: ``engine`` chose the pass already; two targets may share what comes of one dialect."""
    return {field.name: getattr(profile, field.name) for field in fields(profile) if field.compare}


def deploy_key(target: Target, *, source: str) -> str:
    """The key of the files that ship for ``target``. Its name, ``optional`` and ``threads`` do not decide them."""
    backend = catalog.backend(target.backend)
    ahead = isinstance(backend, AheadOfTime)
    library = dict(backend.built_with(target)) if ahead else library_version(backend.distribution)
    return digest_of(
        {
            "store": STORE_VERSION,
            "deploy": target.backend,
            "precision": target.precision,
            "options": dict(target.options),
            "ranges": dict(target.ranges),
            "source": source,
            "library": library,
        }
    )


def source_digest(origin_digest: str, inputs: tuple[TensorSpec, ...], seed: int) -> str:
    """The digest of the untouched model: its origin, the inputs it is given, and the seed it is built with."""
    return digest_of({"origin": origin_digest, "inputs": [asdict(spec) for spec in inputs], "seed": seed})


def untouched_target(target: Target) -> Target:
    """The target of its baseline: FP32, unless the device has none; and the ONNX file as it is."""
    options = {key: value for key, value in target.options.items() if key != "format"}
    plain = replace(target, options=options)
    try:
        catalog.backend(target.backend).check_options(replace(plain, precision="fp32"))
    except UsageError:
        return plain
    return replace(plain, precision="fp32")


def declared_inputs(recipe: Recipe) -> tuple[TensorSpec, ...]:
    """The inputs that a recipe declares for a torch model."""
    return tuple(TensorSpec(entry.name, tuple(entry.shape), entry.dtype) for entry in recipe.model.inputs)


def selects(recipe: Recipe) -> bool:
    """Whether any pass chooses by selection data, which is then held back from the others."""
    return any("selection" in a_pass.needs for target in recipe.targets_resolved() for _, a_pass in recipe.passes_for(target))
