"""``accel explain``: why a quantized network is as fast, or as slow, as it is: two layer profiles, by nodes of the ONNX file.

ONNX files are profiled here, each in a child process; a TensorRT engine on a GPU, or from what ``trtexec`` saved of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from accel import catalog, onnx_file, onnx_quantized
from accel.atomic import write
from accel.benchmarks.explanation import Explanation, Side, explain
from accel.benchmarks.explanation_text import document, record, text
from accel.contracts import Backend, Finding, LayerProfile
from accel.errors import MissingBackend, UsageError
from accel.model import Target
from accel.profiling import profiled
from accel.rows import Subject
from accel.store import Store
from accel.timed_inputs import Sample

BACKENDS = ("onnxruntime", "openvino")
"""Those that profile an ONNX file as it is."""

FORMATS = ("text", "md", "json")


@dataclass(frozen=True)
class Given:
    """One file to profile. ``path``: ``.onnx``, or the layers that ``trtexec --exportLayerInfo`` saved (``.json``), or an
    ``.engine``; ``times``: what ``--exportProfile`` saved; ``onnx``: the file the engine was built from."""

    path: Path
    times: Path | None = None
    onnx: Path | None = None

    @property
    def measured(self) -> bool:
        return self.path.suffix == ".onnx"


def run(
    after: Given,
    before: Given | None,
    *,
    backends: Sequence[str],
    device: str,
    threads: int,
    batch_size: int,
    sizes: dict[str, int],
    rounds: int,
    queries: int,
    cache: Callable[[Path | None], Path],
    form: str,
    output: Path | None,
    out: Console,
) -> int:
    """``after`` against ``before`` on each of ``backends`` (by default all here), or, without ``before``, on the second of two
    backends against the first. UsageError for what cannot be compared, MissingBackend for a backend that is not here.
    """
    if form not in FORMATS:
        raise UsageError(f"--format: found {form!r}, allowed are {', '.join(FORMATS)}")
    for given in filter(None, (after, before)):
        _require(given)
    pairs = _pairs(after, before, _chosen(backends, device, any(each.measured for each in (after, before) if each)))
    target = _Machine(device, threads, batch_size, sizes)
    sides = _sides({side for pair in pairs for side in pair if side is not None}, target, rounds, queries, cache)
    found = [explain(None if first is None else sides[first], sides[last]) for first, last in pairs]
    _show(found, form, output, out)
    return 0


@dataclass(frozen=True)
class _Machine:
    device: str
    threads: int
    batch_size: int
    sizes: dict[str, int]


_Key = tuple[Given, str]
"""A file, and the backend it runs on."""


def _require(given: Given) -> None:
    """UsageError for a file of another kind, or one that lacks what belongs to it."""
    if given.path.suffix not in (".onnx", ".json", ".engine"):
        raise UsageError(
            f"{given.path}: found {given.path.suffix or 'no ending'}, allowed are .onnx, .engine, and the .json that"
            " trtexec --exportLayerInfo saved"
        )
    if given.measured and (given.times or given.onnx):
        raise UsageError(f"{given.path}: it is profiled here; saved times and --onnx go with layers that trtexec saved")
    if given.path.suffix == ".engine" and given.times:
        raise UsageError(f"{given.path}: an engine is timed here; saved times go with layers that trtexec saved")
    if given.measured:
        onnx_file.read(given.path)


def _chosen(names: Sequence[str], device: str, needed: bool) -> list[str]:
    if not needed:
        return []
    unknown = [name for name in names if name not in BACKENDS]
    if unknown:
        saved = "; name the layers that trtexec saved of an engine instead of an .onnx file" if "tensorrt" in unknown else ""
        raise UsageError(f"--backend: found {unknown[0]!r}, allowed are {', '.join(BACKENDS)}{saved}")
    missing = {name: _backend(name).unavailable(device) for name in dict.fromkeys(names or BACKENDS)}
    here = [name for name, reason in missing.items() if reason is None]
    if not here or (names and len(here) < len(missing)):
        raise MissingBackend("; ".join(reason for reason in missing.values() if reason))
    return here


def _pairs(after: Given, before: Given | None, backends: Sequence[str]) -> list[tuple[_Key | None, _Key]]:
    if before is None:
        keys = [(after, name) for name in backends] if after.measured else [(after, "tensorrt")]
        if len(keys) > 2:
            raise UsageError("explain: two backends are compared; give --backend twice, or --vs with another file")
        return [(keys[0], keys[1])] if len(keys) == 2 else [(None, keys[0])]
    if before == after:
        raise UsageError(f"{after.path}: given twice; --vs names the file to compare it with")
    return [
        ((before, name if before.measured else "tensorrt"), (after, name if after.measured else "tensorrt"))
        for name in backends or ["tensorrt"]
    ]


def _sides(
    keys: set[_Key], machine: _Machine, rounds: int, queries: int, cache: Callable[[Path | None], Path]
) -> dict[_Key, Side]:
    found = {key: _saved(key[0]) for key in keys if not key[0].measured}
    here = sorted((key for key in keys if key[0].measured), key=lambda key: (key[1], str(key[0].path)))
    if not here:
        return found
    store = Store(cache(None))
    store.open()
    with ExitStack() as stack:
        folder = stack.enter_context(store.run_folder())
        profiles = profiled(
            [_subject(*key, machine) for key in here],
            Sample(None, machine.batch_size, 0, machine.sizes),
            folder,
            rounds=rounds,
            queries=queries,
        )
    for key in here:
        given, backend = key
        told = profiles[_name(given, backend)]
        found[key] = _side(_name(given, backend), told.profile, given.path, backend, told.counted, told.notes)
    return found


def _saved(given: Given) -> Side:
    if given.path.suffix == ".engine":
        from accel.commands.layers import timed_here

        return _side(str(given.path), timed_here(given.path), given.onnx, "tensorrt")
    from accel.accelerate.engines.profile import profile_from_files

    return _side(str(given.path), profile_from_files(given.path, given.times, given.onnx), given.onnx, "tensorrt")


def _side(
    name: str,
    profile: LayerProfile,
    onnx: Path | None,
    backend: str,
    counted: tuple[int, int] | None = None,
    notes: Sequence[str] = (),
) -> Side:
    if onnx is None:
        why = "no ONNX file is named (--onnx), so which operators did not run in INT8 cannot be told"
        return Side(name, profile.layers, counted=counted, notes=(*notes, *profile.notes, why))
    findings: Sequence[Finding] = catalog.load(catalog.LINTS[backend])(onnx) if backend in catalog.LINTS else ()
    return Side(
        name,
        profile.layers,
        onnx_quantized.kinds(onnx),
        onnx_quantized.operators(onnx),
        tuple(findings),
        counted,
        (*notes, *profile.notes),
    )


def _name(given: Given, backend: str) -> str:
    return f"{given.path} on {backend}"


def _subject(given: Given, backend: str, machine: _Machine) -> Subject:
    path = given.path.absolute()
    target = Target(backend, backend, machine.device, threads=machine.threads, batch=machine.batch_size)
    model = {"kind": "onnx", "path": str(path)}
    return Subject(_name(given, backend), "result", None, target, model, path.parent, path)


def _backend(name: str) -> Backend:
    found: Backend = catalog.backend(name)
    return found


def _show(found: Sequence[Explanation], form: str, output: Path | None, out: Console) -> None:
    if form == "json":
        shown = json.dumps({"explanations": [record(each) for each in found]}, indent=2, allow_nan=False) + "\n"
    else:
        shown = "\n".join(document(each) if form == "md" else text(each) for each in found)
    if output is not None:
        write(output.absolute(), shown)
        out.print(Text(f"{output}: written"), soft_wrap=True)
    elif form == "text":
        out.print(Text(shown.removesuffix("\n")), soft_wrap=True)
    else:
        out.file.write(shown)
