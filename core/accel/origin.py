"""Where a torch model comes from: naming it without importing anything, and building it when it is its turn.

``torch_origin`` reads names and bytes only, so that ``plan`` can look steps up in the store; ``build`` and ``torch_model``
import user code and belong into a child process.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import checkpoint, code_digest, imports
from accel.errors import ModelFault, UsageError
from accel.imports import ImportPolicy
from accel.model import Origin, TensorSpec, TorchModel
from accel.module_signature import observe, require_inputs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from accel.contracts import Array

TORCHVISION = "torchvision.models:"
"""How the origin of a torchvision model begins."""


def torch_origin(
    *,
    factory: str | None = None,
    torchvision: str | None = None,
    kwargs: Mapping[str, Any],
    weights: Path | None,
    policy: ImportPolicy,
) -> Origin:
    """The origin of ``factory(**kwargs)`` or of torchvision's model ``torchvision``, with a digest of all that decides it.

    The digest covers the weights' bytes, the kwargs, and for a file every ``.py`` below the recipe's folder, for a package its
    version (see ``code_digest``); without weights, torch's version too, which decides the random ones. Imports nothing.
    Raises as ``imports.check``, and UsageError for weights that are not there.
    """
    if (factory is None) == (torchvision is None):
        raise UsageError("model: give one of factory and torchvision")
    if torchvision is not None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", torchvision):
            raise UsageError(f"model.torchvision: {torchvision!r} is not the name of a model, such as resnet18")
        reference, code = TORCHVISION + torchvision, "torchvision " + _version("torchvision")
    else:
        reference = str(factory)
        imports.check(reference, policy)
        left, _, name = reference.rpartition(":")
        if left.endswith(".py"):
            file = (policy.folder.resolve() / left).resolve()
            code = f"{file.relative_to(policy.folder.resolve()).as_posix()}:{name} {code_digest.of_folder(policy.folder)}"
            reference = f"{file}:{name}"
        else:
            code = f"{reference} {code_digest.of_package(left)}"
    if weights is not None and not weights.is_file():
        raise UsageError(f"model.weights: no file {weights}")
    record = {
        "code": code,
        "reference": torchvision or "",
        "kwargs": json.dumps(dict(kwargs), sort_keys=True, default=str),
        "weights": _file_digest(weights) if weights is not None else "random, torch " + _version("torch"),
    }
    digest = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    return Origin(reference, dict(kwargs), weights, digest)


def build(origin: Origin, policy: ImportPolicy, seed: int) -> nn.Module:
    """The untouched module in evaluation mode, its weights loaded strictly. Random numbers start from ``seed``.

    Imports user code. UsageError for kwargs the factory does not take; ModelFault where it fails or does not return a module.
    """
    module = _make(origin, policy, seed)
    if origin.weights is not None:
        checkpoint.load_(module, checkpoint.read(origin.weights), origin.weights.name)
    return module.eval()


def torch_model(
    origin: Origin,
    inputs: Sequence[TensorSpec],
    policy: ImportPolicy,
    seed: int,
    sample: Mapping[str, Array] | None = None,
) -> TorchModel:
    """Build the module, check its weights, and run it to learn its signature (``module_signature.observe``)."""
    require_inputs(inputs)
    module = _make(origin, policy, seed)
    notes = _mode_notes(module)
    if origin.weights is not None:
        checkpoint.load_(module, checkpoint.read(origin.weights), origin.weights.name)
    elif _differ(module, _make(origin, policy, seed + 1)):
        notes.append(f"weights are random (seed {seed}): no weights given, so its accuracy means nothing")
    module.eval()
    notes += checkpoint.require_finite(module)
    what = f"{_short(origin)}: forward on {', '.join(f'{spec.name} {list(spec.shape)} {spec.dtype}' for spec in inputs)}"

    def call(tensors: Sequence[Tensor]) -> Any:
        with imports.running(what, policy):
            return module(*tensors)

    try:
        signature = observe(module, inputs, seed=seed, sample=sample, call=call)
    except ModelFault as error:
        raise error if str(error).startswith(what) else ModelFault(f"{_short(origin)}: {error}") from None
    return TorchModel(module=module, signature=signature, origin=origin, notes=tuple(notes))


def _make(origin: Origin, policy: ImportPolicy, seed: int) -> nn.Module:
    """What the factory returns, as it returns it."""
    import torch

    what = _short(origin)
    if origin.factory.startswith(TORCHVISION):
        factory, kwargs = _torchvision_builder(origin)
    else:
        factory, kwargs = imports.load(origin.factory, policy), dict(origin.kwargs)
    if isinstance(factory, torch.nn.Module):
        raise UsageError(f"{what} is a module that is built already; name the class or a function that builds it")
    try:
        inspect.signature(factory).bind(**kwargs)
    except TypeError as error:
        raise UsageError(f"{what}: model.kwargs do not fit: {error}") from None
    except ValueError:
        pass  # built in C, without a signature: the call itself will tell
    with seeded(seed), imports.running(what, policy):
        module = factory(**kwargs)
    if not isinstance(module, torch.nn.Module):
        raise ModelFault(f"{what} returned a {type(module).__name__}, not a torch.nn.Module")
    try:
        checkpoint.require_values(module)
    except ModelFault as error:
        raise ModelFault(f"{what}: {error}") from None
    return module


def _torchvision_builder(origin: Origin) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A builder and kwargs that download nothing: detection models fetch a backbone unless told not to."""
    from accel.torchvision_guard import import_torchvision

    models = import_torchvision().models
    name = origin.factory.removeprefix(TORCHVISION)
    try:
        builder: Callable[..., Any] = models.get_model_builder(name)
    except ValueError:
        raise UsageError(f"model.torchvision: no model {name!r}{_near(name, models.list_models())}") from None
    asked = [key for key in ("weights", "weights_backbone", "pretrained") if origin.kwargs.get(key)]
    if asked:
        raise UsageError(f"model.kwargs: {asked[0]} would download; save the weights to a file and name it as model.weights")
    taken = inspect.signature(builder).parameters
    fixed: dict[str, Any] = {key: None for key in ("weights", "weights_backbone") if key in taken}
    kwargs = {key: value for key, value in origin.kwargs.items() if key != "pretrained"}
    if name in ("googlenet", "inception_v3"):
        fixed.setdefault("init_weights", origin.weights is None)  # its default warns, and its scheme is slow
    return builder, {**fixed, **kwargs}


def _near(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's, numpy's and Python's global random numbers start from ``seed`` inside, and go on as before afterwards."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def _mode_notes(module: nn.Module) -> list[str]:
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    left = sorted(
        {type(each).__name__ for each in module.modules() if each.training and isinstance(each, (nn.Dropout, _BatchNorm))}
    )
    return [f"the factory returned it in training mode; set to evaluation mode ({', '.join(left)})"] if left else []


def _differ(first: nn.Module, second: nn.Module) -> bool:
    import torch

    pairs = zip(first.parameters(), second.parameters(), strict=False)
    return any(a.shape != b.shape or not torch.equal(a, b) for a, b in pairs)


def _short(origin: Origin) -> str:
    left, _, name = origin.factory.rpartition(":")
    return f"{Path(left).name if left.endswith('.py') else left}:{name}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"
