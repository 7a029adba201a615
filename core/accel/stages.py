"""A model on its way through the passes: what a step leaves in the store, and how the next step gets it.

An ONNX file is left as it is; a torch module as origin, edits and weights (``accel.compress.saved``): what the next step works
on, what is measured and what ships is always what was read back.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel import catalog, onnx_file
from accel.contracts import Backend
from accel.errors import BackendFault, ModelFault, PassFault, WorkFault
from accel.feeding import in_float16
from accel.imports import ImportPolicy
from accel.model import Model, OnnxModel, Target, TorchModel, signature_from, signature_record
from accel.store import Entry

if TYPE_CHECKING:
    from accel.contracts import Array

_SAME = 1e-4
"""Of the largest value: what may lie between a module and itself read back. Kernels choose their order by memory layout."""

Execute = Callable[[Model, Mapping[str, "Array"]], Sequence["Array"]]


@dataclass(frozen=True)
class Stage:
    """A model by digest; ``load`` makes it only when a step really needs it."""

    digest: str
    load: Callable[[], Model]


def keep(key: str, result: Model, folder: Path, policy: ImportPolicy) -> dict[str, Any]:
    """Leave ``result`` in ``folder``, and give what the entry remembers of it. ``key``: the pass, for errors.

    PassFault for a module without an origin, which nothing could build again, and for one in training mode.
    """
    if isinstance(result, TorchModel):
        if result.origin is None:
            raise PassFault(f"{key}: gave a module without its origin; give on the model that it got, by dataclasses.replace")
        training = next((name or "the module" for name, part in result.module.named_modules() if part.training), None)
        if training is not None:
            raise PassFault(f"{key}: left {training} in training mode; call eval() on the module that it gives")
        from accel.compress import saved

        saved.save(result, folder, base=policy.folder)
        return {"kind": "torch", "main": None, "signature": signature_record(result.signature)}
    result = _inside(result, folder)
    main = result.path.relative_to(folder).as_posix()
    return {"kind": "onnx", "main": main, "signature": signature_record(result.signature)}


def describe(shipped: TorchModel, folder: Path, policy: ImportPolicy) -> None:
    """What a module that ships needs beside its weights to be loaded again."""
    from accel.compress import saved

    saved.describe(shipped, folder, base=policy.folder)


def added(given: Model, result: Model) -> list[str]:
    """The notes of a step: those of its result that the model did not bring along."""
    known = given.notes if isinstance(given, type(result)) else ()
    return [note for note in result.notes if note not in known]


def stored(entry: Entry, policy: ImportPolicy, seed: int) -> Stage:
    """The stage that a step left."""
    return Stage(entry.digest, lambda: read(entry.folder, entry.meta, policy, seed))


def read(folder: Path, meta: Mapping[str, Any], policy: ImportPolicy, seed: int) -> Model:
    """The model in ``folder`` that :func:`keep` wrote, giving ``meta``."""
    if meta["kind"] == "torch":
        from accel.compress import saved

        return saved.load_model(folder, policy=policy, seed=seed)
    return OnnxModel(path=folder / meta["main"], signature=signature_from(meta["signature"]))


def require_sound(key: str, result: Model, read_back: Model, inputs: Mapping[str, Array], execute: Execute) -> None:
    """PassFault naming the pass, for weights or outputs that are not finite, or a module that reads back as another one."""
    if isinstance(read_back, OnnxModel):
        onnx_file.require_finite(read_back.path)
    else:
        from accel import checkpoint

        try:
            checkpoint.require_finite(read_back.module)
        except ModelFault as error:
            raise PassFault(f"{key}: gave a model whose {error}") from None
    inputs = in_float16(inputs, read_back.signature.inputs)
    try:
        outputs = execute(read_back, inputs)
    except WorkFault as error:
        raise PassFault(f"{key}: gave a model that does not run: {error}") from error
    for spec, output in zip(read_back.signature.outputs, outputs, strict=True):
        require_finite_output(f"{key}: output {spec.name}", output)
    if isinstance(result, TorchModel):
        _require_same(key, result, outputs, execute(result, inputs))


def _require_same(key: str, result: TorchModel, found: Sequence[Array], wanted: Sequence[Array]) -> None:
    import numpy as np

    for spec, one, other in zip(result.signature.outputs, found, wanted, strict=True):
        if one.shape != other.shape:
            raise PassFault(
                f"{key}: the module does not read back as it was: output {spec.name} has shape {list(one.shape)} instead of"
                f" {list(other.shape)}"
            )
        reference = np.asarray(other, np.float64)
        largest = float(np.abs(reference).max(initial=0.0))
        difference = float(np.abs(np.asarray(one, np.float64) - reference).max(initial=0.0))
        if not difference <= _SAME * max(largest, 1e-6):  # nor where it is NaN
            raise PassFault(
                f"{key}: the module does not read back as it was: output {spec.name} differs by {difference:.3g} (largest value"
                f" {largest:.3g}); does its factory give something else each time, or does it keep state outside parameters and"
                " buffers?"
            )


def unchanged(given: Model, result: Model) -> bool:
    """Whether a step gave back what it was given."""
    if isinstance(given, OnnxModel) and isinstance(result, OnnxModel):
        return onnx_file.digest(given.path) == onnx_file.digest(result.path)
    if isinstance(given, TorchModel) and isinstance(result, TorchModel):
        from accel.rebuilding import state_digest

        return given.edits == result.edits and state_digest(given) == state_digest(result)
    return False


def execute(model: Model, inputs: Mapping[str, Array], cache: Path) -> list[Array]:
    """Run a model once: a module in PyTorch, a file on the first runtime that is here and can, or by onnx's own reference.

    The next one is tried where a runtime has no kernel for a node, as ONNX Runtime has none for BF16 on a CPU. Where none can,
    BackendFault of the first.
    """
    names = ("eager",) if isinstance(model, TorchModel) else ("onnxruntime", "openvino")
    first: BackendFault | None = None
    for name in names:
        backend: Backend = catalog.backend(name)
        if backend.unavailable() is None:
            try:
                with backend.compile(model, Target("check", name), cache) as runner:
                    return list(runner(inputs))
            except BackendFault as fault:
                first = first or fault
    if first is not None:
        raise first
    from onnx.reference import ReferenceEvaluator

    assert isinstance(model, OnnxModel)
    return list(ReferenceEvaluator(str(model.path)).run(None, dict(inputs)))


def require_finite_output(what: str, output: Array) -> None:
    """Raise PassFault if an output has NaN or infinite values."""
    import numpy as np

    if np.issubdtype(output.dtype, np.floating) and not np.isfinite(output).all():
        raise PassFault(
            f"{what} is not finite ({int((~np.isfinite(output)).sum())} of {output.size} values); check the weights"
        )


def _inside(model: OnnxModel, folder: Path) -> OnnxModel:
    """The model with its files in ``folder``: a pass may give back what it was given."""
    if model.path.is_relative_to(folder):
        return model
    for path in onnx_file.files(model.path):
        place = folder / path.relative_to(model.path.parent)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
    return replace(model, path=folder / model.path.name)
