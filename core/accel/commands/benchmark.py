"""``accel benchmark``: latency, size and executed precision of model files, or of the files of a finished run, in turns.

Accuracy needs data, and so a recipe: ``accel optimize`` measures it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from accel import catalog
from accel.atomic import sha256_file
from accel.benchmarks.environment import describe
from accel.benchmarks.terminal import show
from accel.benchmarks.verdict import verdict
from accel.commands.report import load
from accel.contracts import Backend
from accel.display import display
from accel.errors import MissingBackend, UsageError
from accel.measuring import Bench, Subject
from accel.model import Target
from accel.publishing import read_resolved
from accel.recipe.settings import BenchmarkSettings
from accel.report import Report
from accel.store import Store

_FILE_BACKENDS = {".onnx": ("onnxruntime", "openvino"), ".xml": ("openvino",)}


def run(
    path: Path,
    *,
    backends: Sequence[str],
    against: Sequence[Path],
    threads: int,
    batch_size: int,
    duration_s: float,
    cache: Callable[[Path | None], Path],
    allowed: Sequence[str],
    as_json: bool,
    quiet: bool,
    out: Console,
    err: Console,
) -> int:
    """Rows of ``path`` are results where there is something to compare with (``against``), else all rows are compared."""
    role = "result" if against else "baseline"
    subjects = _subjects(path, role, backends, threads, batch_size)
    for other in against:
        subjects += _subjects(other, "baseline", backends, threads, batch_size)
    if len({subject.name for subject in subjects}) < len(subjects):
        raise UsageError("the same file is given twice; a pair of identical models is timed in any case, as the noise")
    settings = BenchmarkSettings(min_duration_s=duration_s, threads=(threads,), batch_sizes=(batch_size,))
    store = Store(cache(None))
    store.open()
    with ExitStack() as stack:
        screen = stack.enter_context(display(err, quiet=quiet or as_json))
        folder = stack.enter_context(store.run_folder())
        bench = Bench(
            settings, document=None, path=path.absolute(), allowed=allowed, folder=folder, sample=None, seed=0, screen=screen
        )
        rows, noise, method, warnings = bench.measure(subjects)
    report = Report(
        accel_version=version("accel-toolkit"),
        name=path.stem or "benchmark",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=0,
        recipe_sha256=sha256_file(path) if path.is_file() else "",
        verdict=verdict(rows),
        environment=describe(),
        rows=rows,
        noise=noise,
        notes=["inputs are seeded noise: accuracy needs data, and so a recipe"],
        warnings=warnings,
        method=method,
    )
    if as_json:
        out.file.write(report.json_text())
    else:
        show(report, out)
    failed = [row for row in rows if row.status == "failed"]
    if len(failed) == len(rows):
        raise MissingBackend("nothing could be measured:\n" + "\n".join(f"  {row.name}: {row.reason}" for row in failed))
    return 0


def _subjects(path: Path, role: str, backends: Sequence[str], threads: int, batch_size: int) -> list[Subject]:
    if path.is_dir():
        return _of_run(path, role, backends, threads, batch_size)
    if not path.is_file():
        raise UsageError(f"{path}: there is no such file or folder")
    known = _FILE_BACKENDS.get(path.suffix)
    if known is None:
        raise UsageError(f"{path}: found {path.suffix or 'no ending'}, allowed are .onnx, .xml and the folder of a run")
    for name in backends:
        if name not in known:
            raise UsageError(f"{path}: --backend: found {name!r}, allowed for {path.suffix} are {', '.join(known)}")
    missing = {name: _backend(name).unavailable() for name in backends or known}
    here = [name for name, reason in missing.items() if reason is None]
    if not here or (backends and len(here) < len(backends)):
        raise MissingBackend("; ".join(reason for reason in missing.values() if reason))
    folder = path.absolute().parent
    return [
        _subject(f"{path} on {name}", role, Target(name, name, threads=threads, batch=batch_size), path.absolute(), folder)
        for name in here
    ]


def _of_run(folder: Path, role: str, backends: Sequence[str], threads: int, batch_size: int) -> list[Subject]:
    report = load(folder)
    recipe = read_resolved(folder / "recipe.resolved.yaml")
    options = {target["name"]: target for target in recipe["targets"]}
    subjects = []
    for row in report.rows:
        if row.role != "result" or row.target is None or (backends and row.backend not in backends):
            continue
        place = folder / "targets" / row.target
        main = next((path for ending in ("*.xml", "*.onnx") for path in sorted(place.glob(ending))), None)
        if main is None:
            continue
        settings = options[row.target]
        target = Target(
            row.target,
            row.backend,
            row.device,
            settings["precision"],
            False,
            threads,
            settings.get("options") or {},
            batch_size,
        )
        subjects.append(_subject(f"{folder}/{row.target}", role, target, main.absolute(), place.absolute()))
    if not subjects:
        raise UsageError(f"{folder}: holds no result that can be measured" + (" on these backends" if backends else ""))
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
