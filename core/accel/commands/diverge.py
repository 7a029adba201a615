"""``accel diverge``: the first layer where an ONNX file on a backend disagrees with what it should give."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from accel import catalog, onnx_file, onnx_quantized
from accel.benchmarks.divergence import Divergence, Step
from accel.benchmarks.untrusted import plain
from accel.diverging import PLAIN, File, Module, divergence
from accel.errors import MissingBackend, UsageError
from accel.imports import configured_imports
from accel.model import Target
from accel.recipe.reader import read
from accel.store import Store
from accel.timed_inputs import Sample

SAME_FILE_DB, QUANTIZED_DB = 40.0, 10.0
"""Rounding in floats leaves 100 dB and more; in INT8, 20 to 40 dB of a layer, and less behind many."""

_AROUND = 3
_LONGEST = 100


def run(
    path: Path,
    against: Path | None,
    *,
    backend: str,
    vs_backend: str | None,
    inputs: Path | None,
    batch_size: int,
    sizes: dict[str, int],
    below_db: float | None,
    allowed: Sequence[str],
    cache: Callable[[Path | None], Path],
    as_json: bool,
    out: Console,
) -> int:
    """``against``: another ``.onnx`` file, a recipe for its torch module, or None for ``path`` itself without optimizations.

    Gives 1 where the two disagree, else 0. UsageError for files of other kinds, MissingBackend for a backend that is not here.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: found {path.suffix or 'no ending'}, allowed is .onnx")
    if below_db is not None and not isfinite(below_db):
        raise UsageError(f"--below: found {below_db}, allowed is a number of decibels")
    onnx_file.read(path)
    found = File(path.absolute(), Target(backend, _known(backend)))
    expected = _expected(path if against is None else against, vs_backend, allowed)
    if expected == found:
        raise UsageError(f"{path}: compared with itself; give --vs another file, or --vs-backend another backend")
    limit = below_db if below_db is not None else _usual_db(expected, found)
    store = Store(cache(None))
    store.open()
    with ExitStack() as stack:
        folder = stack.enter_context(store.run_folder())
        sample = Sample(None if inputs is None else str(_npz(inputs)), batch_size, 0, sizes)
        answer = divergence(expected, found, sample, folder, below_db=limit)
    if as_json:
        out.file.write(json.dumps(_record(answer), indent=2, allow_nan=False) + "\n")
    else:
        _show(answer, f"{path} on {backend}", _told(expected), out)
    return 0 if answer.first is None else 1


def _known(backend: str) -> str:
    if backend not in ("onnxruntime", "openvino"):
        raise UsageError(f"--backend: found {backend!r}, allowed are onnxruntime, openvino")
    reason = catalog.backend(backend).unavailable()
    if reason is not None:
        raise MissingBackend(reason)
    return backend


def _expected(path: Path, backend: str | None, allowed: Sequence[str]) -> File | Module:
    if path.suffix in (".yaml", ".yml"):
        recipe = read(path)
        if recipe.model.path:
            raise UsageError(f"{path}: its model is an ONNX file; name that file with --vs")
        return Module(path.absolute(), recipe.document(), (*configured_imports(recipe.folder), *allowed))
    if path.suffix != ".onnx":
        raise UsageError(f"{path}: found {path.suffix or 'no ending'}, allowed are .onnx, and .yaml for a recipe's torch model")
    onnx_file.read(path)
    return File(path.absolute(), PLAIN if backend is None else Target(backend, _known(backend)))


def _npz(path: Path) -> Path:
    if path.suffix != ".npz" or not path.is_file():
        raise UsageError(f"--inputs: {path}: allowed is an .npz file that has an array for each input")
    return path.absolute()


def _usual_db(expected: File | Module, found: File) -> float:
    """Lower where one side alone is quantized."""

    def quantized(side: File | Module) -> bool:
        return isinstance(side, File) and any(operator.data for operator in onnx_quantized.operators(side.path))

    return SAME_FILE_DB if quantized(expected) == quantized(found) else QUANTIZED_DB


def _told(expected: File | Module) -> str:
    if isinstance(expected, Module):
        return f"the torch model of {expected.path.name}"
    where = "ONNX Runtime without optimizations" if expected.target == PLAIN else expected.target.backend
    return f"{expected.path.name} on {where}"


def _record(answer: Divergence) -> dict[str, Any]:
    """JSON has no infinity: a ratio that is none is null, and then ``max_abs_difference`` tells."""
    return {
        "diverges": answer.first is not None,
        "first": None if answer.first is None else _finite(answer.first),
        "fused": answer.fused,
        "below_db": answer.below_db,
        "result": _finite(answer.result),
        "steps": [_finite(step) for step in answer.steps],
    }


def _finite(step: Step) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not isfinite(value) else value for name, value in asdict(step).items()}


def _show(answer: Divergence, found: str, expected: str, out: Console) -> None:
    def say(text: str) -> None:
        out.print(Text(plain(text, 400)), soft_wrap=True)

    first = answer.first
    if first is None:
        worst = min((step.sqnr_db for step in answer.steps if step.sqnr_db is not None), default=None)
        said = "the same throughout"
        if worst is not None:
            said = f"no layer is below {answer.below_db:g} dB (the worst: {worst:.1f} dB)"
        say(f"{found} agrees with {expected}: {said}")
        return
    say(f"{found} first differs from {expected} at {plain(first.node, _LONGEST)}: {_how(first)}")
    if answer.fused:
        say("only where what is before it is fused: each layer by itself is right, so a fusion of the runtime is to blame")
    names = [step.node for step in answer.steps]
    place = names.index(first.node) if first.node in names else 0
    for step in answer.steps[max(0, place - _AROUND) : place + _AROUND + 1]:
        mark = ">" if step.node == first.node else " "
        say(f"{mark} {plain(step.node, _LONGEST)}: {_how(step)}")
    lost = [step for step in answer.steps if step.lost_db is not None and step.lost_db > 6 and step.node != first.node]
    for step in sorted(lost, key=lambda step: -(step.lost_db or 0.0))[:_AROUND]:
        say(f"besides, {plain(step.node, _LONGEST)} loses {step.lost_db:.1f} dB of what it reads")
    say(f"the result: {_how(answer.result)}")


def _how(step: Step) -> str:
    if step.wrong:
        return step.wrong
    if step.sqnr_db is None:
        return "the same"
    return f"{step.sqnr_db:.1f} dB, at most {step.max_abs_difference:.3g} apart"
