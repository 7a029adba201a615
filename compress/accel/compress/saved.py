"""A torch model as files that need no pickle: how its factory builds it, what was done to it since, and its weights.

    edits.json          origin (factory and kwargs), the edits in order, the signature
    model.safetensors   parameters and buffers

Loading builds the factory's module, does the edits again and loads the weights strictly: pruned channels, removed blocks, masks
and modules prepared for quantization-aware training alike. What comes back can be trained further.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from accel import atomic, checkpoint
from accel.compress.edits import edits_of, from_json, replay_, to_json
from accel.errors import ModelFault, UsageError
from accel.imports import ImportPolicy
from accel.model import NeuralCompressed, Origin, QuantizeAware, Signature, TensorSpec, TorchModel
from accel.origin import TORCHVISION, build, seeded, torch_origin

RECORD = "edits.json"
WEIGHTS = "model.safetensors"
FORMAT = 1

Factory = Callable[..., nn.Module]


def save(
    model: TorchModel | nn.Module,
    folder: Path,
    *,
    factory: Factory | str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    example: Tensor | Sequence[Tensor] | None = None,
    base: Path | None = None,
) -> None:
    """Write ``edits.json`` and ``model.safetensors`` into ``folder``.

    ``factory``: what builds the untouched module, with ``kwargs``: the callable itself, or ``file.py:name`` or
    ``package.module:name``. A TorchModel that has an origin needs none. ``example``: inputs, for a module prepared for
    quantization-aware training, which has to be traced again. ``base``: files of code are named relative to it, by default to
    their own folder. Raises UsageError without a factory, ModelFault for weights that safetensors cannot hold, StorageFault.
    """
    text = _described(model, factory, kwargs, example, base)
    _make(folder)
    _write_weights(model.module if isinstance(model, TorchModel) else model, folder / WEIGHTS)
    atomic.write(folder / RECORD, text)


def describe(model: TorchModel, folder: Path, *, base: Path | None = None) -> None:
    """Write ``edits.json`` alone, beside weights that are there already; ``base`` and errors as for :func:`save`."""
    text = _described(model, None, None, None, base)
    _make(folder)
    atomic.write(folder / RECORD, text)


def _make(folder: Path) -> None:
    with atomic.storage_faults(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _described(
    model: TorchModel | nn.Module,
    factory: Factory | str | None,
    kwargs: Mapping[str, Any] | None,
    example: Tensor | Sequence[Tensor] | None,
    base: Path | None,
) -> str:
    module, origin, signature = model, None, None
    if isinstance(model, TorchModel):
        module, origin, signature = model.module, model.origin, model.signature
    assert isinstance(module, nn.Module)
    edits = edits_of(module)
    if factory is not None:
        origin = Origin(_reference(factory), dict(kwargs or {}), None, "")
    if origin is None:
        raise UsageError("a model that was made in Python cannot be built again by its weights alone; pass factory=")
    if signature is None:
        signature = _signature(example)
        if not signature.inputs and any(isinstance(edit, QuantizeAware | NeuralCompressed) for edit in edits):
            raise UsageError("a module with fake quantizers is traced again when it is loaded; pass example=")
    record = {
        "format": FORMAT,
        "origin": {"factory": _relative(origin.factory, base), "kwargs": dict(origin.kwargs), "digest": origin.digest},
        "signature": {
            "inputs": [_spec_record(spec) for spec in signature.inputs],
            "outputs": [_spec_record(spec) for spec in signature.outputs],
        },
        "edits": to_json(edits),
    }
    try:
        return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise UsageError(f"kwargs of the factory cannot be written as JSON: {error}; give plain values") from None


def load(folder: Path, *, factory: Factory | None = None, policy: ImportPolicy | None = None, seed: int = 0) -> nn.Module:
    """The saved module, in evaluation mode, ready to be trained further.

    ``factory``: the callable that builds the untouched module. Without it, the one that ``edits.json`` names is imported, which
    ``policy`` must allow. Raises UsageError without either, SafetyRefusal for code that is not allowed, ModelFault with the
    first difference where the edits or the weights do not fit what the factory builds.
    """
    return load_model(folder, factory=factory, policy=policy, seed=seed).module


def load_model(
    folder: Path, *, factory: Factory | None = None, policy: ImportPolicy | None = None, seed: int = 0
) -> TorchModel:
    """As :func:`load`, with its signature and origin."""
    record = _record(folder)
    what = f"{folder.name}/{RECORD}"
    try:
        origin = record["origin"]
        name, kwargs, digest = str(origin["factory"]), dict(origin["kwargs"]), str(origin["digest"])
        inputs, outputs = (tuple(map(_spec, record["signature"][side])) for side in ("inputs", "outputs"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelFault(f"{what}: damaged, or of a newer accel ({type(error).__name__}: {error})") from None
    signature = Signature(inputs, outputs)
    try:
        edits = from_json(record.get("edits"))
    except ModelFault as error:
        raise ModelFault(f"{what}: {error}") from None
    if factory is not None:
        with seeded(seed):
            module = factory(**kwargs)
        found = Origin(_reference(factory), kwargs, None, digest)
    elif policy is not None:
        named = {"torchvision": name.removeprefix(TORCHVISION)} if name.startswith(TORCHVISION) else {"factory": name}
        found = torch_origin(kwargs=kwargs, weights=None, policy=policy, **named)
        module = build(found, policy, seed)
        found = Origin(found.factory, kwargs, None, digest)
    else:
        raise UsageError(f"{what} names {name}; pass factory={name.rpartition(':')[2]}, or a policy that allows its import")
    if not isinstance(module, nn.Module):
        raise ModelFault(f"{name} returned a {type(module).__name__}, not a torch.nn.Module")
    try:
        module = replay_(module, edits, signature)
        checkpoint.load_(module, checkpoint.read(folder / WEIGHTS), f"{folder.name}/{WEIGHTS}")
    except ModelFault as error:
        raise ModelFault(f"{error} (built by {name})") from None
    return TorchModel(module=module.eval(), signature=signature, origin=found)


def _record(folder: Path) -> Mapping[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{folder}: holds no {RECORD}; a folder that accel.compress.saved.save wrote is expected") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelFault(f"{folder.name}/{RECORD}: cannot be read ({type(error).__name__}: {error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        found = record.get("format") if isinstance(record, dict) else type(record).__name__
        raise ModelFault(f"{folder.name}/{RECORD}: format {found!r}, this accel reads {FORMAT}")
    return record


def _write_weights(module: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_model

    partial = path.with_name(path.name + ".partial")
    try:
        with atomic.storage_faults(path):
            save_model(module, str(partial))
            partial.replace(path)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        atomic.require_room(path.parent)
        raise ModelFault(f"{path.name}: safetensors cannot hold these weights: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def _reference(factory: Factory | str) -> str:
    """``file.py:name`` for what stands in a script, ``package.module:name`` for what can be imported."""
    if isinstance(factory, str):
        return factory
    module, name = getattr(factory, "__module__", ""), getattr(factory, "__qualname__", "")
    if not name or "<" in name or "." in name:
        raise UsageError(f"factory: {name or factory!r} has no name of its own to be found by; give a function of a module")
    file = inspect.getsourcefile(inspect.unwrap(factory))
    if module == "__main__" or "." not in module:
        return f"{file}:{name}" if file else f"{module}:{name}"
    return f"{module}:{name}"


def _relative(reference: str, base: Path | None) -> str:
    """Without this machine's folders: the file's path below ``base``, or its name alone."""
    left, _, name = reference.rpartition(":")
    if not left.endswith(".py"):
        return reference
    path = Path(left)
    if base is not None and path.is_absolute() and path.is_relative_to(base.resolve()):
        return f"{path.relative_to(base.resolve()).as_posix()}:{name}"
    return f"{path.name}:{name}" if path.is_absolute() else reference


def _signature(example: Tensor | Sequence[Tensor] | None) -> Signature:
    tensors = [example] if isinstance(example, Tensor) else list(example or ())
    specs = [
        TensorSpec(f"input_{index}", ("batch", *map(int, tensor.shape[1:])), str(tensor.dtype).removeprefix("torch."))
        for index, tensor in enumerate(tensors)
    ]
    return Signature(tuple(specs), ())


def _spec_record(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _spec(record: Any) -> TensorSpec:
    shape = tuple(record["shape"])
    if not all(isinstance(axis, (int, str)) for axis in shape):
        raise ValueError(f"{shape} is no shape")
    getattr(torch, str(record["dtype"]))
    return TensorSpec(str(record["name"]), shape, str(record["dtype"]))
