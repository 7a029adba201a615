"""``accel benchmark``: latency, size and executed precision of model files, or of the files of a finished run, in turns.

Accuracy needs data, and so a recipe: ``accel optimize`` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from accel import catalog, engine_file, onnx_file
from accel.accelerate import gpu_facts
from accel.accelerate.engines import library as tensorrt_library
from accel.accelerate.engines.manifest import require_fits
from accel.benchmarks.environment import describe
from accel.benchmarks.gate_checks import problems
from accel.benchmarks.gate_limits import vs_of
from accel.benchmarks.gate_settings import GateSettings
from accel.benchmarks.gate_text import parse
from accel.benchmarks.gates import exit_code
from accel.benchmarks.terminal import show
from accel.benchmarks.untrusted import lines
from accel.benchmarks.verdict import verdict
from accel.commands.axis_sizes import axis_sizes
from accel.commands.report import load
from accel.contracts import AheadOfTime, Backend
from accel.display import display
from accel.errors import MissingBackend, UsageError, WorkFault
from accel.gating import judged
from accel.measuring import Bench
from accel.model import Target
from accel.publishing import read_resolved
from accel.recipe.benchmark_settings import BenchmarkSettings
from accel.report import Report
from accel.rows import Subject
from accel.store import Store
from accel.timed_inputs import Sample

_FILE_BACKENDS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",), ".engine": ("tensorrt",)}


def run(
    path: Path,
    *,
    backends: Sequence[str],
    device: str,
    against: Sequence[Path],
    threads: int | None,
    batch_size: int | None,
    shapes: Sequence[str],
    duration_s: float,
    max_duration_s: float,
    pinning: bool,
    cache: Callable[[Path | None], Path],
    as_json: bool,
    quiet: bool,
    out: Console,
    err: Console,
    fail_on: Sequence[str] = (),
) -> int:
    """Rows of ``path`` are results where there is something to compare with (``against``), else all rows are compared.

    ``threads`` and ``batch_size``: by default what a finished run was measured with, else 1. ``fail_on``: gates, as gate_text
    has them; a difference is to the row of ``against`` on the same backend. Exit code 4 where a row failed, else that of the
    gates.
    """
    role = "result" if against else "baseline"
    method = load(path).method if path.is_dir() else {}
    threads, batch_size = threads or method.get("threads", 1), batch_size or method.get("batch_size", 1)
    chosen = _Chosen(backends, device, threads, batch_size)
    subjects = _subjects(path, role, chosen)
    for other in against:
        subjects += _subjects(other, "baseline", chosen)
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UsageError("the same file is given twice; a pair of identical models is timed in any case, as the noise")
    subjects, left_out = _runnable(subjects)
    gates = _gates(fail_on, subjects)
    settings = BenchmarkSettings(
        min_duration_s=duration_s,
        max_duration_s=max_duration_s,
        pinning=pinning,
        threads=(threads,),
        batch_sizes=(batch_size,),
    )
    machine = describe(gpus=gpu_facts.gpus())
    store = Store(cache(None))
    store.open()
    with ExitStack() as stack:
        screen = stack.enter_context(display(err, quiet=quiet or as_json))
        folder = stack.enter_context(store.run_folder())
        bench = Bench(
            settings,
            document=None,
            path=path.absolute(),
            allowed=(),
            folder=folder,
            sample=Sample(None, batch_size, 0, axis_sizes(shapes)),
            screen=screen,
            store=store.folder,
        )
        measured = bench.measure(subjects, gates=gates)
    report = Report(
        accel_version=version("accel-toolkit"),
        name=path.stem or "benchmark",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=0,
        recipe_sha256=None,
        verdict=verdict(measured.rows, measured.noise),
        environment=gpu_facts.after(machine),
        rows=list(measured.rows),
        noise=measured.noise,
        conditions=measured.conditions,
        notes=["inputs are seeded noise: accuracy needs data, and so a recipe"],
        warnings=[*measured.warnings, *left_out],
        method=dict(measured.method),
    )
    report = judged(report, gates, {})
    if as_json:
        out.file.write(report.json_text())
    else:
        show(report, out)
    failed = [row for row in measured.rows if row.status == "failed"]
    if len(failed) == len(measured.rows):
        err.print("accel: nothing could be measured:", markup=False, highlight=False)
    for row in failed:
        err.print(lines(f"accel: {row.name}: {row.reason}"), markup=False, highlight=False, soft_wrap=True)
    return WorkFault.exit_code if failed else exit_code(report.gates)


def _gates(expressions: Sequence[str], subjects: Sequence[Subject]) -> list[GateSettings]:
    """UsageError for a gate that cannot be judged here: a difference to nothing, or what needs data."""
    results = [subject for subject in subjects if subject.role == "result"]
    names = list(dict.fromkeys(name for one in results or subjects for name in (one.target.backend, one.name)))
    found = [parse(text, metrics={}, targets=names) for text in expressions]
    for text, settings in zip(expressions, found, strict=True):
        if vs_of(settings) is not None and not results:
            raise UsageError(
                f"--fail-on {text!r}: a difference to what? Name another file with --vs, or limit the value itself"
            )
        for _, problem in problems(settings, metrics={}, scenarios=("single_stream",), percentiles=(50, 90, 99), judged=False):
            raise UsageError(f"--fail-on {text!r}: {problem}")
    return found


@dataclass(frozen=True)
class _Chosen:
    backends: Sequence[str]
    device: str
    threads: int
    batch_size: int

    def target(self, backend: str) -> Target:
        return Target(backend, backend, self.device, threads=self.threads, batch=self.batch_size)


def _subjects(path: Path, role: str, chosen: _Chosen) -> list[Subject]:
    if path.is_dir():
        return _of_run(path, role, chosen)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder")
    known = _FILE_BACKENDS.get(path.suffix)
    if known is None:
        raise UsageError(
            f"{path}: found {path.suffix or 'no ending'}, allowed are .onnx, .xml, .engine and the folder of a run"
        )
    onnx_file.read(path)  # a file that cannot be right is told once, not for each backend
    for name in chosen.backends:
        if name not in known:
            built = "; `accel optimize` builds the engine that it runs" if name == "tensorrt" else ""
            raise UsageError(f"{path}: --backend: found {name!r}, allowed for {path.suffix} are {', '.join(known)}{built}")
    if path.suffix == ".engine":
        return [_of_engine(path, role, chosen)]
    missing = {name: _backend(name).unavailable(chosen.device) for name in chosen.backends or known}
    here = [name for name, reason in missing.items() if reason is None]
    if not here or (chosen.backends and len(here) < len(chosen.backends)):
        raise MissingBackend("; ".join(reason for reason in missing.values() if reason))
    folder = path.absolute().parent
    return [_subject(f"{path} on {name}", role, chosen.target(name), path.absolute(), folder) for name in here]


def _runnable(subjects: Sequence[Subject]) -> tuple[list[Subject], list[str]]:
    """Those that can run here, and a warning for each that was built for a device that is not. MissingBackend if none can."""
    absent = {subject.name: reason for subject in subjects if (reason := _cannot_run(subject.target)) is not None}
    if len(absent) == len(subjects):
        raise MissingBackend("\n".join(f"{name}: {reason}" for name, reason in absent.items()))
    here = [subject for subject in subjects if subject.name not in absent]
    return here, [f"{name} was left out: {reason}" for name, reason in absent.items()]


def _of_engine(path: Path, role: str, chosen: _Chosen) -> Subject:
    """An engine runs on a GPU only, whatever the default device, and with the library that built it.

    What is wrong with the files is told first, also where there is no GPU.
    """
    manifest = engine_file.read(path)
    engine_file.require_intact(path, manifest)
    if tensorrt_library.problem(manifest.library) is None:
        require_fits(manifest, path, tensorrt_library.chosen(manifest.library), None)
    target = replace(chosen.target("tensorrt"), device="gpu", options={"library": manifest.library})
    sentence = _cannot_run(target)
    if sentence is not None:  # what was asked for by name is not left out
        raise MissingBackend(f"{path}: {sentence}")
    return _subject(f"{path} on {target.backend}", role, target, path.absolute(), path.absolute().parent)


def _cannot_run(target: Target) -> str | None:
    """None, or one sentence: why what was built ahead of time for ``target`` cannot run here."""
    backend = _backend(target.backend)
    return backend.cannot_run(target) if isinstance(backend, AheadOfTime) else None


def _of_run(folder: Path, role: str, chosen: _Chosen) -> list[Subject]:
    report = load(folder)
    recipe = read_resolved(folder / "recipe.resolved.yaml")
    settings = {target["name"]: target for target in recipe["targets"]}
    subjects = []
    for row in report.rows:
        if row.role != "result" or row.target is None or (chosen.backends and row.backend not in chosen.backends):
            continue
        place = folder / "targets" / row.target
        main = next((path for ending in ("*.engine", "*.xml", "*.onnx") for path in sorted(place.glob(ending))), None)
        if main is None:
            continue
        found = settings[row.target]
        target = replace(
            chosen.target(row.backend),
            name=row.target,
            device=row.device,
            precision=found["precision"],
            options=found.get("options") or {},
        )
        subjects.append(_subject(f"{folder}/{row.target}", role, target, main.absolute(), place.absolute()))
    if not subjects:
        raise UsageError(f"{folder}: holds no result that can be measured" + (" on these backends" if chosen.backends else ""))
    return subjects


def _subject(name: str, role: str, target: Target, main: Path, folder: Path) -> Subject:
    return Subject(
        name=name,
        role="result" if role == "result" else "baseline",
        target_name=None,
        target=target,
        model={"kind": "onnx", "path": str(main)},
        folder=folder,
        main=main,
    )


def _backend(name: str) -> Backend:
    found: Backend = catalog.backend(name)
    return found
